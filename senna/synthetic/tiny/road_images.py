"""Road images with captions, in the format of LLaVA-Pretrain."""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from senna.synthetic.folders import make_folder, needs_making
from senna.synthetic.render.painter import paint
from senna.synthetic.render.scene import Scene
from senna.synthetic.tiny.captions import caption, facts_of, instruction
from senna.synthetic.tiny.road_scenes import front_camera, sample_scene
from senna.synthetic.workers import worker_lines

VERSION = 2  # increase it when a change gives other images or captions for the same seed
ROAD_IMAGE_SIZE = 224
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


def draw_record(images: Path, seed: int, index: int) -> dict[str, object]:
    """Draw image `index` into the folder `images` and return its record."""
    scene, rng = sample_road(seed, index)
    name = f"{index:06d}.jpg"
    paint(scene, front_camera(ROAD_IMAGE_SIZE)).save(images / name, quality=90)
    question = instruction(rng)
    prompt = f"{question}\n<image>" if rng.random() < 0.5 else f"<image>\n{question}"
    answer = caption(facts_of(scene), rng)
    turns = [{"from": "human", "value": prompt}, {"from": "gpt", "value": answer}]
    return {"id": f"road-{seed}-{index:06d}", "image": name, "conversations": turns}


def _draw_into(folder: Path, count: int, seed: int) -> None:
    """Draw into an empty folder, on all cores."""
    (folder / IMAGES).mkdir()
    lines = worker_lines("senna.synthetic.tiny.road_images", [str(folder / IMAGES), str(seed)], count)
    records = [json.loads(line) for line in tqdm(lines, total=count, desc="drawing road images", unit="image")]
    text = json.dumps(records, indent=1, ensure_ascii=False)
    (folder / CAPTIONS).write_text(text + "\n", encoding="utf-8")


def _main(images: str, seed: str, count: str, start: str, step: str) -> None:
    """Draw the images of one worker and print a record a line."""
    for index in range(int(start), int(count), int(step)):
        print(json.dumps(draw_record(Path(images), int(seed), index), ensure_ascii=False), flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
