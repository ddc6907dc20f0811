"""How traffic moves: drivers that follow a lane, keep their distance, obey signals and overtake; people on foot.

Pure arithmetic, a tenth of a second a step. Distances follow the intelligent driver model (Treiber, Hennecke and Helbing 2000).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from senna.synthetic.render.people import CYCLIST_SIZE, WALKER_SIZE
from senna.synthetic.render.scene import VEHICLE_SIZES
from senna.synthetic.world.sensors import EGO_SIZE
from senna.synthetic.world.town import LANE, Route, Signals, Stop

TICK = 0.1  # seconds
ACCELERATION, COMFORT, HARDEST = 2.0, 3.5, 6.0  # m/s^2: forward, braking as one likes, braking as one can
HEADWAY, STANDSTILL = 1.2, 2.5  # seconds and metres to what is ahead
LINE_BRAKING = 2.0  # m/s^2 that a stop line must ask for before one brakes for it
YELLOW_BRAKING = 3.0  # m/s^2: who would have to brake harder drives on at yellow
REACTION = 1.0  # seconds from green to the start
SIGHT_OF_SIGNALS = 110.0
LOOKAHEAD = 75  # metres of lane that a driver watches
CHANGE_TIME = 2.8  # seconds that a change of lane takes
CHANGE_GAP = 60.0  # metres to slow traffic at which one begins to overtake it
SLOWER = 4.5  # m/s that traffic ahead must be slower than oneself to be overtaken


@dataclass(frozen=True)
class Mover:
    """Who takes part. `kind` is of VEHICLE_KINDS, or "ego", "bicycle", "pedestrian"; `tone` picks clothes."""

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
    """A mover on a lane, its middle `along` metres from the route's start and `left` metres of it; speeds in m/s."""

    mover: Mover
    route: Route
    along: float
    speed: float
    desired: float
    overtakes: bool = False
    left: float = 0.0
    drift: float = 0.0  # m/s to the left
    acceleration: float = 0.0
    change: tuple[float, float, float] | None = None  # start time, metres left before and after
    position: tuple[float, float, float] = field(default=(0.0, 0.0, 0.0))

    def place(self) -> None:
        """Work out `position`: x, y and yaw of the middle."""
        x, y, yaw = self.route.at(self.along, self.left)
        self.position = (x, y, yaw + math.atan2(self.drift, max(self.speed, 1.0)))

    @property
    def gone(self) -> bool:
        """Whether the route has ended."""
        return self.along >= self.route.length - 1


@dataclass(frozen=True)
class Walk:
    """Somebody on foot who stands at `start` (x, y) until time `begins`, then goes `distance` metres along `yaw`."""

    mover: Mover
    start: tuple[float, float]
    yaw: float
    speed: float
    begins: float
    distance: float

    def at(self, time: float) -> tuple[float, float, float, float]:
        """x, y, yaw and speed at a time."""
        done = min(max(time - self.begins, 0.0) * self.speed, self.distance)
        speed = self.speed if 0 < done < self.distance else 0.0
        return self.start[0] + done * math.cos(self.yaw), self.start[1] + done * math.sin(self.yaw), self.yaw, speed


@dataclass(frozen=True, eq=False)
class Tracks:
    """What moved where: `states` (T, N, 5) of x, y, yaw, speed and acceleration a tick; NaN where a mover is not there."""

    movers: tuple[Mover, ...]
    states: np.ndarray


def simulate(drivers: list[Driver], walks: list[Walk], signals: Signals, seconds: float) -> Tracks:
    """Let everybody move from time 0 to `seconds`, both included. Driver 0 is the ego. The drivers are used up."""
    ticks = round(seconds / TICK) + 1
    states = np.full((ticks, len(drivers) + len(walks), 5), np.nan)
    for tick in range(ticks):
        time = tick * TICK
        for driver in drivers:
            driver.place()
        present = [driver for driver in drivers if not driver.gone]
        for index, driver in enumerate(drivers):
            if not driver.gone:
                states[tick, index] = (*driver.position, driver.speed, driver.acceleration)
        for index, walk in enumerate(walks, len(drivers)):
            states[tick, index] = (*walk.at(time), 0.0)
        crowd = _Crowd(present, [walk.at(time) for walk in walks])
        for index, driver in enumerate(present):
            if driver.overtakes:
                _consider_change(driver, crowd, index, time)
            driver.acceleration = _acceleration(driver, crowd, index, signals, time)
        for driver in present:
            _advance(driver, time)
    return Tracks(tuple(d.mover for d in drivers) + tuple(w.mover for w in walks), states)


class _Crowd:
    """All obstacles of a tick as arrays: drivers first, then those on foot."""

    def __init__(self, drivers: list[Driver], feet: list[tuple[float, float, float, float]]):
        rows = [(*d.position, d.speed, d.mover.size[0], d.mover.size[1]) for d in drivers]
        rows += [(*foot, WALKER_SIZE[0], WALKER_SIZE[1]) for foot in feet]
        self.rows = np.array(rows)  # (M, 6): x, y, yaw, speed, length, width

    def near(self, driver: Driver, index: int) -> np.ndarray:
        """The rows of those within sight ahead of a driver (and a little behind)."""
        x, y, yaw = driver.position
        east, north = self.rows[:, 0] - x, self.rows[:, 1] - y
        ahead = east * math.cos(yaw) + north * math.sin(yaw)
        near = (ahead > -12) & (east**2 + north**2 < (LOOKAHEAD + 10) ** 2)
        near[index] = False
        return self.rows[near]


def _along_lane(driver: Driver, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For obstacles (M, 6): metres ahead along the driver's lane (NaN where not beside it), metres left, speed along it."""
    first = int(driver.along)
    lane = driver.route.points[max(first - 12, 0) : first + LOOKAHEAD]
    yaws = driver.route.yaws[max(first - 12, 0) : first + LOOKAHEAD]
    offsets = rows[:, None, :2] - lane
    nearest = np.argmin((offsets**2).sum(axis=2), axis=1)
    offset, yaw = offsets[np.arange(len(rows)), nearest], yaws[nearest]
    forward = offset[:, 0] * np.cos(yaw) + offset[:, 1] * np.sin(yaw)
    left = offset[:, 1] * np.cos(yaw) - offset[:, 0] * np.sin(yaw)
    ahead = np.where(np.abs(forward) < 2, nearest + max(first - 12, 0) + forward - driver.along, np.nan)
    return ahead, left, rows[:, 3] * np.cos(rows[:, 2] - yaw)


def _leader(driver: Driver, crowd: _Crowd, index: int, left: float) -> tuple[float, float]:
    """Gap (metres) and speed of what is next ahead at `left` metres of the lane's middle; an infinite gap where nothing is."""
    rows = crowd.near(driver, index)
    if not len(rows):
        return math.inf, 0.0
    ahead, aside, speeds = _along_lane(driver, rows)
    across = np.abs(np.cos(rows[:, 2] - driver.position[2]))
    length = rows[:, 4] * across + rows[:, 5] * (1 - across)
    width = rows[:, 5] * across + rows[:, 4] * (1 - across)
    in_way = (ahead > 0) & (np.abs(aside - left) < (width + driver.mover.size[1]) / 2 + 0.35)
    gaps = np.where(in_way, ahead - (length + driver.mover.size[0]) / 2, np.inf)
    next_one = int(np.argmin(gaps))
    return float(gaps[next_one]), float(max(speeds[next_one], 0.0))


def _follow(speed: float, gap: float, other: float, standstill: float = STANDSTILL) -> float:
    """What the model takes off the free acceleration because of something `gap` metres ahead with speed `other`."""
    if math.isinf(gap):
        return 0.0
    closing = speed * (speed - other) / (2 * math.sqrt(ACCELERATION * COMFORT))
    wanted = standstill + max(0.0, speed * HEADWAY + closing)
    return ACCELERATION * (wanted / max(gap, 0.1)) ** 2


def _acceleration(driver: Driver, crowd: _Crowd, index: int, signals: Signals, time: float) -> float:
    allowed = min(
        driver.desired, driver.route.caps[min(int(driver.along + driver.speed * 0.3), int(driver.route.length))]
    )
    free = ACCELERATION * (1 - (driver.speed / max(allowed, 0.1)) ** 4)
    lanes = {driver.left} if driver.change is None else {driver.change[2]}
    burden = max(_follow(driver.speed, *_leader(driver, crowd, index, left)) for left in lanes)
    stop = next_stop(driver)
    if stop is not None and _must_stop(driver, stop, signals, time):
        gap = stop.along - driver.along - driver.mover.size[0] / 2
        burden = max(burden, _stopping(driver.speed, gap))
    return max(-HARDEST, max(-3.5, free) - burden)


def _stopping(speed: float, gap: float) -> float:
    """Braking for a stop line: nothing while it is far, then evenly until half a metre before it."""
    needed = speed**2 / (2 * max(gap - 0.5, 0.2))
    if gap < 0.8:
        needed = max(needed, 1.5)  # an even slowing down would creep over the line
    return 0.0 if needed < LINE_BRAKING and gap > 4 else ACCELERATION + 1.05 * needed


def next_stop(driver: Driver) -> Stop | None:
    """The next stop line that the driver's nose has not passed."""
    nose = driver.along + driver.mover.size[0] / 2
    return next((stop for stop in driver.route.stops if stop.along > nose - 0.3), None)


def _must_stop(driver: Driver, stop: Stop, signals: Signals, time: float) -> bool:
    gap = stop.along - driver.along - driver.mover.size[0] / 2
    if gap > SIGHT_OF_SIGNALS:
        return False
    state = signals.state(stop.node, stop.heading, time)
    if state == "green":
        return driver.speed < 0.3 and signals.seconds_of_green(stop.node, stop.heading, time) < REACTION
    return state == "red" or driver.speed**2 / (2 * YELLOW_BRAKING) < gap


def _consider_change(driver: Driver, crowd: _Crowd, index: int, time: float) -> None:
    """Begin to overtake, or to go back to the right, where there is reason and room."""
    stop = next_stop(driver)
    room = math.inf if stop is None else stop.along - driver.along
    turns = stop is not None and stop.turn != "straight"
    if driver.change is not None or driver.speed < 7 or room < (90 if turns else 35):
        return
    if driver.left == 0.0:
        gap, speed = _leader(driver, crowd, index, 0.0)
        if gap < CHANGE_GAP and speed < driver.desired - SLOWER and _is_free(driver, crowd, index, LANE, ahead=80.0):
            driver.change = (time, 0.0, LANE)
    elif _is_free(driver, crowd, index, 0.0, ahead=45.0):
        driver.change = (time, LANE, 0.0)


def _is_free(driver: Driver, crowd: _Crowd, index: int, left: float, ahead: float) -> bool:
    """Whether the strip of lane at `left` metres is free, beside the driver and so far ahead, but for faster traffic."""
    rows = crowd.near(driver, index)
    if not len(rows):
        return True
    where, aside, speeds = _along_lane(driver, rows)
    there = (np.abs(aside - left) < 2.0) & (where > -12) & (where < ahead)
    return not (there & ((where < 12) | (speeds < driver.speed - 1))).any()


def _advance(driver: Driver, time: float) -> None:
    before = driver.speed
    driver.speed = max(0.0, before + driver.acceleration * TICK)
    driver.acceleration = (driver.speed - before) / TICK
    driver.along = min(driver.along + (before + driver.speed) / 2 * TICK, driver.route.length)
    if driver.change is not None:
        start, old, new = driver.change
        share = min((time + TICK - start) / CHANGE_TIME, 1.0)
        driver.left = old + (new - old) * share**3 * (10 - 15 * share + 6 * share**2)
        driver.drift = (new - old) * 30 * share**2 * (1 - share) ** 2 / CHANGE_TIME
        if share >= 1.0 - 1e-9:
            driver.left, driver.drift, driver.change = new, 0.0, None
