"""A moment of a journey: what the cameras see of it, and what its annotations say."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from senna.synthetic.render.camera import box_corners
from senna.synthetic.render.road import SIGHT
from senna.synthetic.render.roadside import light_head_corners
from senna.synthetic.render.scene import Cyclist, Road, Scene, Vehicle, Walker
from senna.synthetic.world.scenarios import Journey, ego_positions
from senna.synthetic.world.sensors import CAMERAS, LIDAR, REAR_AXLE, camera_at
from senna.synthetic.world.town import empty_town, signals_of_town
from senna.synthetic.world.traffic import TICK, Mover

RANGE = 80.0  # metres from the ego to which objects are annotated
LIGHT_RANGE = 110.0
TUFTS_SEEN = 90.0
RETURNS = 6000.0  # lidar points on a square metre one metre away
HOUSE_SIZE = (8.0, 12.0, 12.0)
BRAKING, STANDING = -0.8, 0.2  # m/s^2, m/s: brake lamps come on


@dataclass(frozen=True)
class Box:
    """An object around the ego: its number among the movers, its middle on the ground, how it moves, and what sees it.

    `seen` is the share of it that nothing hides from the ego, `points` how many lidar points fall on it.
    """

    number: int
    mover: Mover
    x: float
    y: float
    yaw: float
    speed: float
    seen: float
    points: int


@lru_cache(maxsize=4)
def _poses(journey: Journey) -> np.ndarray:
    return ego_positions(journey.tracks)


def ego_pose(journey: Journey, tick: int) -> tuple[float, float, float]:
    """x, y and yaw of the ego's frame."""
    x, y, yaw = _poses(journey)[tick].tolist()
    return x, y, yaw


def scene_at(journey: Journey, tick: int) -> Scene:
    """All that can be seen, but for the ego itself."""
    time, states = tick * TICK, journey.tracks.states[tick]
    vehicles, walkers, cyclists = [], [], []
    for mover, (x, y, yaw, speed, acceleration) in zip(journey.tracks.movers[1:], states[1:].tolist(), strict=True):
        if math.isnan(x):
            continue
        if mover.kind == "pedestrian":
            walkers.append(Walker(x, y, yaw, mover.tone, 1 + int(time * 2 * speed) % 2 if speed > 0 else 0))
        elif mover.kind == "bicycle":
            cyclists.append(Cyclist(x, y, yaw, mover.tone))
        else:
            vehicles.append(Vehicle(mover.kind, mover.colour, x, y, yaw, acceleration < BRAKING or speed < STANDING))
    x, y, yaw = ego_pose(journey, tick)
    nose = 2 * REAR_AXLE
    return replace(
        _neighbourhood(empty_town(journey.decor), x, y),
        sky=journey.sky,
        vehicles=tuple(vehicles),
        walkers=tuple(walkers),
        cyclists=tuple(cyclists),
        lights=tuple(t for t in signals_of_town(journey.signals, time) if math.dist((t.x, t.y), (x, y)) < SIGHT),
        headlamps=(x + nose * math.cos(yaw), y + nose * math.sin(yaw), yaw),
    )


def _neighbourhood(town: Scene, x: float, y: float) -> Scene:
    """The part of the town that may be seen from (x, y): to paint the rest costs time and shows nothing."""

    def near(things: tuple, reach: float = SIGHT + 15) -> tuple:
        return tuple(thing for thing in things if abs(thing.x - x) < reach and abs(thing.y - y) < reach)

    def passes(road: Road) -> bool:
        (west, south), (east, north) = road.path
        return max(west - x, x - east, south - y, y - north) < SIGHT + 15

    return replace(
        town,
        roads=tuple(road for road in town.roads if passes(road)),
        trees=near(town.trees),
        houses=near(town.houses),
        lamps=near(town.lamps),
        patches=tuple(p for p in town.patches if math.dist(p.corners[0], (x, y)) < SIGHT),
        tufts=tuple(t for t in town.tufts if abs(t[0] - x) < TUFTS_SEEN and abs(t[1] - y) < TUFTS_SEEN),
    )


def boxes_at(journey: Journey, tick: int) -> list[Box]:
    """Every mover within RANGE of the ego, hidden ones too (they have no lidar points)."""
    states, (x, y, _) = journey.tracks.states[tick], ego_pose(journey, tick)
    distances = np.hypot(states[:, 0] - x, states[:, 1] - y)
    near = [int(i) for i in np.flatnonzero(distances < RANGE) if i > 0]
    seen = _shares_seen(journey, states, near, np.array([x, y]))
    boxes = []
    for number, share in zip(near, seen, strict=True):
        mover, state = journey.tracks.movers[number], states[number]
        area = max(mover.size[0], mover.size[1]) * mover.size[2]
        points = round(share * RETURNS * area / max(distances[number], 4.0) ** 2) if share > 0 else 0
        boxes.append(Box(number, mover, *(float(value) for value in state[:4]), float(share), points))
    return boxes


def light_ahead(journey: Journey, tick: int) -> str:
    """The state of the nearest signal that faces the ego within the front camera's picture: "red", ..., or "none"."""
    x, y, yaw = ego_pose(journey, tick)
    camera = camera_at(CAMERAS[0], x, y, yaw)
    found = [(LIGHT_RANGE, "none")]
    for light in signals_of_town(journey.signals, tick * TICK):
        if math.cos(light.yaw - yaw) > 0.8:
            pixels, depth = camera.project(np.concatenate(light_head_corners(light)))
            inside = (depth > 0) & (pixels >= 0).all(axis=1) & (pixels < camera.size).all(axis=1)
            if inside.sum() >= 4:  # a whole head
                found.append((float(depth.min()), light.state))
    return min(found)[1]


def _shares_seen(journey: Journey, states: np.ndarray, near: list[int], eye: np.ndarray) -> list[float]:
    """For each of `near` the share of five points across it to which nothing blocks the line from `eye` (2,)."""
    solid = [i for i in near if journey.tracks.movers[i].kind not in ("pedestrian", "bicycle", "motorcycle")]
    houses = [h for h in empty_town(journey.decor).houses if math.dist((h.x, h.y), eye) < RANGE + 10]
    walls = np.array(
        [(*states[i, :3], *journey.tracks.movers[i].size[:2]) for i in solid]
        + [(h.x, h.y, h.yaw, *HOUSE_SIZE[:2]) for h in houses]
    ).reshape(-1, 5)
    shares = []
    for i in near:
        corners = box_corners(journey.tracks.movers[i].size, *states[i, :3])[::2, :2]
        across = states[i, :2] - eye
        side = np.array([-across[1], across[0]]) / np.linalg.norm(across)
        half = np.ptp(corners @ side) / 2 * 0.9
        points = states[i, :2] + np.linspace(-half, half, 5)[:, None] * side
        others = np.ones(len(walls), dtype=bool)
        if i in solid:
            others[solid.index(i)] = False
        shares.append(float((~_blocked(eye, points, walls[others])).mean()))
    return shares


def _blocked(eye: np.ndarray, points: np.ndarray, walls: np.ndarray) -> np.ndarray:
    """Whether the line from `eye` to each of `points` (P, 2) passes one of the boxes (W, 5: x, y, yaw, length, width): (P,)."""
    if not len(walls):
        return np.zeros(len(points), dtype=bool)
    cos, sin = np.cos(walls[:, 2]), np.sin(walls[:, 2])
    turn = np.stack([np.stack([cos, sin], axis=1), np.stack([-sin, cos], axis=1)], axis=1)  # (W, 2, 2) world to box
    start = np.einsum("wij,wj->wi", turn, eye - walls[:, :2])[:, None]
    end = np.einsum("wij,wpj->wpi", turn, points - walls[:, None, :2])
    half, step = walls[:, None, 3:] / 2, end - start
    step = np.where(np.abs(step) < 1e-9, 1e-9, step)
    entries, exits = (-half * np.sign(step) - start) / step, (half * np.sign(step) - start) / step
    enter, leave = entries.max(axis=2), exits.min(axis=2)
    return ((enter < leave) & (enter > 0) & (enter < 1)).any(axis=0)


def lidar_sweep(journey: Journey, tick: int, boxes: list[Box]) -> np.ndarray:
    """A sparse sweep, float32 (N, 5: x, y, z, intensity, ring) in the lidar's frame: as many points on each box as it says."""
    rng = np.random.default_rng((journey.decor, tick))
    radius, angle = np.repeat(np.geomspace(4, 50, 12), 40), np.tile(np.linspace(0, 2 * np.pi, 40, endpoint=False), 12)
    x, y, yaw = ego_pose(journey, tick)
    clouds = [np.stack([radius * np.cos(angle) + x, radius * np.sin(angle) + y, np.zeros_like(radius)], axis=1)]
    for box in boxes:
        length, width, height = box.mover.size
        spots = rng.uniform(-0.5, 0.5, (box.points, 3)) * [length, width, height]
        towards = math.atan2(y - box.y, x - box.x) - box.yaw
        spots[::2, 0] = math.copysign(length / 2, math.cos(towards))  # on the two sides that face the sensor
        spots[1::2, 1] = math.copysign(width / 2, math.sin(towards))
        cos, sin = math.cos(box.yaw), math.sin(box.yaw)
        east = box.x + spots[:, 0] * cos - spots[:, 1] * sin
        north = box.y + spots[:, 0] * sin + spots[:, 1] * cos
        clouds.append(np.stack([east, north, spots[:, 2] + height / 2], axis=1))
    frame = camera_at(LIDAR, x, y, yaw)
    points = frame.to_camera(np.concatenate(clouds))
    extra = np.tile([20.0, 0.0], (len(points), 1))
    return np.concatenate([points, extra], axis=1).astype(np.float32)
