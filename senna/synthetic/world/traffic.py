"""The simulation of traffic: drivers that follow a lane, keep their distance, obey signals and overtake; and pedestrians.

Car following is the intelligent driver model (Treiber, Hennecke and Helbing, "Congested traffic states in empirical
observations and microscopic simulations", 2000), with time steps of ``TICK`` seconds. The frame and units are those of
`senna.synthetic.world.town`: metres, seconds, m/s, radians. The module contains no random numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from senna.synthetic.render.people import CYCLIST_SIZE, WALKER_SIZE
from senna.synthetic.render.scene import VEHICLE_SIZES
from senna.synthetic.world.sensors import EGO_SIZE
from senna.synthetic.world.town import LANE_WIDTH, Route, Signals, Stop

TICK = 0.1  # seconds
ACCELERATION, COMFORTABLE_BRAKING, HARDEST_BRAKING = 2.0, 3.5, 6.0  # m/s^2
HEADWAY, STANDSTILL_GAP = 1.2, 2.5  # seconds, metres
LINE_BRAKING = 2.0  # m/s^2: a driver begins to brake for a stop line when this much deceleration is needed
YELLOW_BRAKING = 3.0  # m/s^2: a driver who would have to brake harder continues at yellow
REACTION = 1.0  # seconds from green to the start
SIGNAL_DISTANCE = 110.0  # metres from which a driver obeys a signal
LOOKAHEAD, LOOKBEHIND = 75, 12  # metres of lane that a driver watches
CHANGE_TIME = 2.8  # seconds that a lane change takes
CHANGE_GAP = 60.0  # metres to slower traffic at which a driver begins to overtake
CHANGE_SPEED_DIFFERENCE = 4.5  # m/s that the traffic ahead must be slower than the desired speed


@dataclass(frozen=True)
class Mover:
    """A road user.

    Attributes:
        kind: one of VEHICLE_KINDS, or "ego", "bicycle" or "pedestrian".
        colour: the body colour of a vehicle, a key of BODY_COLOURS.
        tone: a number that selects the colours of clothes.
    """

    kind: str
    colour: str = "white"
    tone: int = 0

    @property
    def size(self) -> tuple[float, float, float]:
        """Length, width and height in metres."""
        others = {"ego": EGO_SIZE, "bicycle": CYCLIST_SIZE, "pedestrian": WALKER_SIZE}
        return others.get(self.kind) or VEHICLE_SIZES[self.kind]


@dataclass
class Driver:
    """The state of a road user that follows a route.

    Attributes:
        along: metres from the start of the route to the centre of the vehicle.
        desired: the speed in m/s that the driver wants to reach.
        overtakes: True where the driver may change lanes.
        left: metres to the left of the route.
        lateral_speed: m/s to the left.
        change: a lane change in progress: start time, `left` before it, `left` after it.
        position: x, y and yaw of the centre of the vehicle.
    """

    mover: Mover
    route: Route
    along: float
    speed: float
    desired: float
    overtakes: bool = False
    left: float = 0.0
    lateral_speed: float = 0.0
    acceleration: float = 0.0
    change: tuple[float, float, float] | None = None
    position: tuple[float, float, float] = field(default=(0.0, 0.0, 0.0))

    def update_position(self) -> None:
        """Compute `position` from the state on the route."""
        x, y, yaw = self.route.at(self.along, self.left)
        self.position = (x, y, yaw + math.atan2(self.lateral_speed, max(self.speed, 1.0)))

    @property
    def nose(self) -> float:
        """Metres from the start of the route to the front of the vehicle."""
        return self.along + self.mover.size[0] / 2

    @property
    def is_finished(self) -> bool:
        """True when the driver has reached the end of the route."""
        return self.along >= self.route.length - 1


@dataclass(frozen=True)
class Walk:
    """A pedestrian who stands at `start` (x, y) until time `begins`, then walks `distance` metres in direction `yaw`."""

    mover: Mover
    start: tuple[float, float]
    yaw: float
    speed: float
    begins: float
    distance: float

    def at(self, time: float) -> tuple[float, float, float, float]:
        """Return x, y, yaw and speed at a time."""
        done = min(max(time - self.begins, 0.0) * self.speed, self.distance)
        speed = self.speed if 0 < done < self.distance else 0.0
        return self.start[0] + done * math.cos(self.yaw), self.start[1] + done * math.sin(self.yaw), self.yaw, speed


@dataclass(frozen=True, eq=False)
class Tracks:
    """The result of a simulation.

    Attributes:
        movers: the N road users. The first one is the ego vehicle.
        states: (T, N, 5) x, y, yaw, speed and acceleration of their centres, every ``TICK`` seconds; NaN after a road user
            has left the town.
    """

    movers: tuple[Mover, ...]
    states: np.ndarray


def simulate(drivers: list[Driver], walks: list[Walk], signals: Signals, seconds: float) -> Tracks:
    """Simulate from time 0 to `seconds`, inclusive.

    Args:
        drivers: the drivers in their initial states, the ego vehicle first. Their states are changed.
        walks: the pedestrians.
    """
    ticks = round(seconds / TICK) + 1
    states = np.full((ticks, len(drivers) + len(walks), 5), np.nan)
    for tick in range(ticks):
        time = tick * TICK
        for driver in drivers:
            driver.update_position()
        for index, driver in enumerate(drivers):
            if not driver.is_finished:
                states[tick, index] = (*driver.position, driver.speed, driver.acceleration)
        for index, walk in enumerate(walks, len(drivers)):
            states[tick, index] = (*walk.at(time), 0.0)
        advance(drivers, walks, signals, time)
    return Tracks(tuple(d.mover for d in drivers) + tuple(w.mover for w in walks), states)


def advance(
    drivers: list[Driver], walks: list[Walk], signals: Signals, time: float, steered: Driver | None = None
) -> None:
    """Move all drivers by one tick.

    Args:
        drivers: drivers whose `position` is that at `time`. Their states are changed.
        steered: a driver among them that somebody else moves. The others see it, and it is left unchanged.
    """
    present = [driver for driver in drivers if not driver.is_finished or driver is steered]
    obstacles = _Obstacles(present, [walk.at(time) for walk in walks])
    for index, driver in enumerate(present):
        if driver is steered:
            continue
        if driver.overtakes:
            _consider_lane_change(driver, obstacles, index, time)
        driver.acceleration = _acceleration(driver, obstacles, index, signals, time)
    for driver in present:
        if driver is not steered:
            _advance(driver, time)


class _Obstacles:
    """All road users at one tick as an array (M, 6) of x, y, yaw, speed, length and width: drivers, then pedestrians."""

    def __init__(self, drivers: list[Driver], pedestrians: list[tuple[float, float, float, float]]):
        rows = [(*d.position, d.speed, d.mover.size[0], d.mover.size[1]) for d in drivers]
        rows += [(*pedestrian, WALKER_SIZE[0], WALKER_SIZE[1]) for pedestrian in pedestrians]
        self.rows = np.array(rows)

    def near(self, driver: Driver, index: int) -> np.ndarray:
        """Return the rows near and ahead of a driver, without the driver's own row `index`."""
        x, y, yaw = driver.position
        east, north = self.rows[:, 0] - x, self.rows[:, 1] - y
        ahead = east * math.cos(yaw) + north * math.sin(yaw)
        near = (ahead > -LOOKBEHIND) & (east**2 + north**2 < (LOOKAHEAD + 10) ** 2)
        near[index] = False
        return self.rows[near]


def _lane_coordinates(driver: Driver, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the positions of obstacles (M, 6) relative to a driver's lane, each (M,).

    They are the metres ahead along the lane (NaN where the obstacle is before or after the watched part of the lane), the
    metres to the left of the lane's centre, and the speed along the lane.
    """
    first = int(driver.along)
    lane = driver.route.points[max(first - LOOKBEHIND, 0) : first + LOOKAHEAD]
    yaws = driver.route.yaws[max(first - LOOKBEHIND, 0) : first + LOOKAHEAD]
    east, north = rows[:, :1] - lane[:, 0], rows[:, 1:2] - lane[:, 1]  # (M, metres of the lane) each
    nearest = np.argmin(east**2 + north**2, axis=1)
    obstacle, yaw = np.arange(len(rows)), yaws[nearest]
    east, north, cos, sin = east[obstacle, nearest], north[obstacle, nearest], np.cos(yaw), np.sin(yaw)
    forward, left = east * cos + north * sin, north * cos - east * sin
    ahead = np.where(np.abs(forward) < 2, nearest + max(first - LOOKBEHIND, 0) + forward - driver.along, np.nan)
    return ahead, left, rows[:, 3] * np.cos(rows[:, 2] - yaw)


def _leader(driver: Driver, obstacles: _Obstacles, index: int, left: float) -> tuple[float, float]:
    """Return the gap in metres to the next obstacle ahead, `left` metres beside the route, and its speed.

    The gap is infinite where there is no obstacle.
    """
    rows = obstacles.near(driver, index)
    if not len(rows):
        return math.inf, 0.0
    ahead, offsets, speeds = _lane_coordinates(driver, rows)
    alignment = np.abs(np.cos(rows[:, 2] - driver.position[2]))
    length = rows[:, 4] * alignment + rows[:, 5] * (1 - alignment)
    width = rows[:, 5] * alignment + rows[:, 4] * (1 - alignment)
    in_lane = (ahead > 0) & (np.abs(offsets - left) < (width + driver.mover.size[1]) / 2 + 0.35)
    gaps = np.where(in_lane, ahead - (length + driver.mover.size[0]) / 2, np.inf)
    nearest = int(np.argmin(gaps))
    return float(gaps[nearest]), float(max(speeds[nearest], 0.0))


def _following_deceleration(speed: float, gap: float, leader_speed: float) -> float:
    """Return the interaction term of the intelligent driver model in m/s^2; it is subtracted from the free acceleration."""
    if math.isinf(gap):
        return 0.0
    closing = speed * (speed - leader_speed) / (2 * math.sqrt(ACCELERATION * COMFORTABLE_BRAKING))
    desired_gap = STANDSTILL_GAP + max(0.0, speed * HEADWAY + closing)
    return ACCELERATION * (desired_gap / max(gap, 0.1)) ** 2


def _acceleration(driver: Driver, obstacles: _Obstacles, index: int, signals: Signals, time: float) -> float:
    soon = min(int(driver.along + driver.speed * 0.3), int(driver.route.length))
    allowed = min(driver.desired, driver.route.speed_limits[soon])
    free = ACCELERATION * (1 - (driver.speed / max(allowed, 0.1)) ** 4)
    left = driver.left if driver.change is None else driver.change[2]
    deceleration = _following_deceleration(driver.speed, *_leader(driver, obstacles, index, left))
    stop = next_stop(driver)
    if stop is not None and _must_stop(driver, stop, signals, time):
        deceleration = max(deceleration, _stopping_deceleration(driver.speed, _gap_to_line(driver, stop)))
    return max(-HARDEST_BRAKING, max(-3.5, free) - deceleration)


def _gap_to_line(driver: Driver, stop: Stop) -> float:
    return stop.along - driver.along - driver.mover.size[0] / 2


def _stopping_deceleration(speed: float, gap: float) -> float:
    """Return the deceleration for a stop line `gap` metres ahead: zero while it is far, then constant until it is near."""
    needed = speed**2 / (2 * max(gap - 0.5, 0.2))
    if gap < 0.8:
        needed = max(needed, 1.5)  # a constant deceleration would let the vehicle creep over the line
    return 0.0 if needed < LINE_BRAKING and gap > 4 else ACCELERATION + 1.05 * needed


def next_stop(driver: Driver) -> Stop | None:
    """Return the next stop line that the front of the vehicle has not passed; None where there is none."""
    return next((stop for stop in driver.route.stops if stop.along > driver.nose - 0.3), None)


def _must_stop(driver: Driver, stop: Stop, signals: Signals, time: float) -> bool:
    gap = _gap_to_line(driver, stop)
    if gap > SIGNAL_DISTANCE:
        return False
    state = signals.state(stop.node, stop.heading, time)
    if state == "green":
        return driver.speed < 0.3 and signals.seconds_of_green(stop.node, stop.heading, time) < REACTION
    return state == "red" or driver.speed**2 / (2 * YELLOW_BRAKING) < gap


def _consider_lane_change(driver: Driver, obstacles: _Obstacles, index: int, time: float) -> None:
    """Begin to overtake slower traffic, or return to the right lane, where there is room for it."""
    stop = next_stop(driver)
    room = math.inf if stop is None else stop.along - driver.along
    turns = stop is not None and stop.turn != "straight"
    if driver.change is not None or driver.speed < 7 or room < (90 if turns else 35):
        return
    if driver.left == 0.0:
        gap, speed = _leader(driver, obstacles, index, 0.0)
        is_slow = gap < CHANGE_GAP and speed < driver.desired - CHANGE_SPEED_DIFFERENCE
        if is_slow and _is_free(driver, obstacles, index, LANE_WIDTH, ahead=80.0):
            driver.change = (time, 0.0, LANE_WIDTH)
    elif _is_free(driver, obstacles, index, 0.0, ahead=45.0):
        driver.change = (time, LANE_WIDTH, 0.0)


def _is_free(driver: Driver, obstacles: _Obstacles, index: int, left: float, ahead: float) -> bool:
    """Return whether a lane `left` metres beside the route has no obstacle beside the driver or up to `ahead` metres.

    Traffic ahead that is not slower than the driver does not count.
    """
    rows = obstacles.near(driver, index)
    if not len(rows):
        return True
    along, offsets, speeds = _lane_coordinates(driver, rows)
    in_strip = (np.abs(offsets - left) < 2.0) & (along > -LOOKBEHIND) & (along < ahead)
    return not (in_strip & ((along < 12) | (speeds < driver.speed - 1))).any()


def _advance(driver: Driver, time: float) -> None:
    """Move a driver by one tick. A lane change follows a fifth-degree polynomial with zero speed at both ends."""
    before = driver.speed
    driver.speed = max(0.0, before + driver.acceleration * TICK)
    driver.acceleration = (driver.speed - before) / TICK
    driver.along = min(driver.along + (before + driver.speed) / 2 * TICK, driver.route.length)
    if driver.change is not None:
        start, old, new = driver.change
        fraction = min((time + TICK - start) / CHANGE_TIME, 1.0)
        driver.left = old + (new - old) * fraction**3 * (10 - 15 * fraction + 6 * fraction**2)
        driver.lateral_speed = (new - old) * 30 * fraction**2 * (1 - fraction) ** 2 / CHANGE_TIME
        if fraction >= 1.0 - 1e-9:
            driver.left, driver.lateral_speed, driver.change = new, 0.0, None
