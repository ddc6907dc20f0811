"""A scenario at one tick: the scene to render, the annotation boxes, the traffic light ahead and the lidar sweep.

All positions are in the world frame of `senna.synthetic.world.town`, in metres. A tick is an index into the states of
`Scenario.tracks`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from senna.synthetic.render.camera import box_corners
from senna.synthetic.render.road import VIEW_DISTANCE
from senna.synthetic.render.roadside import light_head_corners
from senna.synthetic.render.scene import Cyclist, Road, Scene, Vehicle, Walker
from senna.synthetic.world.scenarios import Scenario, Start, ego_poses
from senna.synthetic.world.sensors import CAMERAS, LIDAR, REAR_AXLE, camera_at
from senna.synthetic.world.town import empty_town, traffic_lights_at
from senna.synthetic.world.traffic import TICK, Mover

ANNOTATION_RANGE = 80.0  # metres from the ego within which road users are annotated
LIGHT_RANGE = 110.0
TUFT_RANGE = 90.0
LIDAR_DENSITY = 6000.0  # lidar points on a square metre at a distance of one metre
HOUSE_SIZE = (8.0, 12.0, 12.0)
BRAKING, STANDING = -0.8, 0.2  # m/s^2, m/s: brake lamps are on below either value


@dataclass(frozen=True)
class Box:
    """An annotated road user.

    Attributes:
        index: its index in the tracks.
        x, y, yaw: the centre of its box on the ground, and its heading.
        visibility: the fraction that is not hidden from the ego vehicle.
        lidar_points: the number of lidar points on it.
    """

    index: int
    mover: Mover
    x: float
    y: float
    yaw: float
    speed: float
    visibility: float
    lidar_points: int


@lru_cache(maxsize=4)
def _ego_poses(scenario: Scenario) -> np.ndarray:
    return ego_poses(scenario.tracks)


def ego_pose(scenario: Scenario, tick: int) -> tuple[float, float, float]:
    """Return x, y and yaw of the ego frame."""
    x, y, yaw = _ego_poses(scenario)[tick].tolist()
    return x, y, yaw


def scene_at(scenario: Scenario, tick: int) -> Scene:
    """Return everything that can be seen from the ego vehicle, without the ego vehicle itself."""
    tracks = scenario.tracks
    return scene_of(scenario, tracks.movers, tracks.states[tick], ego_pose(scenario, tick), tick * TICK)


def scene_of(
    world: Scenario | Start,
    movers: Sequence[Mover],
    states: np.ndarray,
    pose: tuple[float, float, float],
    time: float,
) -> Scene:
    """Return everything that can be seen from the ego vehicle in a given state of the traffic.

    Args:
        world: the source of sky, scenery and signals.
        movers: the N road users, the ego vehicle first.
        states: (N, 5) as in `Tracks`.
        pose: x, y and yaw of the ego frame.
    """
    vehicles, walkers, cyclists = [], [], []
    for mover, (x, y, yaw, speed, acceleration) in zip(movers[1:], states[1:].tolist(), strict=True):
        if math.isnan(x):
            continue
        if mover.kind == "pedestrian":
            walkers.append(Walker(x, y, yaw, mover.tone, 1 + int(time * 2 * speed) % 2 if speed > 0 else 0))
        elif mover.kind == "bicycle":
            cyclists.append(Cyclist(x, y, yaw, mover.tone))
        else:
            vehicles.append(Vehicle(mover.kind, mover.colour, x, y, yaw, acceleration < BRAKING or speed < STANDING))
    x, y, yaw = pose
    lights = traffic_lights_at(world.signals, time)
    nose = 2 * REAR_AXLE
    return replace(
        _crop(empty_town(world.scenery_seed), x, y),
        sky=world.sky,
        vehicles=tuple(vehicles),
        walkers=tuple(walkers),
        cyclists=tuple(cyclists),
        lights=tuple(light for light in lights if math.dist((light.x, light.y), (x, y)) < VIEW_DISTANCE),
        headlamps=(x + nose * math.cos(yaw), y + nose * math.sin(yaw), yaw),
    )


def _crop(town: Scene, x: float, y: float) -> Scene:
    """Return the part of the town that can be visible from (x, y), which saves rendering time."""

    def near(things: tuple, reach: float = VIEW_DISTANCE + 15) -> tuple:
        return tuple(thing for thing in things if abs(thing.x - x) < reach and abs(thing.y - y) < reach)

    def is_near(road: Road) -> bool:
        (west, south), (east, north) = road.path
        return max(west - x, x - east, south - y, y - north) < VIEW_DISTANCE + 15

    return replace(
        town,
        roads=tuple(road for road in town.roads if is_near(road)),
        trees=near(town.trees),
        houses=near(town.houses),
        lamps=near(town.lamps),
        patches=tuple(patch for patch in town.patches if math.dist(patch.corners[0], (x, y)) < VIEW_DISTANCE),
        tufts=tuple(t for t in town.tufts or () if abs(t[0] - x) < TUFT_RANGE and abs(t[1] - y) < TUFT_RANGE),
    )


@lru_cache(maxsize=64)
def boxes_at(scenario: Scenario, tick: int) -> tuple[Box, ...]:
    """Return the box of every road user within ANNOTATION_RANGE of the ego. Hidden ones have no lidar points."""
    states, (x, y, _) = scenario.tracks.states[tick], ego_pose(scenario, tick)
    distances = np.hypot(states[:, 0] - x, states[:, 1] - y)
    near = [int(i) for i in np.flatnonzero(distances < ANNOTATION_RANGE) if i > 0]
    visibilities = _visibilities(scenario, states, near, np.array([x, y]))
    boxes = []
    for index, visibility in zip(near, visibilities, strict=True):
        mover, state = scenario.tracks.movers[index], states[index]
        area = max(mover.size[0], mover.size[1]) * mover.size[2]
        points = round(visibility * LIDAR_DENSITY * area / max(distances[index], 4.0) ** 2) if visibility > 0 else 0
        boxes.append(Box(index, mover, *(float(value) for value in state[:4]), float(visibility), points))
    return tuple(boxes)


def light_ahead(scenario: Scenario, tick: int) -> str:
    """Return the state of the nearest traffic light that the front camera shows from the front, or "none"."""
    x, y, yaw = ego_pose(scenario, tick)
    camera = camera_at(CAMERAS[0], x, y, yaw)
    found = [(LIGHT_RANGE, "none")]
    for light in traffic_lights_at(scenario.signals, tick * TICK):
        if math.cos(light.yaw - yaw) > 0.8:
            pixels, depth = camera.project(np.concatenate(light_head_corners(light)))
            inside = (depth > 0) & (pixels >= 0).all(axis=1) & (pixels < camera.size).all(axis=1)
            if inside.sum() >= 4:  # at least as many corners as one head has
                found.append((float(depth.min()), light.state))
    return min(found)[1]


def _visibilities(scenario: Scenario, states: np.ndarray, near: list[int], eye: np.ndarray) -> list[float]:
    """Return for each road user in `near` the fraction of five points across it that are visible from `eye` (2,)."""
    solid = [i for i in near if scenario.tracks.movers[i].kind not in ("pedestrian", "bicycle", "motorcycle")]
    town = empty_town(scenario.scenery_seed)
    houses = [house for house in town.houses if math.dist((house.x, house.y), eye) < ANNOTATION_RANGE + 10]
    walls = np.array(
        [(*states[i, :3], *scenario.tracks.movers[i].size[:2]) for i in solid]
        + [(house.x, house.y, house.yaw, *HOUSE_SIZE[:2]) for house in houses]
    ).reshape(-1, 5)
    fractions = []
    for i in near:
        corners = box_corners(scenario.tracks.movers[i].size, *states[i, :3])[::2, :2]
        offset = states[i, :2] - eye
        side = np.array([-offset[1], offset[0]]) / np.linalg.norm(offset)
        half = np.ptp(corners @ side) / 2 * 0.9
        points = states[i, :2] + np.linspace(-half, half, 5)[:, None] * side
        others = np.ones(len(walls), dtype=bool)
        if i in solid:
            others[solid.index(i)] = False
        fractions.append(float((~_is_blocked(eye, points, walls[others])).mean()))
    return fractions


def _is_blocked(eye: np.ndarray, points: np.ndarray, walls: np.ndarray) -> np.ndarray:
    """Return whether a box is on the line from `eye` (2,) to each of `points` (P, 2): (P,).

    Args:
        walls: (W, 5) x, y, yaw, length and width of the boxes.
    """
    if not len(walls):
        return np.zeros(len(points), dtype=bool)
    cos, sin = np.cos(walls[:, 2]), np.sin(walls[:, 2])
    world_to_box = np.stack([np.stack([cos, sin], axis=1), np.stack([-sin, cos], axis=1)], axis=1)  # (W, 2, 2)
    start = np.einsum("wij,wj->wi", world_to_box, eye - walls[:, :2])[:, None]
    end = np.einsum("wij,wpj->wpi", world_to_box, points - walls[:, None, :2])
    half, step = walls[:, None, 3:] / 2, end - start
    step = np.where(np.abs(step) < 1e-9, 1e-9, step)
    entries, exits = (-half * np.sign(step) - start) / step, (half * np.sign(step) - start) / step
    enter, leave = entries.max(axis=2), exits.min(axis=2)
    return ((enter < leave) & (enter > 0) & (enter < 1)).any(axis=0)


def lidar_sweep(scenario: Scenario, tick: int, boxes: Sequence[Box]) -> np.ndarray:
    """Return a sparse lidar sweep: rings on the ground, and `lidar_points` points on each box.

    Returns:
        float32 (N, 5) x, y, z, intensity and ring in the frame of the lidar.
    """
    rng = np.random.default_rng((scenario.scenery_seed, tick))
    radius, angle = np.repeat(np.geomspace(4, 50, 12), 40), np.tile(np.linspace(0, 2 * np.pi, 40, endpoint=False), 12)
    x, y, yaw = ego_pose(scenario, tick)
    clouds = [np.stack([radius * np.cos(angle) + x, radius * np.sin(angle) + y, np.zeros_like(radius)], axis=1)]
    for box in boxes:
        length, width, height = box.mover.size
        spots = rng.uniform(-0.5, 0.5, (box.lidar_points, 3)) * [length, width, height]
        direction = math.atan2(y - box.y, x - box.x) - box.yaw
        spots[::2, 0] = math.copysign(length / 2, math.cos(direction))  # on the two sides that face the sensor
        spots[1::2, 1] = math.copysign(width / 2, math.sin(direction))
        cos, sin = math.cos(box.yaw), math.sin(box.yaw)
        east = box.x + spots[:, 0] * cos - spots[:, 1] * sin
        north = box.y + spots[:, 0] * sin + spots[:, 1] * cos
        clouds.append(np.stack([east, north, spots[:, 2] + height / 2], axis=1))
    points = camera_at(LIDAR, x, y, yaw).to_camera(np.concatenate(clouds))
    intensity_and_ring = np.tile([20.0, 0.0], (len(points), 1))
    return np.concatenate([points, intensity_and_ring], axis=1).astype(np.float32)
