"""What the tiny tower learns from: pictures with the answers to what each patch, and each picture as a whole, shows.

A third are road pictures as of stage 1, the others moments of the driving world, of other journeys than are ever written.
"""

from __future__ import annotations

import math
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from senna.synthetic.render.painter import paint
from senna.synthetic.render.scene import SKIES, VEHICLE_KINDS
from senna.synthetic.tiny.patch_labels import label_patches
from senna.synthetic.tiny.road_images import PICTURE_SIZE, scene_of
from senna.synthetic.tiny.road_scenes import front_camera
from senna.synthetic.tiny.scene_labels import OUTLOOK, outlook_at, to_stop_line
from senna.synthetic.workers import worker_lines
from senna.synthetic.world.scenarios import Journey, retrace
from senna.synthetic.world.sensors import CAMERAS, IMAGE_SIZE, camera_at
from senna.synthetic.world.snapshot import ego_pose, scene_at
from senna.synthetic.world.town import GREEN, LANE, NODES, PERIOD, YELLOW, Signals
from senna.synthetic.world.traffic import TICK, Tracks

ROADS = 1 / 3  # share of road pictures
FRONT = 0.75  # share of the front camera
SECONDS = 20.0
PADDING = (122, 116, 104)  # CLIP's mean colour, which stages 2 and 3 make pictures square with


@dataclass(frozen=True)
class Lessons:
    """N pictures: `pixels` uint8 (N, S, S, 3), `classes` and `weights` (N, 5, P) of their patches (see patches.py), `outlook`
    (N, 9) the answers to OUTLOOK, -1 where a picture is no view ahead in the driving world."""

    pixels: np.ndarray
    classes: np.ndarray
    weights: np.ndarray
    outlook: np.ndarray


def draw_lessons(seed: int, journeys: int, pictures: int, size: int, patch: int) -> Lessons:
    """So many pictures with each of so many journeys, of `size` pixels, drawn on all cores."""
    with tempfile.TemporaryDirectory(prefix="senna-tiny-clip-") as scratch:
        list(worker_lines(__name__, [scratch, str(seed), str(pictures), str(size), str(patch)], journeys))
        parts = [np.load(Path(scratch) / f"{index}.npz") for index in range(journeys)]
        return Lessons(
            *(np.concatenate([part[name] for part in parts]) for name in ("pixels", "classes", "weights", "outlook"))
        )


def lessons_of(seed: int, index: int, pictures: int, size: int, patch: int) -> Lessons:
    """The pictures that go with journey `index`."""
    roads = round(pictures * ROADS)
    made = [_road_picture(seed, index * roads + i, size, patch) for i in range(roads)]
    rng = np.random.default_rng((seed, index, 9))
    journey = retrace(seed, index, 0, SECONDS)
    for _ in range(pictures - roads):
        ticks = rng.integers(0, len(journey.tracks.states), 2).tolist()
        tick = min(ticks, key=lambda one: to_stop_line(*ego_pose(journey, one)))
        moment = _changed(rng, journey, tick)
        is_front = rng.random() < FRONT
        sensor = CAMERAS[0 if is_front else rng.integers(1, len(CAMERAS))]
        scene = scene_at(moment, tick)
        view = camera_at(sensor, *ego_pose(journey, tick)).scaled(size / IMAGE_SIZE[0])
        picture, top = np.full((size, size, 3), PADDING, dtype=np.uint8), (size - view.size[1]) // 2
        picture[top : top + view.size[1]] = np.asarray(paint(scene, view, supersampling=3))
        labels = label_patches(scene, view.padded(size), patch)
        outlook = outlook_at(moment, tick) if is_front else [-1] * len(OUTLOOK)
        made.append((picture, labels.classes, labels.weights, outlook))
    return Lessons(*(np.stack(column) for column in zip(*made, strict=True)))


def _changed(rng: np.random.Generator, journey: Journey, tick: int) -> Journey:
    """The journey under another sky, its signals set so that the ego sees red and green alike, and sometimes yellow, and
    half of the time with somebody more ahead: chance leaves out much of what a driver must know when he sees it."""
    heading = round(ego_pose(journey, tick)[2] / (math.pi / 2)) % 4
    spans = ((0, GREEN), (GREEN, GREEN + YELLOW), (GREEN + YELLOW, PERIOD))
    chosen = rng.choice(3, len(NODES), p=(0.45, 0.1, 0.45))
    offsets = tuple(float(rng.uniform(*spans[span]) - tick * TICK) for span in chosen)
    states = journey.tracks.states.copy()
    movers = [i for i, mover in enumerate(journey.tracks.movers) if mover.kind in VEHICLE_KINDS]
    if movers and rng.random() < 0.5:
        x, y, yaw = states[tick, 0, :3]
        gap, left = 60 * rng.random() ** 2 + 7, LANE * rng.choice((-1, 0, 1), p=(0.2, 0.6, 0.2))
        place = x + gap * math.cos(yaw) - left * math.sin(yaw), y + gap * math.sin(yaw) + left * math.cos(yaw)
        states[tick, movers[rng.integers(len(movers))]] = (*place, yaw, 5.0, -2.0 if rng.random() < 0.5 else 0.0)
    return replace(
        journey,
        signals=Signals(offsets, (heading,) * len(NODES)),
        sky=SKIES[rng.integers(len(SKIES))],
        tracks=Tracks(journey.tracks.movers, states),
    )


def _road_picture(seed: int, index: int, size: int, patch: int) -> tuple:
    scene, _ = scene_of(seed, index)
    camera = front_camera(size)
    picture = paint(scene, front_camera(PICTURE_SIZE)).resize((size, size), Image.Resampling.BICUBIC)
    labels = label_patches(scene, camera, patch)
    return np.asarray(picture), labels.classes, labels.weights, [-1] * len(OUTLOOK)


def _work(folder: str, seed: str, pictures: str, size: str, patch: str, count: str, start: str, step: str) -> None:
    """One worker's share, a file a journey."""
    for index in range(int(start), int(count), int(step)):
        lessons = lessons_of(int(seed), index, int(pictures), int(size), int(patch))
        np.savez(Path(folder) / f"{index}.npz", **vars(lessons))
        print(index, flush=True)


if __name__ == "__main__":
    _work(*sys.argv[1:])
