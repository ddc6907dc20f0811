"""Labels of the patches of an image: the dense targets that the tiny vision tower is trained on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from senna.synthetic.render.camera import Camera, box_corners
from senna.synthetic.render.roadside import light_head_corners
from senna.synthetic.render.scene import BODY_COLOURS, LIGHT_STATES, SKIES, VEHICLE_KINDS, Scene
from senna.synthetic.tiny.road_scenes import MAX_NEAR_GAP

# P: number of patches

COLOURS = tuple(BODY_COLOURS)
DISTANCES = (8.0, MAX_NEAR_GAP, 24.0, 40.0)  # upper ends of the bins: metres from the camera to a vehicle's back
NUM_CLASSES = {  # number of classes for each label; class 0 means "nothing of this kind here", except for the sky
    "kind": 1 + len(VEHICLE_KINDS),
    "colour": 1 + len(COLOURS),
    "distance": 2 + len(DISTANCES),
    "light": 1 + len(LIGHT_STATES),
    "sky": len(SKIES),
}
MIN_FACING = 0.5  # a signal counts if the cosine of the angle between it and the camera's direction is at least this
MIN_VEHICLE_COVER = 0.08  # share of a patch that a vehicle must cover to set its labels
MIN_LIGHT_COVER = 0.02
BACKGROUND_WEIGHTS = (0.03, 0.03, 0.03, 0.004, 0.03)  # loss weights of class 0; low for lights, which are rare


@dataclass(frozen=True)
class PatchLabels:
    """Labels of P patches.

    Attributes:
        classes: int64 (5, P), in the order of NUM_CLASSES.
        weights: float64 (5, P), loss weights: roughly the share of the patch that shows the labelled object.
    """

    classes: np.ndarray
    weights: np.ndarray


def label_patches(scene: Scene, camera: Camera, patch: int) -> PatchLabels:
    """Return the labels of the square patches of `patch` pixels, row by row.

    Vehicles are handled from far to near, and a nearer vehicle takes over a patch unless it covers much less of it. A traffic
    light is labelled only where its lamps face the camera.
    """
    count = (camera.size[0] // patch) * (camera.size[1] // patch)
    classes = np.zeros((len(NUM_CLASSES), count), dtype=np.int64)
    vehicle_cover, light_cover = np.zeros(count), np.zeros(count)
    distances = {vehicle: math.dist((vehicle.x, vehicle.y), camera.position[:2]) for vehicle in scene.vehicles}
    for vehicle in sorted(scene.vehicles, key=distances.__getitem__, reverse=True):
        cover = patch_cover(box_corners(vehicle.size, vehicle.x, vehicle.y, vehicle.yaw), camera, patch)
        labelled = cover >= np.maximum(0.6 * vehicle_cover, MIN_VEHICLE_COVER)
        vehicle_cover[labelled] = cover[labelled]
        distance = 1 + int(np.searchsorted(DISTANCES, distances[vehicle] - vehicle.size[0] / 2))
        labels = 1 + VEHICLE_KINDS.index(vehicle.kind), 1 + COLOURS.index(vehicle.colour), distance
        classes[:3, labelled] = np.array(labels)[:, None]
    ahead = math.atan2(camera.forward[1], camera.forward[0])
    for light in scene.lights:
        if math.cos(light.yaw - ahead) < MIN_FACING:
            continue
        cover = np.max([patch_cover(head, camera, patch) for head in light_head_corners(light)], axis=0)
        labelled = cover >= MIN_LIGHT_COVER
        light_cover[labelled] = np.sqrt(cover[labelled])  # the square root raises the weight of small lamps
        classes[3, labelled] = 1 + LIGHT_STATES.index(light.state)
    classes[4] = SKIES.index(scene.sky)
    weights = np.stack([vehicle_cover, vehicle_cover, vehicle_cover, light_cover, np.full(count, 0.1)])
    weights += np.array(BACKGROUND_WEIGHTS)[:, None]
    return PatchLabels(classes, weights)


def patch_cover(corners: np.ndarray, camera: Camera, patch: int) -> np.ndarray:
    """Return the share (P,) of each patch that the bounding rectangle of the projected `corners` (N, 3) covers.

    The shares are 0 if a corner is behind the camera.
    """
    pixels, depth = camera.project(corners)
    columns, rows = camera.size[0] // patch, camera.size[1] // patch
    if (depth <= 0).any():
        return np.zeros(columns * rows)
    (left, top), (right, bottom) = pixels.min(axis=0), pixels.max(axis=0)
    across = _overlap(np.arange(columns + 1) * patch - 0.5, left, right)
    down = _overlap(np.arange(rows + 1) * patch - 0.5, top, bottom)
    return (down[:, None] * across).ravel() / patch**2


def _overlap(edges: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return the length (N,) of the overlap of [low, high] with each interval between consecutive `edges` (N + 1,)."""
    return np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0, None)
