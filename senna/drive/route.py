"""From meta-actions to a planned path along the route of another simulator, of which no lanes are known.

Frame of the vehicle ("rig" in AlpaSim): metres, x forward, y left, the origin on the ground below the rear axle. SPEED is that
of `senna.drive.lanes`. A change of lanes moves by ``LANE``, and the route says where a turn is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from senna.drive.lanes import CHANGE_SPEED, change_left, change_rate, next_speed, speed_limit_at, wanted_acceleration
from senna.drive.simulator import TICK, TICKS
from senna.meta_actions import FUTURE_STEPS, KEEP_STRAIGHT, STEP, MetaAction
from senna.navigation import SECONDS, command_to
from senna.synthetic.world.town import TURN_ACCELERATION, TURN_DECELERATION, Route
from senna.synthetic.world.traffic import CHANGE_TIME

LANE = 3.5  # metres to the next lane, as in CARLA's towns and on most roads
ASIDE = 4.0  # metres: a route that leads further aside turns (the published rule has the same limit)
LEAST = 30.0  # metres: the navigation command looks at least so far, or a car that stands would never get the command to turn
STEEPEST = math.radians(30.0)  # between the vehicle and its route, at the start of a plan
FARTHER = 30.0  # metres that are driven farther in 3 s than at the same speed, at most, and some more
_BEND = 3  # metres before and after a point over which the curvature is measured
_BEYOND = 600.0  # metres that a route goes straight on behind its end
_SIDES = {"LEFT": 1, "RIGHT": -1}


class RigRoute:
    """A route as the vehicle sees it: from the nearest point on.

    Args:
        waypoints: (N, 2) in the frame of the vehicle, N >= 0. Without two points, the route goes straight on.

    Attributes:
        route: a point every metre; 600 m straight on behind the last waypoint.
        length: metres to the last waypoint.
        left: metres from the route to the vehicle, to the left.
    """

    def __init__(self, waypoints: ArrayLike) -> None:
        points = _ahead(np.asarray(waypoints, dtype=np.float64).reshape(-1, 2))
        lengths = np.linalg.norm(np.diff(points, axis=0), axis=1)
        self.length = float(lengths.sum())
        points = np.concatenate([points, points[-1:] + _BEYOND * (points[-1:] - points[-2:-1]) / lengths[-1]])
        along = np.concatenate([[0.0], np.cumsum([*lengths, _BEYOND])])
        metres = np.arange(int(along[-1]) + 1, dtype=float)
        xy = np.stack([np.interp(metres, along, points[:, axis]) for axis in (0, 1)], axis=1)
        yaws = np.unwrap(np.arctan2(*np.gradient(xy, axis=0).T[::-1]))
        self.route = Route(xy, yaws, _speed_limits(yaws), ())
        (x, y), yaw = xy[0], yaws[0]
        self.left = float(x * math.sin(yaw) - y * math.cos(yaw))

    def command(self, speed: float) -> str:
        """Return the navigation command: where the vehicle is on its route in 6 s if it keeps its speed, as in records."""
        along, acceleration = 0.0, 0.0
        for _ in range(round(SECONDS / TICK)):
            wanted = wanted_acceleration(KEEP_STRAIGHT, speed)
            speed, acceleration = next_speed(wanted, speed, acceleration, speed_limit_at(self.route, along, speed))
            along += speed * TICK
        x, y, _ = self.route.at(max(along, LEAST))
        return command_to(-y, x)

    def turns(self, side: int) -> bool:
        """Return whether the route turns to a side, 1 for left, before its last waypoint."""
        aside = side * (self.route.points[: int(self.length) + 1, 1] - self.route.points[0, 1])
        return bool(aside.max() > ASIDE)


class RouteFollower:
    """The plans of a drive: meta-actions along the route. A lane change that has begun is finished, as in `LaneFollower`."""

    def __init__(self) -> None:
        self.side, self.change = 0, 1.0  # of a lane change, and its progress, 0 to 1
        self.time = 0.0
        self.accelerations: list[float] = []  # of the last plan, which began at `time`

    def __call__(
        self,
        decision: MetaAction,
        here: RigRoute,
        speed: float,
        time: float,
        speed_limit: float = math.inf,
        probabilities: Sequence[float] | None = None,
    ) -> NDArray[np.float64]:
        """Return the plan for the next 3 s, (30, 3): x, y and yaw every 0.1 s.

        Args:
            decision, probabilities: as in `wanted_acceleration`.
            speed: m/s.
            time: seconds; it grows from call to call.
            speed_limit: of the road, in m/s.
        """
        elapsed = max(0.0, time - self.time)
        self.change = min(1.0, self.change + elapsed * change_rate(speed))
        side = self._side(decision.path, here)
        if side and self.change >= 1.0:
            self.side, self.change = side, 0.0
        # To the centre of the lane in which the change ends. Some simulators move the route to the new lane meanwhile.
        target = LANE * round((here.left + self.side * LANE * change_left(self.change)) / LANE)
        path, lengths = _path(here, target, speed)
        acceleration, moved, at = self._planned(elapsed), 0.0, []
        self.time, self.accelerations = time, [acceleration]
        for _ in range(FUTURE_STEPS * TICKS):
            before, along = speed, float(np.interp(moved, lengths, np.arange(len(lengths))))
            allowed = min(speed_limit, speed_limit_at(here.route, along, before))
            wanted = wanted_acceleration(decision, before, probabilities)
            speed, acceleration = next_speed(wanted, before, acceleration, allowed)
            moved += speed * TICK  # a simulator may send the mean speed of a tick for that at its end
            at.append(moved)
            self.accelerations.append(acceleration)
        return np.stack([np.interp(at, lengths, column) for column in path.T], axis=1)

    def _side(self, path: str, here: RigRoute) -> int:
        """Return the side of the lane change that a PATH means, 0 for none.

        The published rule calls a lane change below 17 m/s a turn, so a turn that the route does not have is one.
        """
        name, _, motion = path.partition("_")
        side = _SIDES.get(name, 0)
        return 0 if motion == "TURN" and here.turns(side) else side

    def _planned(self, elapsed: float) -> float:
        """Return the acceleration that the last plan has now: simulators need not send the vehicle's."""
        tick = round(elapsed / TICK)
        return self.accelerations[tick] if tick < len(self.accelerations) else 0.0


def _path(here: RigRoute, target: float, speed: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a path from the vehicle to `target` metres left of the route, on a cubic polynomial of the metres along it.

    Returns:
        (P, 3) x, y and yaw for each metre of the route that can be reached in 3 s; (P,) the length of the path up to each.
    """
    count = int(FUTURE_STEPS * STEP * speed + FARTHER)
    points, yaws = here.route.points[:count], here.route.yaws[:count]
    reach = max(speed, CHANGE_SPEED) * CHANGE_TIME
    share = np.minimum(np.arange(len(points)) / reach, 1.0)
    slope = math.tan(min(max(math.remainder(-yaws[0], 2 * math.pi), -STEEPEST), STEEPEST))
    still = 1 + share**2 * (2 * share - 3)  # 1 at the vehicle, 0 at the target
    left = target + (here.left - target) * still + slope * reach * share * (1 - share) ** 2
    rate = (here.left - target) * 6 * share * (share - 1) / reach + slope * (1 - share) * (1 - 3 * share)
    xy = points + left[:, None] * np.stack([-np.sin(yaws), np.cos(yaws)], axis=1)
    lengths = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(xy, axis=0), axis=1))])
    return np.concatenate([xy, (yaws + np.arctan(rate))[:, None]], axis=1), lengths


def _ahead(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the part of a polyline from the point nearest to the origin on, (M, 2), M >= 2, without points that repeat."""
    if len(points):
        points = points[np.concatenate([[True], np.linalg.norm(np.diff(points, axis=0), axis=1) > 1e-3])]
    if len(points) < 2:
        return np.array([[0.0, 0.0], [1.0, 0.0]])
    starts, steps = points[:-1], np.diff(points, axis=0)
    shares = -(starts * steps).sum(axis=1) / (steps**2).sum(axis=1)
    # The first and the last segment go on without an end: the vehicle may be before or behind them.
    shares[1:], shares[:-1] = np.maximum(shares[1:], 0.0), np.minimum(shares[:-1], 1.0)
    feet = starts + shares[:, None] * steps
    nearest = int(np.linalg.norm(feet, axis=1).argmin())
    foot, rest = feet[nearest], points[nearest + 1 :]
    if np.linalg.norm(rest[0] - foot) < 1e-3:
        rest = rest[1:]
    if not len(rest) or shares[nearest] > 1.0:
        rest = foot[None] + steps[nearest]
    return np.concatenate([foot[None], rest])


def _speed_limits(yaws: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the speed limit (N,) of the bends of a route with a point every metre; it falls gradually before a bend."""
    padded = np.pad(yaws, _BEND, mode="edge")
    curvature = np.abs(padded[2 * _BEND :] - padded[: -2 * _BEND]) / (2 * _BEND)
    limits = np.sqrt(TURN_ACCELERATION / np.maximum(curvature, 1e-6))
    for i in range(len(limits) - 2, -1, -1):
        limits[i] = min(limits[i], math.sqrt(limits[i + 1] ** 2 + 2 * TURN_DECELERATION))
    return limits
