"""The training data of the tiny tower: images with labels of each patch and, for front views, of the scene.

A third are road images as in stage 1. The others show the driving world, in scenarios that are never written to a data set.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from PIL import Image

from senna.synthetic.render.painter import paint
from senna.synthetic.tiny.patch_labels import label_patches
from senna.synthetic.tiny.road_images import ROAD_IMAGE_SIZE, sample_road
from senna.synthetic.tiny.road_scenes import front_camera
from senna.synthetic.tiny.scene_labels import SCENE_LABELS, scene_labels
from senna.synthetic.tiny.town_views import SECONDS, choose_tick, vary
from senna.synthetic.workers import worker_lines
from senna.synthetic.world.scenarios import simulate_scenario
from senna.synthetic.world.sensors import CAMERAS, IMAGE_SIZE, camera_at
from senna.synthetic.world.snapshot import ego_pose, scene_at

# N images of S x S pixels, P patches of an image

ROAD_SHARE = 1 / 3  # share of road images
FRONT_SHARE = 0.75  # share of the front camera among the other images
PADDING = (122, 116, 104)  # CLIP's mean colour, with which stages 2 and 3 pad images to a square
NO_LABELS = [-1] * len(SCENE_LABELS)


@dataclass(frozen=True)
class TowerDataset:
    """Labelled images.

    Attributes:
        pixels: uint8 (N, S, S, 3).
        patch_classes: int64 (N, 5, P); see `PatchLabels`.
        patch_weights: float64 (N, 5, P); see `PatchLabels`.
        scene_labels: int64 (N, 9), in the order of SCENE_LABELS; -1 for an image that is no front view of the world.
    """

    pixels: np.ndarray
    patch_classes: np.ndarray
    patch_weights: np.ndarray
    scene_labels: np.ndarray


def draw_tower_dataset(seed: int, scenarios: int, images_per_scenario: int, size: int, patch: int) -> TowerDataset:
    """Draw `scenarios * images_per_scenario` images of `size` pixels on all cores, with patches of `patch` pixels."""
    with tempfile.TemporaryDirectory(prefix="senna-tiny-clip-") as scratch:
        arguments = [scratch, *map(str, (seed, images_per_scenario, size, patch))]
        list(worker_lines(__name__, arguments, scenarios))
        parts = [np.load(Path(scratch) / f"{index}.npz") for index in range(scenarios)]
        names = [field.name for field in fields(TowerDataset)]
        return TowerDataset(*(np.concatenate([part[name] for part in parts]) for name in names))


def draw_scenario(seed: int, index: int, count: int, size: int, patch: int) -> TowerDataset:
    """Draw the `count` images that belong to scenario `index`."""
    num_roads = round(count * ROAD_SHARE)
    samples = [_road_sample(seed, index * num_roads + road, size, patch) for road in range(num_roads)]
    rng = np.random.default_rng((seed, index, 9))
    scenario = simulate_scenario(seed, index, 0, SECONDS)
    for _ in range(count - num_roads):
        tick = choose_tick(rng, scenario)
        varied = vary(rng, scenario, tick)
        is_front = rng.random() < FRONT_SHARE
        sensor = CAMERAS[0 if is_front else rng.integers(1, len(CAMERAS))]
        scene = scene_at(varied, tick)
        view = camera_at(sensor, *ego_pose(scenario, tick)).scaled(size / IMAGE_SIZE[0])
        image, top = np.full((size, size, 3), PADDING, dtype=np.uint8), (size - view.size[1]) // 2
        image[top : top + view.size[1]] = np.asarray(paint(scene, view, supersampling=3))
        patches = label_patches(scene, view.padded(size), patch)
        labels = scene_labels(varied, tick) if is_front else NO_LABELS
        samples.append((image, patches.classes, patches.weights, labels))
    return TowerDataset(*(np.stack(column) for column in zip(*samples, strict=True)))


def _road_sample(seed: int, index: int, size: int, patch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[int]]:
    """Return pixels, patch classes, patch weights and scene labels of a road image of stage 1."""
    scene, _ = sample_road(seed, index)
    image = paint(scene, front_camera(ROAD_IMAGE_SIZE)).resize((size, size), Image.Resampling.BICUBIC)
    patches = label_patches(scene, front_camera(size), patch)
    return np.asarray(image), patches.classes, patches.weights, NO_LABELS


def _main(folder: str, seed: str, images: str, size: str, patch: str, count: str, start: str, step: str) -> None:
    """Draw the scenarios of one worker, each into a file of its own."""
    for index in range(int(start), int(count), int(step)):
        dataset = draw_scenario(int(seed), index, int(images), int(size), int(patch))
        np.savez(Path(folder) / f"{index}.npz", **vars(dataset))
        print(index, flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
