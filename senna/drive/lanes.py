"""From meta-actions to motion along the lanes of the town.

SPEED is an acceleration that the published rule would call so (`senna.meta_actions.label_trajectories`): it takes 1.5 m/s^2 or
more to gain or lose 3 m/s between the first and the last of its steps, which are 2 s apart. KEEP leaves a range open, in which
the probabilities of a driver choose. PATH selects a lane. The vehicle holds the speed limit and slows down for the bends of
its own lane by itself; everything else is decided.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from senna.drive.simulator import TICK, TICKS, EgoState, Motion
from senna.meta_actions import ALL_META_ACTIONS, FUTURE_STEPS, STEP, STOP_SPEED, MetaAction
from senna.synthetic.world.town import (
    BLOCK,
    DIRECTIONS,
    LANE_OFFSETS,
    NODES,
    STOP_LINE_DISTANCE,
    TURN_ACCELERATION,
    TURN_RADIUS,
    Route,
    make_route,
    node_at,
)
from senna.synthetic.world.traffic import CHANGE_TIME

ACCELERATIONS = {"ACCELERATE": 1.8, "KEEP": 0.0, "DECELERATE": -2.1, "STOP": -3.0}
"""m/s^2 of each SPEED. The drivers of the drawn world accelerate with up to 2.0 and brake with 2.1 for a stop line."""

KEPT = 1.4  # m/s^2: KEEP accelerates and brakes by no more
ROLLING = 0.75  # m/s^2 with which KEEP goes to STOP_SPEED from below: a plan that stays below it for 3 s would be STOP
JERK = 6.0  # m/s^3, by which the acceleration approaches that of the decision
LATE = LANE_OFFSETS[1] - LANE_OFFSETS[0]  # metres after the place for a turn at which it can still begin
CHANGE_SPEED = 5.0  # m/s below which a lane change takes longer
HARDEST_FOR_BENDS = 3.5  # m/s^2
_SIDES = {"LEFT_TURN": ("left", 1), "RIGHT_TURN": ("right", -1)}
_CHANGES = {"LEFT_CHANGE": LANE_OFFSETS[0], "RIGHT_CHANGE": LANE_OFFSETS[1]}


@dataclass(frozen=True)
class Lane:
    """A lane of a road, seen from a point beside its centre line.

    Attributes:
        node: the intersection ahead, None behind the last one.
        before: metres to its centre; negative between the centre and the exit.
        heading: an index into ``DIRECTIONS``.
        offset: metres from the road's centre to the lane, to the right; one of ``LANE_OFFSETS``.
        left: metres from the lane's centre line to the point, to the left.
        point: the nearest point on the centre line.
    """

    node: tuple[int, int] | None
    before: float
    heading: int
    offset: float
    left: float
    point: tuple[float, float]


def lane_at(x: float, y: float, yaw: float) -> Lane:
    """Return the lane at a point, in the direction of travel that is nearest to `yaw`."""
    heading = round(yaw / (math.pi / 2)) % 4
    offsets = np.array([node_at(node) for node in NODES]) - [x, y]  # (4, 2)
    ahead, to_road = offsets @ DIRECTIONS[heading], offsets @ DIRECTIONS[heading - 1]
    right = -float(to_road[np.abs(to_road).argmin()])
    offset = min(LANE_OFFSETS, key=lambda lane: abs(lane - right))
    on_road = (np.abs(to_road + right) < BLOCK / 2) & (ahead > 1 - STOP_LINE_DISTANCE)
    x, y = (np.array([x, y]) + (offset - right) * DIRECTIONS[heading - 1]).tolist()
    if not on_road.any():
        return Lane(None, math.inf, heading, offset, offset - right, (x, y))
    index = int(np.argmin(np.where(on_road, ahead, np.inf)))
    return Lane(NODES[index], float(ahead[index]), heading, offset, offset - right, (x, y))


class LaneFollower:
    """The ego vehicle on the lanes: it turns a decision every 0.5 s into the motion until the next one.

    A lane change and a turn that have begun are finished, whatever is decided meanwhile. A turn begins at its place in the
    intersection if the decision then, or up to 4.5 m later, says so. A change to a lane that does not exist, in an
    intersection, or during another change is ignored.

    Args:
        speed_limit: of the road, in m/s.
    """

    def __init__(self, speed_limit: float) -> None:
        self.speed_limit = speed_limit

    def start(self, ego: EgoState) -> None:
        """Begin at a state of the ego vehicle, in the nearest lane."""
        self.speed, self.acceleration = ego.speed, ego.acceleration
        self._enter(lane_at(ego.x, ego.y, ego.yaw), "STRAIGHT")
        self.left = self.begin = 0.0
        self.change = 1.0  # progress of the lane change, 0 to 1
        self.lateral_speed = 0.0

    def __call__(self, decision: MetaAction, probabilities: Sequence[float] | None = None) -> Motion:
        """Return the motion of the next step. The arguments are those of `wanted_acceleration`."""
        self._choose(decision.path)
        return Motion(tuple(self._tick(decision, probabilities) for _ in range(TICKS)))

    def _choose(self, path: str) -> None:
        """Select the route from here, unless a turn is under way."""
        first, last = self.bend
        if first <= self.along < last:
            return
        lane = lane_at(*self.route.at(self.along, 0.0))
        offset = _CHANGES.get(self._meaning(path, lane), lane.offset)
        if offset != lane.offset and self.change >= 1.0 and abs(lane.before) > STOP_LINE_DISTANCE:
            self._shift(offset - lane.offset)
            x, y, _ = self.route.at(self.along, lane.offset - offset)
            lane = replace(lane, offset=offset, point=(x, y))
        elif self.change >= 1.0 and abs(lane.left) > 1e-6:  # after a late turn, which ends between two lanes
            self._shift(lane.left)
        self._enter(lane, path)

    def _meaning(self, path: str, lane: Lane) -> str:
        """Return a turn as a lane change where the vehicle cannot reach its intersection in the 3 s of a plan.

        The published rule calls every way that leads 4 m aside at more than 5 degrees a turn: a lane change below 17 m/s.
        """
        turn, side = _SIDES.get(path, ("", 0))
        seconds = FUTURE_STEPS * STEP
        reach = seconds * self.speed + ACCELERATIONS["ACCELERATE"] / 2 * seconds**2
        if side and lane.before + side * lane.offset - TURN_RADIUS[turn] > reach:
            return path.replace("TURN", "CHANGE")
        return path

    def _shift(self, left: float) -> None:
        """Begin to move to a lane from whose centre line the vehicle is `left` metres to the left."""
        self.left = self.begin = self.left + left
        self.change = 0.0

    def _enter(self, lane: Lane, path: str) -> None:
        """Set `route`, which begins here, and `bend`, the metres along it at which its turn begins and ends."""
        turn, side = _SIDES.get(path, ("straight", 0))
        self.along, self.bend = 0.0, (math.inf, math.inf)
        if lane.node is None:
            self.route = _straight_route(lane)
            return
        if side:
            radius = TURN_RADIUS[turn]
            first = lane.before + side * lane.offset - radius
            if -LATE <= first < 1.0:
                self.route, self.bend = _turn_here(lane, side, radius), (0.0, float(_metres(radius)))
                return
            if first >= 1.0:
                self.bend = (first, first + radius * math.pi / 2)
            else:
                turn = "straight"
        self.route = make_route(lane.node, lane.heading, lane.before, lane.offset, (turn,))

    def _tick(self, decision: MetaAction, probabilities: Sequence[float] | None) -> EgoState:
        before = self.speed
        allowed = min(self.speed_limit, speed_limit_at(self.route, self.along, before))
        wanted = wanted_acceleration(decision, before, probabilities)
        self.speed, self.acceleration = next_speed(wanted, before, self.acceleration, allowed)
        self.along += (before + self.speed) / 2 * TICK
        self._change_lane()
        x, y, yaw = self.route.at(self.along, self.left)
        yaw += math.atan2(self.lateral_speed, max(self.speed, 1.0))
        return EgoState(x, y, yaw, float(self.speed), float(self.acceleration))

    def _change_lane(self) -> None:
        """Go on with a lane change: a fifth-degree polynomial of time with zero speed at both ends, as in the traffic."""
        if self.change >= 1.0:
            return
        rate = change_rate(self.speed)
        self.change = min(self.change + rate * TICK, 1.0)
        done = self.change
        self.left = self.begin * change_left(done)
        self.lateral_speed = -self.begin * 30 * done**2 * (1 - done) ** 2 * rate
        if done >= 1.0 - 1e-9:
            self.left, self.lateral_speed, self.change = 0.0, 0.0, 1.0


def wanted_acceleration(decision: MetaAction, speed: float, probabilities: Sequence[float] | None = None) -> float:
    """Return the acceleration in m/s^2 that a decision means.

    KEEP means the mean of ACCELERATIONS by the probabilities, up to ``KEPT``: a car that has started and is 70 % sure to keep
    its speed and 25 % to accelerate still accelerates a little, as the drivers do whose motion the rule calls KEEP.

    Args:
        speed: now, in m/s.
        probabilities: (20,) of the meta-actions; None for a driver without, whose KEEP holds the speed.
    """
    wanted = ACCELERATIONS[decision.speed]
    if decision.speed != "KEEP":
        return wanted
    if probabilities is not None:
        mean = float(np.dot(probabilities, [ACCELERATIONS[action.speed] for action in ALL_META_ACTIONS]))
        wanted = min(max(mean, -KEPT), KEPT)
    return max(wanted, ROLLING) if speed < STOP_SPEED + 0.1 else wanted


def next_speed(wanted: float, speed: float, acceleration: float, allowed: float) -> tuple[float, float]:
    """Return speed and acceleration one tick later.

    Args:
        wanted: acceleration in m/s^2, see `wanted_acceleration`.
        speed, acceleration: now.
        allowed: the speed that is not exceeded, in m/s.
    """
    wanted = min(wanted, max(2.0 * (1 - (speed / max(allowed, 0.1)) ** 4), -HARDEST_FOR_BENDS))
    acceleration += min(max(wanted - acceleration, -JERK * TICK), JERK * TICK)
    later = max(0.0, speed + acceleration * TICK)
    return later, (later - speed) / TICK


def speed_limit_at(route: Route, along: float, speed: float) -> float:
    """Return the speed limit of a route's bends for a vehicle `along` metres from its start."""
    soon = min(int(along + speed * 0.3), len(route.speed_limits) - 1)
    return float(route.speed_limits[soon])


def change_rate(speed: float) -> float:
    """Return the progress of a lane change per second."""
    return min(1.0, speed / CHANGE_SPEED) / CHANGE_TIME


def change_left(done: float) -> float:
    """Return the share of a lane change that is left at a progress of 0 to 1."""
    return 1 - done**3 * (10 - 15 * done + 6 * done**2)


def _straight_route(lane: Lane) -> Route:
    """Return 300 m straight on from here."""
    points = np.array(lane.point) + np.arange(300.0)[:, None] * DIRECTIONS[lane.heading]
    return Route(points, np.full(300, lane.heading * math.pi / 2), np.full(300, math.inf), ())


def _turn_here(lane: Lane, side: int, radius: float) -> Route:
    """Return a quarter circle that begins here, with a point about every metre, and 60 m of the road after it."""
    forward, right = DIRECTIONS[lane.heading], DIRECTIONS[lane.heading - 1]
    bend = np.linspace(0, math.pi / 2, _metres(radius) + 1)[:, None]
    arc = np.array(lane.point) + radius * (np.sin(bend) * forward - side * (1 - np.cos(bend)) * right)
    points = np.concatenate([arc, arc[-1] - side * np.arange(1.0, 61.0)[:, None] * right])
    yaws = lane.heading * math.pi / 2 + side * np.concatenate([bend[:, 0], np.full(60, math.pi / 2)])
    limits = np.where(np.arange(len(points)) < len(arc), math.sqrt(TURN_ACCELERATION * radius), math.inf)
    return Route(points, yaws, limits, ())


def _metres(radius: float) -> int:
    """Return the length of a quarter circle in whole metres."""
    return round(radius * math.pi / 2)
