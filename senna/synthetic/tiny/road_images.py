"""Road images with captions, in the format of LLaVA-Pretrain."""

from __future__ import annotations

import json
import os
import sys
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from senna.synthetic.folders import make_folder, needs_making
from senna.synthetic.render.camera import Camera
from senna.synthetic.render.painter import paint
from senna.synthetic.render.scene import Scene
from senna.synthetic.tiny.captions import Facts, conversations, facts_of
from senna.synthetic.tiny.road_scenes import front_camera, sample_scene
from senna.synthetic.tiny.town_views import SECONDS, choose_tick, town_facts, vary
from senna.synthetic.workers import worker_lines
from senna.synthetic.world.scenarios import Scenario, simulate_scenario
from senna.synthetic.world.sensors import CAMERAS, camera_at
from senna.synthetic.world.snapshot import ego_pose, scene_at

VERSION = 7  # increase it when a change gives other images or captions for the same seed
ROAD_IMAGE_SIZE = 224
TOWN_WIDTH = 400  # pixels of a front view of the driving world, which is 16 : 9
TOWN_SEED_OFFSET = 3_000_017  # keeps its scenarios apart from those of a data set and of the tower
TOWN_IMAGES_PER_SCENARIO = 48
CAPTIONS = "captions.json"
IMAGES = "images"


def write_road_images(folder: str | os.PathLike[str], count: int = 1024, seed: int = 0) -> Path:
    """Draw `count` images into `folder`/images and write `folder`/captions.json.

    The same seed gives the same bytes. A folder that is complete for this count and seed is kept.

    Returns:
        The path of captions.json.

    Raises:
        UsageError: the folder holds other files.
    """
    folder = Path(folder)
    recipe = {"what": "road pictures", "version": VERSION, "count": count, "seed": seed, "size": ROAD_IMAGE_SIZE}
    if needs_making(folder, recipe):
        make_folder(folder, recipe, partial(_draw_into, count=count, seed=seed))
    return folder / CAPTIONS


def sample_road(seed: int, index: int) -> tuple[Scene, np.random.Generator]:
    """Return the scene of image `index`, and the generator in the state in which it then chooses the words."""
    rng = np.random.default_rng((seed, index))
    return sample_scene(rng), rng


def is_town(index: int) -> bool:
    """Return whether image `index` is a front view of the driving world: every other pair, so that both workers have some."""
    return index // 2 % 2 == 1


def sample_town(seed: int, index: int) -> tuple[Scene, Camera, Facts, np.random.Generator]:
    """Return the scene, the camera and the facts of a front view of the driving world, and the generator, as `sample_road`."""
    number = index // 4 * 2 + index % 2
    block = number // 2 // TOWN_IMAGES_PER_SCENARIO
    scenario = _town_scenario(seed + TOWN_SEED_OFFSET, 2 * block + number % 2)  # each of two workers simulates its own
    rng = np.random.default_rng((seed, index))
    tick = choose_tick(rng, scenario)
    varied = vary(rng, scenario, tick, exponent=1.0)
    camera = camera_at(CAMERAS[0], *ego_pose(varied, tick), TOWN_WIDTH)
    return scene_at(varied, tick), camera, town_facts(varied, tick), rng


@lru_cache(maxsize=2)
def _town_scenario(seed: int, index: int) -> Scenario:
    return simulate_scenario(seed, index, 0, SECONDS)


def draw_records(images: Path, seed: int, index: int) -> list[dict[str, object]]:
    """Draw image `index` into the folder `images` and return its records: those of `conversations`."""
    if is_town(index):
        scene, camera, facts, rng = sample_town(seed, index)
    else:
        scene, rng = sample_road(seed, index)
        camera, facts = front_camera(ROAD_IMAGE_SIZE), facts_of(scene)
    name = f"{index:06d}.jpg"
    paint(scene, camera).save(images / name, quality=90)
    return [
        {"id": f"road-{seed}-{index:06d}-{kind}", "image": name, "conversations": turns}
        for kind, turns in conversations(facts, rng).items()
    ]


def _draw_into(folder: Path, count: int, seed: int) -> None:
    """Draw into an empty folder, on all cores."""
    (folder / IMAGES).mkdir()
    lines = worker_lines("senna.synthetic.tiny.road_images", [str(folder / IMAGES), str(seed)], count)
    lines = tqdm(lines, total=count, desc="drawing road images", unit="image")
    records = [record for line in lines for record in json.loads(line)]
    text = json.dumps(records, indent=1, ensure_ascii=False)
    (folder / CAPTIONS).write_text(text + "\n", encoding="utf-8")


def _main(images: str, seed: str, count: str, start: str, step: str) -> None:
    """Draw the images of one worker and print the records of an image a line."""
    for index in range(int(start), int(count), int(step)):
        print(json.dumps(draw_records(Path(images), int(seed), index), ensure_ascii=False), flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
