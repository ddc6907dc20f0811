"""What happens in a scene of the driving world: where the ego is, what it wants, and who else is there."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from senna.errors import SennaError
from senna.meta_actions import label_trajectory
from senna.synthetic.render.scene import BODY_COLOURS, SKIES, Sky
from senna.synthetic.world.sensors import REAR_AXLE
from senna.synthetic.world.town import (
    CYCLE_ASIDE,
    DIRECTIONS,
    EXTENT,
    FOOT_ASIDE,
    HALF,
    LANES_ASIDE,
    MARGIN,
    NODES,
    PERIOD,
    REACH,
    WALK,
    ZEBRA,
    Signals,
    node_at,
    route,
)
from senna.synthetic.world.traffic import TICK, Driver, Mover, Tracks, Walk, simulate

KINDS = ("car", "car", "car", "car", "van", "van", "truck", "bus", "motorcycle")
SLOW_KINDS = ("truck", "bus", "van", "motorcycle")
TRIES = 60
PLANS = ("wait", "overtake", "left", "depart", "right", "follow", "queue", "overtake", "go", "left", "right", "wait")
PHRASES = {
    "wait": "wait at the traffic light",
    "depart": "start at the traffic light",
    "queue": "queue at the traffic light",
    "overtake": "overtake slow traffic",
    "follow": "follow slow traffic",
    "left": "turn left at the intersection",
    "right": "turn right at the intersection",
    "go": "go straight on through the intersection",
}
SKY_WORDS = {"clear": "Sunny day", "overcast": "Overcast day", "dusk": "Dusk", "night": "Night"}


@dataclass(frozen=True, eq=False)
class Journey:
    """A simulated scene. `decor` seeds what stands beside the road; states are every `TICK` seconds, the ego is mover 0."""

    plan: str
    sky: Sky
    decor: int
    signals: Signals
    tracks: Tracks

    @property
    def description(self) -> str:
        """Light and weather, then what the ego does, in the manner of nuScenes' scene table."""
        return f"{SKY_WORDS[self.sky]}, {PHRASES[self.plan]}"


@dataclass
class _Setting:
    """What a plan decides; the rest is filled in around it."""

    drivers: list[Driver]
    signals: Signals
    node: tuple[int, int]
    heading: int
    limit: float
    clear: float = 3.4
    """Metres from the ego's lane ahead within which nobody else starts: more where the lane beside it must be free too."""


def travel(seed: int, index: int, seconds: float) -> tuple[Journey, int]:
    """Scene `index` of a seed, and the number of the try that made it, with which `retrace` makes it again."""
    for attempt in range(TRIES):
        journey = retrace(seed, index, attempt, seconds)
        if is_clean(journey.tracks) and _came_about(journey.plan, journey.tracks):
            return journey, attempt
    raise SennaError(
        f"seed {seed} finds no {PLANS[index % len(PLANS)]} journey for scene {index} in {TRIES} tries: take another seed"
    )


def retrace(seed: int, index: int, attempt: int, seconds: float) -> Journey:
    """One try at a scene, whatever came of it."""
    plan = PLANS[index % len(PLANS)]
    rng = np.random.default_rng((seed, index, attempt, 4))
    setting = _SETTINGS[plan](rng)
    _add_traffic(setting, rng)
    walks = _walks(setting, rng, seconds)
    tracks = simulate(setting.drivers, walks, setting.signals, seconds)
    sky = SKIES[(index + index // len(SKIES)) % len(SKIES)]
    return Journey(plan, sky, int(rng.integers(2**31)), setting.signals, tracks)


def ego_positions(tracks: Tracks) -> np.ndarray:
    """x, y and yaw (T, 3) of the ego's nuScenes frame, on the ground below its rear axle."""
    poses = tracks.states[:, 0, :3].copy()
    poses[:, 0] -= REAR_AXLE * np.cos(poses[:, 2])
    poses[:, 1] -= REAR_AXLE * np.sin(poses[:, 2])
    return poses


def paths_driven(tracks: Tracks) -> list[str]:
    """The published label of the ego's PATH at each half second with 3 s to come."""
    poses, step = ego_positions(tracks), round(0.5 / TICK)
    paths = []
    for now in range(0, len(poses) - 6 * step, step):
        x, y, yaw = poses[now]
        offsets = poses[now + step : now + 6 * step + 1 : step, :2] - [x, y]
        forward = offsets @ [math.cos(yaw), math.sin(yaw)]
        right = offsets @ [math.sin(yaw), -math.cos(yaw)]
        paths.append(label_trajectory(np.stack([right, forward], axis=1)).path)
    return paths


def is_clean(tracks: Tracks) -> bool:
    """Whether no two boxes ever touch within 70 m of the ego (those beyond are not checked) and nobody brakes in despair."""
    sizes = np.array([mover.size[:2] for mover in tracks.movers])
    for states in tracks.states[::2]:
        near = np.hypot(*(states[:, :2] - states[0, :2]).T) < 70  # False for NaN
        rows, box = states[near], sizes[near]
        if _touch(rows, box):
            return False
    return bool(np.nanmin(tracks.states[:, 0, 4]) > -5.5)


def _touch(rows: np.ndarray, sizes: np.ndarray) -> bool:
    """Whether any two oriented boxes overlap, each stood for by three discs along its length."""
    reach = np.maximum(sizes[:, :1] / 2 - sizes[:, 1:] / 2, 0)
    heads = np.stack([np.cos(rows[:, 2]), np.sin(rows[:, 2])], axis=1)
    discs = rows[:, None, :2] + np.array([-1.0, 0.0, 1.0])[None, :, None] * (reach * heads)[:, None]
    gaps = np.linalg.norm(discs[:, None, :, None] - discs[None, :, None], axis=-1).min(axis=(2, 3))
    least = (sizes[:, None, 1] + sizes[None, :, 1]) / 2
    np.fill_diagonal(gaps, np.inf)
    walking = np.minimum(sizes[:, None, 0], sizes[None, :, 0]) < 0.7
    return bool((gaps < np.where(walking, least * 0.8, least)).any())


def _came_about(plan: str, tracks: Tracks) -> bool:
    paths, speeds = paths_driven(tracks), tracks.states[:, 0, 3]
    if np.isnan(tracks.states[:, 0]).any():
        return False
    if plan == "overtake":
        return "LEFT_CHANGE" in paths and "RIGHT_CHANGE" in paths
    if plan in ("left", "right"):
        return f"{plan.upper()}_TURN" in paths
    if plan in ("wait", "queue"):
        return bool((speeds < 0.1).any() and speeds[-20:].max() > 2)
    return True


def _crossing(rng: np.random.Generator, turns: tuple[str, ...], aside: float, before: float) -> tuple:
    """A crossing, a heading and the ego's route over it, long enough for a scene."""
    while True:
        node, heading = NODES[rng.integers(4)], int(rng.integers(4))
        start = node_at(node) - before * DIRECTIONS[heading]
        if not ((start > 5) & (start < EXTENT - 5)).all():
            continue
        path = route(node, heading, before, aside, turns)
        if path.length > 330:
            return node, heading, path


def _signals(rng: np.random.Generator, node: tuple[int, int], heading: int, green_at: float) -> Signals:
    """Random lights, but for one that turns green at a time; half of the time after people have crossed."""
    firsts = tuple(int(first) for first in rng.integers(4, size=4))
    offsets = tuple(float(offset) for offset in rng.uniform(0, PERIOD, 4))
    at = NODES.index(node)
    if rng.random() < 0.5:
        firsts = (*firsts[:at], heading, *firsts[at + 1 :])
    signals = Signals(offsets, firsts)
    return Signals((*offsets[:at], signals.offset_for(node, heading, green_at), *offsets[at + 1 :]), firsts)


def _ego(path: object, along: float, speed: float, desired: float, overtakes: bool = False) -> Driver:
    return Driver(Mover("ego"), path, along, speed, desired, overtakes)


def _vehicle(rng: np.random.Generator, kinds: tuple[str, ...] = KINDS) -> Mover:
    return Mover(kinds[rng.integers(len(kinds))], str(rng.choice(list(BODY_COLOURS))))


def _at_light(
    rng: np.random.Generator, green_at: float, before: float, queue: int = 0, standing: bool = False
) -> _Setting:
    """The ego drives up to a light, or stands at it, behind `queue` others."""
    limit = float(rng.uniform(10, 15))
    aside = LANES_ASIDE[rng.integers(2)]
    node, heading, path = _crossing(rng, (), aside, before)
    signals = _signals(rng, node, heading, green_at)
    others, nose = [], path.stops[0].along - 0.8
    for _ in range(queue):
        mover = _vehicle(rng)
        middle = nose - mover.size[0] / 2
        others.append(Driver(mover, path, middle, 0.0, limit * float(rng.uniform(0.85, 1))))
        nose = middle - mover.size[0] / 2 - float(rng.uniform(2.5, 3.2))
    along = nose - 2.04 if standing else 0.0
    ego = _ego(path, along, 0.0 if standing else limit, limit)
    return _Setting([ego, *others], signals, node, heading, limit)


def _wait(rng: np.random.Generator) -> _Setting:
    return _at_light(rng, float(rng.uniform(9.5, 13)), float(rng.uniform(75, 125)))


def _queue(rng: np.random.Generator) -> _Setting:
    return _at_light(rng, float(rng.uniform(9, 12)), float(rng.uniform(95, 130)), queue=int(rng.integers(1, 3)))


def _depart(rng: np.random.Generator) -> _Setting:
    return _at_light(rng, float(rng.uniform(3, 7)), float(rng.uniform(45, 60)), int(rng.integers(2)), standing=True)


def _go(rng: np.random.Generator) -> _Setting:
    """From a low speed to full speed, through a light that is green throughout."""
    setting = _at_light(rng, float(rng.uniform(-1, 1)), float(rng.uniform(50, 75)))
    setting.drivers[0].speed *= float(rng.uniform(0.1, 0.3))
    return setting


def _turn(rng: np.random.Generator, side: str) -> _Setting:
    """Up to a light and round the corner; half of the time it is red at first."""
    limit, before = float(rng.uniform(9, 13)), float(rng.uniform(70, 110))
    node, heading, path = _crossing(rng, (side,), LANES_ASIDE[side == "right"], before)
    green_at = float(rng.uniform(8, 10) if rng.random() < 0.5 else before / limit - rng.uniform(4, 6))
    return _Setting([_ego(path, 0.0, limit, limit)], _signals(rng, node, heading, green_at), node, heading, limit)


def _overtake(rng: np.random.Generator) -> _Setting:
    """A fast stretch behind one slow vehicle, and a green light at its end."""
    limit, before = float(rng.uniform(17.8, 18.6)), float(rng.uniform(235, 250))
    node, heading, path = _crossing(rng, (), LANES_ASIDE[1], before)
    signals = _signals(rng, node, heading, (before - 60) / limit - float(rng.uniform(0, 3)))
    slow = float(rng.uniform(6.5, 8.5))
    ahead = Driver(_vehicle(rng, SLOW_KINDS), path, float(rng.uniform(75, 95)), slow, slow)
    return _Setting([_ego(path, 2.0, limit, limit, overtakes=True), ahead], signals, node, heading, limit, 6.5)


def _follow(rng: np.random.Generator) -> _Setting:
    """Two slow vehicles side by side, on the way to a red light."""
    limit, before = float(rng.uniform(13, 17)), float(rng.uniform(150, 190))
    node, heading, path = _crossing(rng, (), LANES_ASIDE[rng.integers(2)], before)
    signals = _signals(rng, node, heading, float(rng.uniform(19, 30)))
    slow, along = float(rng.uniform(4.5, 7)), float(rng.uniform(60, 85))
    others = []
    for aside in LANES_ASIDE:
        lane = route(node, heading, before, aside)
        others.append(Driver(_vehicle(rng, SLOW_KINDS), lane, along + float(rng.uniform(-4, 4)), slow, slow))
    return _Setting([_ego(path, 0.0, limit, limit, overtakes=True), *others], signals, node, heading, limit, 6.5)


_SETTINGS: dict[str, Callable[[np.random.Generator], _Setting]] = {
    "wait": _wait,
    "queue": _queue,
    "depart": _depart,
    "go": _go,
    "left": lambda rng: _turn(rng, "left"),
    "right": lambda rng: _turn(rng, "right"),
    "overtake": _overtake,
    "follow": _follow,
}


def _add_traffic(setting: _Setting, rng: np.random.Generator) -> None:
    """Others on all lanes around, where they are in nobody's way at the start."""
    for driver in setting.drivers:
        driver.place()
    ego, own = setting.drivers[0], setting.drivers[0].route
    # The road ahead of the ego is what the plan made it; its lanes get traffic behind the ego and far ahead only.
    kept = own.points[int(ego.along) : int(ego.along) + 210]
    taken = [driver.position[:2] for driver in setting.drivers]
    for _ in range(140):
        node, heading = NODES[rng.integers(4)], int(rng.integers(4))
        is_bicycle = rng.random() < 0.22
        aside = CYCLE_ASIDE if is_bicycle else LANES_ASIDE[rng.integers(2)]
        before = float(rng.uniform(REACH + 6, MARGIN - 6))
        turns = () if is_bicycle or rng.random() < 0.7 else (("left", "right")[aside > HALF / 2],)
        lane = route(node, heading, before, aside, turns)
        mover = Mover("bicycle", tone=int(rng.integers(6))) if is_bicycle else _vehicle(rng)
        desired = float(rng.uniform(3.5, 6)) if is_bicycle else min(setting.limit, 14.0) * float(rng.uniform(0.8, 1.0))
        driver = Driver(mover, lane, 0.0, desired * 0.8, desired)
        driver.place()
        spot = np.array(driver.position[:2])
        far = np.abs(spot - ego.position[:2]).max() > 260
        crowded = min(math.dist(spot, other) for other in taken) < 17
        on_way = np.linalg.norm(kept - spot, axis=1).min() < setting.clear
        if far or crowded or (on_way and not is_bicycle):
            continue
        if setting.signals.state(node, heading, 0.0) != "green" and before < REACH + 40:
            driver.speed = min(driver.speed, 3.0)
        taken.append(tuple(spot))
        setting.drivers.append(driver)


def _walks(setting: _Setting, rng: np.random.Generator, seconds: float) -> list[Walk]:
    """People on the pavements, and on the zebras while all lights are red for traffic."""
    walks = []
    for _ in range(26):
        heading, side = int(rng.integers(4)), (1, -1)[rng.integers(2)]
        along = float(rng.uniform(24, 120))
        middle = node_at(setting.node) - along * DIRECTIONS[heading]
        start = middle + side * (FOOT_ASIDE + rng.uniform(-0.6, 0.6)) * DIRECTIONS[heading - 1]
        forward = rng.random() < 0.5
        yaw = heading * math.pi / 2 + (0.0 if forward else math.pi)
        room = along - REACH if forward else 130.0
        stands = rng.random() < 0.2
        speed = 0.0 if stands else float(rng.uniform(1.0, 1.7))
        walks.append(Walk(_walker(rng), tuple(map(float, start)), yaw, speed, -1.0, 0.0 if stands else room))
    for node in NODES:
        if math.dist(node_at(node), node_at(setting.node)) > 1:
            continue
        for begins in setting.signals.walk_starts(node, seconds):
            for _ in range(int(rng.integers(3, 7))):
                walks.append(_crossing_walk(rng, node, begins))
    return _apart(walks, seconds)


def _apart(walks: list[Walk], seconds: float) -> list[Walk]:
    """Those that never come closer to an earlier one than an arm's length."""
    times = np.arange(0, seconds + 0.2, 0.2)
    kept: list[tuple[Walk, np.ndarray]] = []
    for walk in walks:
        track = np.array([walk.at(time)[:2] for time in times])
        if all(np.linalg.norm(track - other, axis=1).min() > 0.7 for _, other in kept):
            kept.append((walk, track))
    return [walk for walk, _ in kept]


def _walker(rng: np.random.Generator) -> Mover:
    return Mover("pedestrian", tone=int(rng.integers(18)))


def _crossing_walk(rng: np.random.Generator, node: tuple[int, int], begins: float) -> Walk:
    """From one kerb to the other over one of a crossing's zebras, in good time."""
    heading, side = int(rng.integers(4)), (1, -1)[rng.integers(2)]
    distance = 2 * HALF + 2 * 1.6
    along = -float(rng.uniform(ZEBRA[0] + 0.4, ZEBRA[1] - 0.4))
    right = side * DIRECTIONS[heading - 1]
    start = node_at(node) + along * DIRECTIONS[heading] - distance / 2 * right
    delay = float(rng.uniform(0.3, 1.5))
    speed = float(rng.uniform(distance / (WALK - 2.2), 2.0))
    return Walk(_walker(rng), tuple(map(float, start)), math.atan2(right[1], right[0]), speed, begins + delay, distance)
