"""The training data of the tiny tower: images with labels of each patch and, for front views, of the scene.

A third are road images as in stage 1. The others show the driving world, in scenarios that are never written to a data set.
"""

from __future__ import annotations

import math
import sys
import tempfile
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from PIL import Image

from senna.synthetic.render.painter import paint
from senna.synthetic.render.scene import SKIES, VEHICLE_KINDS
from senna.synthetic.tiny.patch_labels import label_patches
from senna.synthetic.tiny.road_images import ROAD_IMAGE_SIZE, sample_road
from senna.synthetic.tiny.road_scenes import front_camera
from senna.synthetic.tiny.scene_labels import SCENE_LABELS, distance_to_stop_line, scene_labels
from senna.synthetic.workers import worker_lines
from senna.synthetic.world.scenarios import Scenario, simulate_scenario
from senna.synthetic.world.sensors import CAMERAS, IMAGE_SIZE, camera_at
from senna.synthetic.world.snapshot import ego_pose, scene_at
from senna.synthetic.world.town import GREEN, LANE_WIDTH, NODES, PERIOD, YELLOW, Signals
from senna.synthetic.world.traffic import TICK, Tracks

# N images of S x S pixels, P patches of an image

ROAD_SHARE = 1 / 3  # share of road images
FRONT_SHARE = 0.75  # share of the front camera among the other images
SECONDS = 20.0
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
        ticks = rng.integers(0, len(scenario.tracks.states), 2).tolist()
        tick = min(ticks, key=lambda tick: distance_to_stop_line(*ego_pose(scenario, tick)))
        varied = _vary(rng, scenario, tick)
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


def _vary(rng: np.random.Generator, scenario: Scenario, tick: int) -> Scenario:
    """Return the scenario with another sky, other signals and, half of the time, one vehicle moved in front of the ego.

    Unchanged scenarios rarely show some of the classes. The signals are set so that red and green are equally frequent at
    this tick, and yellow occurs too.
    """
    heading = round(ego_pose(scenario, tick)[2] / (math.pi / 2)) % 4
    spans = ((0, GREEN), (GREEN, GREEN + YELLOW), (GREEN + YELLOW, PERIOD))
    chosen = rng.choice(3, len(NODES), p=(0.45, 0.1, 0.45))
    offsets = tuple(float(rng.uniform(*spans[span]) - tick * TICK) for span in chosen)
    states = scenario.tracks.states.copy()
    vehicles = [index for index, mover in enumerate(scenario.tracks.movers) if mover.kind in VEHICLE_KINDS]
    if vehicles and rng.random() < 0.5:
        x, y, yaw = states[tick, 0, :3]
        gap, left = 60 * rng.random() ** 2 + 7, LANE_WIDTH * rng.choice((-1, 0, 1), p=(0.2, 0.6, 0.2))
        position = x + gap * math.cos(yaw) - left * math.sin(yaw), y + gap * math.sin(yaw) + left * math.cos(yaw)
        acceleration = -2.0 if rng.random() < 0.5 else 0.0
        states[tick, vehicles[rng.integers(len(vehicles))]] = (*position, yaw, 5.0, acceleration)
    return replace(
        scenario,
        signals=Signals(offsets, (heading,) * len(NODES)),
        sky=SKIES[rng.integers(len(SKIES))],
        tracks=Tracks(scenario.tracks.movers, states),
    )


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
