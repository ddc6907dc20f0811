"""The flat ground: grass, verges, asphalt, markings and shadows, as quads at z = 0.

Arrays of quads are (N, 4, 3) in the world frame, in metres.
"""

from __future__ import annotations

import itertools
import math
from functools import lru_cache

import numpy as np

from senna.synthetic.render.camera import Camera, object_to_world
from senna.synthetic.render.meshes import Rgb
from senna.synthetic.render.scene import Road, Scene
from senna.synthetic.render.vehicles import footprint

ASPHALT = (92, 94, 98)
GRAVEL = (150, 142, 122)
WHITE_PAINT = (236, 236, 228)
YELLOW_PAINT = (232, 190, 60)
SHADOW = (48, 49, 52)
TUFTS = ((92, 122, 60), (132, 156, 84), (104, 134, 66), (146, 158, 92))
VIEW_DISTANCE = 160.0  # metres; nothing beyond is drawn
LINE_WIDTH = 0.16  # metres
DASH, GAP = 3.0, 5.0  # metres
SEGMENT = 4.0  # metres of road with one shade

Path = tuple[tuple[float, float], ...]


class Strip:
    """A polyline with coordinates along and to the left of it."""

    def __init__(self, path: Path):
        corners = np.asarray(path, dtype=float)
        steps = np.diff(corners, axis=0)
        lengths = np.linalg.norm(steps, axis=1)
        self.along = np.concatenate([[0.0], np.cumsum(lengths)])
        self.corners = corners
        directions = steps / lengths[:, None]
        joints = np.concatenate([directions[:1], directions[:-1] + directions[1:], directions[-1:]])
        joints /= np.linalg.norm(joints, axis=1, keepdims=True)
        self.lefts = np.stack([-joints[:, 1], joints[:, 0]], axis=1)

    def at(self, along: np.ndarray, left: float) -> np.ndarray:
        """Return the ground points (N, 3) at distances `along` (N,) and `left` metres to the left of the line."""
        centre = np.stack([np.interp(along, self.along, self.corners[:, i]) for i in (0, 1)], axis=1)
        normal = np.stack([np.interp(along, self.along, self.lefts[:, i]) for i in (0, 1)], axis=1)
        flat = centre + normal * left
        return np.concatenate([flat, np.zeros((len(flat), 1))], axis=1)

    def quads(self, starts: np.ndarray, ends: np.ndarray, left: float, right: float) -> np.ndarray:
        """Return quads (N, 4, 3) from `starts` to `ends` (N,), between two distances to the left of the line."""
        return np.stack(
            [self.at(starts, left), self.at(ends, left), self.at(ends, right), self.at(starts, right)], axis=1
        )


def ground_quads(scene: Scene, camera: Camera, is_night: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the flat quads (N, 4, 3) that may be in the image in drawing order, their centres and unshaded colours (N, 3)."""
    quads, centres, colours = _all_quads(scene, is_night)
    offsets = centres - camera.position
    near = np.linalg.norm(offsets[:, :2], axis=1) < VIEW_DISTANCE
    shown = near & (offsets @ camera.forward > -8) & camera.may_show(centres, 14.0)
    return quads[shown], centres[shown], colours[shown]


@lru_cache(maxsize=2)
def _all_quads(scene: Scene, is_night: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return all flat quads of a scene in drawing order, their centres and colours. Cached for the other cameras."""
    layers = _tufts(scene)
    for road in scene.roads:
        half = road.lanes * road.lane_width / 2
        layers.append((_surface(road, half + road.verge, -half - road.verge), GRAVEL))
    for road in scene.roads:
        half = road.lanes * road.lane_width / 2
        columns = road.lanes * 4 if is_night else 1  # the light of headlamps varies across the road
        edges = np.linspace(half, -half, columns + 1)
        layers += [(_surface(road, left, right), ASPHALT) for left, right in itertools.pairwise(edges)]
    layers.append((_patches(scene, "asphalt"), ASPHALT))
    for road in scene.roads:
        layers += [(quads, WHITE_PAINT) for quads in _markings(road)]
        layers += [(quads, YELLOW_PAINT) for quads in _centre_line(road)]
    layers.append((_patches(scene, "paint"), WHITE_PAINT))
    layers += [(_shadow(*footprint(v.kind), v.x, v.y, v.yaw), SHADOW) for v in scene.vehicles]
    layers += [(_shadow(0.8, 0.25, c.x, c.y, c.yaw), SHADOW) for c in scene.cyclists]
    layers += [(_shadow(0.25, 0.28, w.x, w.y, w.yaw), SHADOW) for w in scene.walkers]
    quads = np.concatenate([np.zeros((0, 4, 3)), *(layer for layer, _ in layers)])
    colours = np.repeat([colour for _, colour in layers], [len(layer) for layer, _ in layers], axis=0).astype(float)
    return quads, quads.mean(axis=1), colours


@lru_cache(maxsize=64)
def _strip(path: Path) -> Strip:
    return Strip(path)


@lru_cache(maxsize=1024)
def _segments(path: Path, left: float, right: float, interval: float, length: float) -> np.ndarray:
    """Return quads (N, 4, 3) of `length` metres that begin every `interval` metres.

    The result is cached, because the same town is drawn for every key frame.
    """
    strip = _strip(path)
    end = strip.along[-1]
    starts = np.arange(0, end if interval == length else max(end - length, 0), interval)
    return strip.quads(starts, np.minimum(starts + length, end), left, right)


def _surface(road: Road, left: float, right: float) -> np.ndarray:
    """Return the segments of a continuous band of a road, between two distances to the left of its centre line."""
    return _segments(road.path, float(left), float(right), SEGMENT, SEGMENT)


def _markings(road: Road) -> list[np.ndarray]:
    """Return the white lines of a road: edges, dashes between lanes, stop line."""
    markings, half = [], road.lanes * road.lane_width / 2
    if road.marked:
        for edge in (half - 0.25, -half + 0.25):
            markings.append(_surface(road, edge + LINE_WIDTH / 2, edge - LINE_WIDTH / 2))
        for lane in range(1, road.lanes):
            if road.two_way and 2 * lane == road.lanes:
                continue
            line = half - lane * road.lane_width
            markings.append(_segments(road.path, line + LINE_WIDTH / 2, line - LINE_WIDTH / 2, DASH + GAP, DASH))
    if road.stop_line is not None:
        start = np.array([road.stop_line])
        markings.append(_strip(road.path).quads(start, start + 0.5, half - 0.4, -half + 0.4))
    return markings


def _centre_line(road: Road) -> list[np.ndarray]:
    edges = (0.24, -0.08) if road.marked and road.two_way else ()
    return [_surface(road, edge, edge - LINE_WIDTH) for edge in edges]


def _patches(scene: Scene, surface: str) -> np.ndarray:
    flat = np.array([patch.corners for patch in scene.patches if patch.surface == surface]).reshape(-1, 4, 2)
    return np.concatenate([flat, np.zeros((*flat.shape[:2], 1))], axis=2)


def _shadow(half_length: float, half_width: float, x: float, y: float, yaw: float) -> np.ndarray:
    """Return a rectangle (1, 4, 3) around (x, y)."""
    signs = np.array([[-1, 1, 0], [1, 1, 0], [1, -1, 0], [-1, -1, 0]])
    return object_to_world(signs * [half_length, half_width, 0], x, y, yaw)[None]


def _tufts(scene: Scene) -> list[tuple[np.ndarray, Rgb]]:
    """Return patches of grass, which give the field a texture."""
    rng = np.random.default_rng(scene.seed + 1)
    if scene.tufts is not None:
        given = np.array(scene.tufts).reshape(-1, 3)
        count, centre, size = len(given), given[:, :2], np.repeat(given[:, 2:], 4, axis=1) * [1.0, 0.7, 0.9, 1.2]
    else:
        count = 60
        centre = np.stack([rng.uniform(-30, 110, count), rng.uniform(-60, 60, count)], axis=1)
        if scene.headlamps is not None:
            x, y, yaw = scene.headlamps
            rotation = np.array([[math.cos(yaw), math.sin(yaw)], [-math.sin(yaw), math.cos(yaw)]])
            centre = centre @ rotation + [x, y]
        size = rng.uniform(0.6, 2.6, (count, 4))
    corners = np.stack(
        [
            centre + size[:, :1] * [1, 0.2],
            centre + size[:, 1:2] * [0.1, 1],
            centre - size[:, 2:3] * [1, -0.2],
            centre - size[:, 3:4] * [-0.1, 1],
        ],
        axis=1,
    )
    quads = np.concatenate([corners, np.zeros((count, 4, 1))], axis=2)
    return [(quads[i :: len(TUFTS)], colour) for i, colour in enumerate(TUFTS)]
