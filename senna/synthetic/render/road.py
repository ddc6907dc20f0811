"""The road's surface, its marks and the shadows on it: flat quads on the ground."""

from __future__ import annotations

import itertools
import math
from functools import lru_cache

import numpy as np

from senna.synthetic.render.camera import Camera, planar
from senna.synthetic.render.scene import Road, Scene
from senna.synthetic.render.vehicles import footprint

ASPHALT = (92, 94, 98)
GRAVEL = (150, 142, 122)
PAINT = (236, 236, 228)
YELLOW = (232, 190, 60)
SHADOW = (48, 49, 52)
TUFTS = ((92, 122, 60), (132, 156, 84), (104, 134, 66), (146, 158, 92))
SIGHT = 160.0  # metres beyond which no road is drawn
MARK = 0.16  # metres: the breadth of a painted line
DASH, GAP = 3.0, 5.0  # metres
PIECE = 4.0  # metres of road that are shaded as one


class Strip:
    """A polyline that answers where its points `aside` metres to the left lie, at distances `along` it."""

    def __init__(self, path: tuple[tuple[float, float], ...]):
        corners = np.asarray(path, dtype=float)
        steps = np.diff(corners, axis=0)
        lengths = np.linalg.norm(steps, axis=1)
        self.along = np.concatenate([[0.0], np.cumsum(lengths)])
        self.corners = corners
        directions = steps / lengths[:, None]
        joints = np.concatenate([directions[:1], directions[:-1] + directions[1:], directions[-1:]])
        joints /= np.linalg.norm(joints, axis=1, keepdims=True)
        self.lefts = np.stack([-joints[:, 1], joints[:, 0]], axis=1)

    def at(self, along: np.ndarray, aside: float | np.ndarray = 0.0) -> np.ndarray:
        """Ground points (N, 3) at distances `along` (N,)."""
        centre = np.stack([np.interp(along, self.along, self.corners[:, i]) for i in (0, 1)], axis=1)
        left = np.stack([np.interp(along, self.along, self.lefts[:, i]) for i in (0, 1)], axis=1)
        flat = centre + left * np.reshape(aside, (-1, 1))
        return np.concatenate([flat, np.zeros((len(flat), 1))], axis=1)

    def quads(self, starts: np.ndarray, ends: np.ndarray, left: float, right: float) -> np.ndarray:
        """Quads (N, 4, 3) from `starts` to `ends` (N,) along it, between two distances aside."""
        return np.stack(
            [self.at(starts, left), self.at(ends, left), self.at(ends, right), self.at(starts, right)], axis=1
        )


def ground_quads(scene: Scene, camera: Camera, at_night: bool) -> tuple[np.ndarray, np.ndarray]:
    """All flat quads (N, 4, 3) in painting order and their own colours (N, 3)."""
    layers: list[tuple[np.ndarray, tuple[int, int, int]]] = []
    layers += _tufts(scene, camera)
    for road in scene.roads:
        half = road.lanes * road.lane_width / 2
        layers.append((_lengths(road, half + road.verge, -half - road.verge, camera), GRAVEL))
    for road in scene.roads:
        half = road.lanes * road.lane_width / 2
        columns = road.lanes * 4 if at_night else 1  # headlamps light a road unevenly across
        edges = np.linspace(half, -half, columns + 1)
        layers += [(_lengths(road, a, b, camera), ASPHALT) for a, b in itertools.pairwise(edges)]
    layers.append((_patches(scene, "asphalt", camera), ASPHALT))
    for road in scene.roads:
        layers += [(quads, PAINT) for quads in _marks(road, camera)]
        layers += [(quads, YELLOW) for quads in _centre_line(road, camera)]
    layers.append((_patches(scene, "paint", camera), PAINT))
    layers += [(_shadow(*footprint(v.kind), v.x, v.y, v.yaw), SHADOW) for v in scene.vehicles]
    layers += [(_shadow(0.8, 0.25, c.x, c.y, c.yaw), SHADOW) for c in scene.cyclists]
    layers += [(_shadow(0.25, 0.28, w.x, w.y, w.yaw), SHADOW) for w in scene.walkers]
    quads = [layer for layer, _ in layers if len(layer)]
    colours = [np.tile(colour, (len(layer), 1)) for layer, colour in layers if len(layer)]
    return np.concatenate(quads or [np.zeros((0, 4, 3))]), np.concatenate(colours or [np.zeros((0, 3))])


@lru_cache(maxsize=64)
def _strip(path: tuple[tuple[float, float], ...]) -> Strip:
    return Strip(path)


@lru_cache(maxsize=1024)
def _pieces(
    path: tuple[tuple[float, float], ...], left: float, right: float, every: float, length: float
) -> tuple[np.ndarray, np.ndarray]:
    """Quads of `length` metres, one `every` so many, and their middles. The same town is painted again and again."""
    strip = _strip(path)
    end = strip.along[-1]
    starts = np.arange(0, end if every == length else max(end - length, 0), every)
    quads = strip.quads(starts, np.minimum(starts + length, end), left, right)
    return quads, quads.mean(axis=1)


def _lengths(road: Road, left: float, right: float, camera: Camera) -> np.ndarray:
    return _in_sight(*_pieces(road.path, float(left), float(right), PIECE, PIECE), camera)


def _in_sight(quads: np.ndarray, middles: np.ndarray, camera: Camera) -> np.ndarray:
    offsets = middles - camera.position
    ahead = offsets @ camera.forward
    near = np.linalg.norm(offsets[:, :2], axis=1) < SIGHT
    return quads[near & (ahead > -8) & camera.may_show(middles, 14.0)]


def _marks(road: Road, camera: Camera) -> list[np.ndarray]:
    marks, half = [], road.lanes * road.lane_width / 2
    if road.marked:
        for edge in (half - 0.25, -half + 0.25):
            marks.append(_lengths(road, edge + MARK / 2, edge - MARK / 2, camera))
        for lane in range(1, road.lanes):
            if road.two_way and 2 * lane == road.lanes:
                continue
            middle = half - lane * road.lane_width
            dashes = _pieces(road.path, middle + MARK / 2, middle - MARK / 2, DASH + GAP, DASH)
            marks.append(_in_sight(*dashes, camera))
    if road.stop_line is not None:
        at = np.array([road.stop_line])
        line = _strip(road.path).quads(at, at + 0.5, half - 0.4, -half + 0.4)
        marks.append(_in_sight(line, line.mean(axis=1), camera))
    return marks


def _centre_line(road: Road, camera: Camera) -> list[np.ndarray]:
    sides = (0.24, -0.08) if road.marked and road.two_way else ()
    return [_lengths(road, side, side - MARK, camera) for side in sides]


def _patches(scene: Scene, surface: str, camera: Camera) -> np.ndarray:
    flat = np.array([patch.corners for patch in scene.patches if patch.surface == surface]).reshape(-1, 4, 2)
    quads = np.concatenate([flat, np.zeros((*flat.shape[:2], 1))], axis=2)
    return _in_sight(quads, quads.mean(axis=1), camera)


def _shadow(length: float, width: float, x: float, y: float, yaw: float) -> np.ndarray:
    """Half a `length` and half a `width` around (x, y)."""
    corners = np.array([[-length, width, 0], [length, width, 0], [length, -width, 0], [-length, -width, 0]])
    return planar(corners, x, y, yaw)[None]


def _tufts(scene: Scene, camera: Camera) -> list[tuple[np.ndarray, tuple[int, int, int]]]:
    """Blotches in the field, so that it does not look like a billiard table; fixed to the world."""
    rng = np.random.default_rng(scene.seed + 1)
    if scene.tufts is not None:
        given = np.array(scene.tufts).reshape(-1, 3)
        count, centre, size = len(given), given[:, :2], np.repeat(given[:, 2:], 4, axis=1) * [1.0, 0.7, 0.9, 1.2]
    else:
        count = 60
        centre = np.stack([rng.uniform(-30, 110, count), rng.uniform(-60, 60, count)], axis=1)
        if scene.headlamps is not None:
            x, y, yaw = scene.headlamps
            turn = np.array([[math.cos(yaw), math.sin(yaw)], [-math.sin(yaw), math.cos(yaw)]])
            centre = centre @ turn + [x, y]
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
    return [
        (_in_sight(quads[i :: len(TUFTS)], quads[i :: len(TUFTS)].mean(axis=1), camera), tone)
        for i, tone in enumerate(TUFTS)
    ]
