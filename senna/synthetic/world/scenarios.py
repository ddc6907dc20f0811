"""Scenarios of the driving world: a maneuver of the ego vehicle, simulated with other traffic and checked.

A scenario is drawn from (seed, index, attempt). The first attempt that has no collision and in which the ego vehicle really
carries out the maneuver becomes the scene. Frame and units are those of `senna.synthetic.world.town`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from senna.errors import SennaError
from senna.meta_actions import FUTURE_STEPS, STEP, label_trajectory
from senna.synthetic.render.scene import SKIES, Sky
from senna.synthetic.world.maneuvers import INITIAL_STATES
from senna.synthetic.world.other_traffic import add_drivers, make_walks
from senna.synthetic.world.sensors import REAR_AXLE
from senna.synthetic.world.town import Signals
from senna.synthetic.world.traffic import TICK, Driver, Tracks, Walk, simulate

ATTEMPTS = 60
MANEUVERS = (
    *("wait", "overtake", "left", "depart", "right", "follow"),
    *("queue", "overtake", "go", "left", "right", "wait"),
)
"""The maneuver of scene i is that at position i modulo 12."""
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
COLLISION_RANGE = 70.0  # metres from the ego vehicle within which collisions are checked


@dataclass(eq=False)
class Start:
    """The beginning of a scene, from which it is simulated.

    Attributes:
        maneuver, sky, scenery_seed: as in `Scenario`.
        speed_limit: of the road, in m/s.
        drivers: all drivers in their initial states, the ego vehicle first. A simulation changes them.
    """

    maneuver: str
    sky: Sky
    scenery_seed: int
    signals: Signals
    speed_limit: float
    drivers: list[Driver]
    walks: list[Walk]


@dataclass(frozen=True, eq=False)
class Scenario:
    """A simulated scene.

    Attributes:
        maneuver: one of MANEUVERS.
        scenery_seed: the seed of houses, trees and street lamps.
        tracks: the states of all road users, every ``TICK`` seconds; road user 0 is the ego vehicle.
    """

    maneuver: str
    sky: Sky
    scenery_seed: int
    signals: Signals
    tracks: Tracks

    @property
    def description(self) -> str:
        """Weather and maneuver, in the style of the nuScenes scene table."""
        return f"{SKY_WORDS[self.sky]}, {PHRASES[self.maneuver]}"


def find_scenario(seed: int, index: int, seconds: float) -> tuple[Scenario, int]:
    """Return scene `index` of a seed and the attempt that succeeded, from which `simulate_scenario` makes it again.

    Raises:
        SennaError: no attempt succeeded.
    """
    for attempt in range(ATTEMPTS):
        scenario = simulate_scenario(seed, index, attempt, seconds)
        if is_collision_free(scenario.tracks) and _is_carried_out(scenario.maneuver, scenario.tracks):
            return scenario, attempt
    maneuver = MANEUVERS[index % len(MANEUVERS)]
    raise SennaError(
        f"scene {index} of seed {seed} has no valid scenario with the maneuver {maneuver!r} in {ATTEMPTS} attempts",
        remedy="use another seed",
    )


def simulate_scenario(seed: int, index: int, attempt: int, seconds: float) -> Scenario:
    """Return one attempt at a scene, without any check."""
    start = draw_start(seed, index, attempt, seconds)
    tracks = simulate(start.drivers, start.walks, start.signals, seconds)
    return Scenario(start.maneuver, start.sky, start.scenery_seed, start.signals, tracks)


def draw_start(seed: int, index: int, attempt: int, seconds: float) -> Start:
    """Return the beginning of one attempt at a scene.

    Args:
        seconds: pedestrians begin to cross up to this time.
    """
    maneuver = MANEUVERS[index % len(MANEUVERS)]
    rng = np.random.default_rng((seed, index, attempt, 4))
    state = INITIAL_STATES[maneuver](rng)
    add_drivers(state, rng)
    walks = make_walks(state, rng, seconds)
    sky = SKIES[(index + index // len(SKIES)) % len(SKIES)]
    scenery_seed = int(rng.integers(2**31))
    return Start(maneuver, sky, scenery_seed, state.signals, state.speed_limit, state.drivers, walks)


def ego_poses(tracks: Tracks) -> np.ndarray:
    """Return x, y and yaw (T, 3) of the nuScenes ego frame, whose origin is on the ground below the rear axle."""
    poses = tracks.states[:, 0, :3].copy()
    poses[:, 0] -= REAR_AXLE * np.cos(poses[:, 2])
    poses[:, 1] -= REAR_AXLE * np.sin(poses[:, 2])
    return poses


def path_labels(tracks: Tracks) -> list[str]:
    """Return the PATH of the ego's meta-action at every half second that has 3 s of future."""
    poses, step = ego_poses(tracks), round(STEP / TICK)
    paths = []
    for now in range(0, len(poses) - FUTURE_STEPS * step, step):
        x, y, yaw = poses[now]
        offsets = poses[now + step : now + FUTURE_STEPS * step + 1 : step, :2] - [x, y]
        forward = offsets @ [math.cos(yaw), math.sin(yaw)]
        right = offsets @ [math.sin(yaw), -math.cos(yaw)]
        paths.append(label_trajectory(np.stack([right, forward], axis=1)).path)
    return paths


def is_collision_free(tracks: Tracks) -> bool:
    """Return whether no two road users near the ego touch and the ego never brakes harder than 5.5 m/s^2."""
    sizes = np.array([mover.size[:2] for mover in tracks.movers])
    for states in tracks.states[::2]:
        near = np.hypot(*(states[:, :2] - states[0, :2]).T) < COLLISION_RANGE  # False for NaN
        if _any_overlap(states[near], sizes[near]):
            return False
    return bool(np.nanmin(tracks.states[:, 0, 4]) > -5.5)


def _any_overlap(states: np.ndarray, sizes: np.ndarray) -> bool:
    """Return whether any two boxes overlap; three discs along its length stand for each box.

    Args:
        states: (N, 5) as in `Tracks`.
        sizes: (N, 2) length and width.
    """
    reach = np.maximum(sizes[:, :1] / 2 - sizes[:, 1:] / 2, 0)
    directions = np.stack([np.cos(states[:, 2]), np.sin(states[:, 2])], axis=1)
    discs = states[:, None, :2] + np.array([-1.0, 0.0, 1.0])[None, :, None] * (reach * directions)[:, None]  # (N, 3, 2)
    distances = np.linalg.norm(discs[:, None, :, None] - discs[None, :, None], axis=-1).min(axis=(2, 3))
    smallest = (sizes[:, None, 1] + sizes[None, :, 1]) / 2
    np.fill_diagonal(distances, np.inf)
    has_pedestrian = np.minimum(sizes[:, None, 0], sizes[None, :, 0]) < 0.7
    return bool((distances < np.where(has_pedestrian, smallest * 0.8, smallest)).any())


def _is_carried_out(maneuver: str, tracks: Tracks) -> bool:
    """Return whether the ego vehicle stays in the town and carries out the maneuver."""
    paths, speeds = path_labels(tracks), tracks.states[:, 0, 3]
    if np.isnan(tracks.states[:, 0]).any():
        return False
    if maneuver == "overtake":
        return "LEFT_CHANGE" in paths and "RIGHT_CHANGE" in paths
    if maneuver in ("left", "right"):
        return f"{maneuver.upper()}_TURN" in paths
    if maneuver in ("wait", "queue"):
        return bool((speeds < 0.1).any() and speeds[-20:].max() > 2)
    return True
