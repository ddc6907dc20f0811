"""The tiny preset: pictures, a small CLIP and a small Llama, all made on the spot from a seed, on a CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from senna.errors import SennaError
from senna.synthetic.folders import make_whole, needs_making
from senna.synthetic.tiny.road_images import IMAGES, write_road_pictures
from senna.synthetic.tiny.train_llm import ReadingRecipe, make_llm
from senna.synthetic.tiny.train_tower import SeeingRecipe, make_clip
from senna.synthetic.workers import child_environment

VERSION = 2  # of the models: a change to what a seed gives raises it
LESSONS_APART = 1_000_003  # the tower learns from pictures of another seed than stage 1 trains on
PARTS = {"clip": SeeingRecipe, "llm": ReadingRecipe}


def make_tiny_models(
    folder: str | os.PathLike[str],
    seed: int = 0,
    seeing: SeeingRecipe | None = None,
    reading: ReadingRecipe | None = None,
) -> dict[str, Path]:
    """Make `folder`/clip and `folder`/llm; returns their paths under "vision_tower" and "model".

    Each is trained in a process of its own on one thread: on two cores that is faster than one after the other on two,
    never stalls on a busy machine, and gives the same weights for the same seed on any number of cores. Folders
    completed before are left as they are. UsageError when one holds something else.
    """
    recipes = {"clip": seeing or SeeingRecipe(), "llm": reading or ReadingRecipe()}
    folder = Path(folder)
    missing = [part for part, recipe in recipes.items() if needs_making(folder / part, _stamp(part, seed, recipe))]
    makers = {
        part: subprocess.Popen(
            [sys.executable, "-m", __name__, part, str(folder / part), str(seed), json.dumps(asdict(recipes[part]))],
            env=child_environment(),
        )
        for part in missing
    }
    try:
        failed = [part for part, maker in makers.items() if maker.wait() != 0]
    finally:
        for maker in makers.values():
            maker.kill()
    if failed:
        raise SennaError(f"{folder / failed[0]} could not be made: see the message above")
    return {"model": folder / "llm", "vision_tower": folder / "clip"}


def prepare_tiny_stage1(folder: str | os.PathLike[str], seed: int = 0, count: int = 1536) -> dict[str, Path]:
    """All that stage 1 needs, under `folder`: paths "model", "vision_tower", "data" (captions.json) and "images"."""
    data = write_road_pictures(Path(folder) / "pictures", count, seed)
    return {**make_tiny_models(folder, seed), "data": data, "images": data.parent / IMAGES}


def _stamp(part: str, seed: int, recipe: SeeingRecipe | ReadingRecipe) -> dict[str, object]:
    return {"what": f"tiny {part}", "version": VERSION, "seed": seed, **asdict(recipe)}


def _make(part: str, folder: str, seed: str, recipe: str) -> None:
    """What a maker's process does."""
    import torch

    torch.set_num_threads(1)
    parsed = PARTS[part](**json.loads(recipe))
    if part == "clip":
        make_whole(
            Path(folder),
            _stamp(part, int(seed), parsed),
            lambda place: make_clip(place, int(seed) + LESSONS_APART, parsed),
        )
    else:
        make_whole(Path(folder), _stamp(part, int(seed), parsed), lambda place: make_llm(place, int(seed), parsed))


if __name__ == "__main__":
    _make(*sys.argv[1:])
