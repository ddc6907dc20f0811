"""What each patch of a picture shows: the dense labels from which the tiny vision tower learns to see."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from senna.synthetic.render.camera import Camera, box_corners
from senna.synthetic.render.roadside import light_head_corners
from senna.synthetic.render.scene import BODY_COLOURS, LIGHT_STATES, SKIES, VEHICLE_KINDS, Scene
from senna.synthetic.tiny.road_scenes import FARTHEST_NEAR

COLOURS = tuple(BODY_COLOURS)
DISTANCES = (8.0, FARTHEST_NEAR, 24.0, 40.0)  # metres from the camera to a vehicle's back, upper ends of the bins
CLASSES = {  # per label: how many answers there are; 0 means "nothing of the kind here", but for the sky
    "kind": 1 + len(VEHICLE_KINDS),
    "colour": 1 + len(COLOURS),
    "distance": 2 + len(DISTANCES),
    "light": 1 + len(LIGHT_STATES),
    "sky": len(SKIES),
}
FACING = 0.5  # cosine of the angle from which lamps are seen
LEAST_COVER = 0.08  # share of a patch that a thing must cover to be its label
LEAST_LIGHT = 0.02
BACKGROUND = (0.03, 0.03, 0.03, 0.004, 0.03)  # weight of a patch that shows nothing of the kind: most show no light


@dataclass(frozen=True)
class PatchLabels:
    """`classes` (5, P) in the order of CLASSES and `weights` (5, P): how much of a patch is what its label says."""

    classes: np.ndarray
    weights: np.ndarray


def label_patches(scene: Scene, camera: Camera, patch: int) -> PatchLabels:
    """Labels of the square patches of `patch` pixels, row by row. Of two vehicles in a patch the nearer wins, or the larger.

    A signal counts only for who looks at its lamps.
    """
    count = (camera.size[0] // patch) * (camera.size[1] // patch)
    classes = np.zeros((len(CLASSES), count), dtype=np.int64)
    vehicle_cover, light_cover = np.zeros(count), np.zeros(count)
    distances = {vehicle: math.dist((vehicle.x, vehicle.y), camera.position[:2]) for vehicle in scene.vehicles}
    for vehicle in sorted(scene.vehicles, key=distances.__getitem__, reverse=True):
        cover = patch_cover(box_corners(vehicle.size, vehicle.x, vehicle.y, vehicle.yaw), camera, patch)
        mine = cover >= np.maximum(0.6 * vehicle_cover, LEAST_COVER)
        vehicle_cover[mine] = cover[mine]
        distance = 1 + int(np.searchsorted(DISTANCES, distances[vehicle] - vehicle.size[0] / 2))
        answers = 1 + VEHICLE_KINDS.index(vehicle.kind), 1 + COLOURS.index(vehicle.colour), distance
        classes[:3, mine] = np.array(answers)[:, None]
    ahead = math.atan2(camera.forward[1], camera.forward[0])
    for light in scene.lights:
        if math.cos(light.yaw - ahead) < FACING:
            continue
        cover = np.max([patch_cover(head, camera, patch) for head in light_head_corners(light)], axis=0)
        mine = cover >= LEAST_LIGHT
        light_cover[mine] = np.sqrt(cover[mine])  # a lamp is small, and says much
        classes[3, mine] = 1 + LIGHT_STATES.index(light.state)
    classes[4] = SKIES.index(scene.sky)
    weights = np.stack([vehicle_cover, vehicle_cover, vehicle_cover, light_cover, np.full(count, 0.1)])
    weights += np.array(BACKGROUND)[:, None]
    return PatchLabels(classes, weights)


def patch_cover(corners: np.ndarray, camera: Camera, patch: int) -> np.ndarray:
    """The share (P,) of each patch that the picture's upright rectangle around `corners` (N, 3) covers."""
    pixels, depth = camera.project(corners)
    columns, rows = camera.size[0] // patch, camera.size[1] // patch
    if (depth <= 0).any():
        return np.zeros(columns * rows)
    (left, top), (right, bottom) = pixels.min(axis=0), pixels.max(axis=0)
    across = _overlap(np.arange(columns + 1) * patch - 0.5, left, right)
    down = _overlap(np.arange(rows + 1) * patch - 0.5, top, bottom)
    return (down[:, None] * across).ravel() / patch**2


def _overlap(edges: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0, None)
