"""The models of the tiny preset: a small CLIP and a small Llama, trained on the CPU from a seed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from senna.errors import SennaError
from senna.synthetic.folders import make_folder, needs_making
from senna.synthetic.tiny.road_images import IMAGES, write_road_images
from senna.synthetic.tiny.train_llm import LlmRecipe, make_llm
from senna.synthetic.tiny.train_tower import TowerRecipe, make_clip
from senna.synthetic.workers import child_environment

VERSION = 3  # increase it when a change gives other weights for the same seed
TOWER_SEED_OFFSET = 1_000_003  # keeps the tower's training images apart from those of stage 1


def make_tiny_models(
    folder: str | os.PathLike[str],
    seed: int = 0,
    tower: TowerRecipe | None = None,
    llm: LlmRecipe | None = None,
) -> dict[str, Path]:
    """Train `folder`/clip and `folder`/llm and return their paths under "vision_tower" and "model".

    Raises:
        UsageError: one of the folders holds other files.
        SennaError: the training of a model failed.
    """
    with _training_tiny_models(folder, seed, tower, llm) as models:
        return models


@contextmanager
def _training_tiny_models(
    folder: str | os.PathLike[str], seed: int, tower: TowerRecipe | None = None, llm: LlmRecipe | None = None
) -> Iterator[dict[str, Path]]:
    """Yield the paths of `make_tiny_models` while the models train. At the end of the context they are complete.

    Each model is trained in its own process on one thread. On two cores this is faster than training them in turn on two
    threads, and the weights do not depend on the number of cores. Complete folders are kept.
    """
    recipes: dict[str, TowerRecipe | LlmRecipe] = {"clip": tower or TowerRecipe(), "llm": llm or LlmRecipe()}
    folder = Path(folder)
    missing = [name for name, recipe in recipes.items() if needs_making(folder / name, _stamp(name, seed, recipe))]
    trainings = {
        name: subprocess.Popen(
            [sys.executable, "-m", __name__, name, str(folder / name), str(seed), json.dumps(asdict(recipes[name]))],
            env=child_environment(),
        )
        for name in missing
    }
    try:
        yield {"model": folder / "llm", "vision_tower": folder / "clip"}
        failed = [name for name, process in trainings.items() if process.wait() != 0]
    finally:
        for process in trainings.values():
            process.kill()
    if failed:
        raise SennaError(f"the training of {folder / failed[0]} failed", remedy="see the message above")


@contextmanager
def preparing_tiny_stage1(
    folder: str | os.PathLike[str], seed: int = 0, count: int = 1536
) -> Iterator[dict[str, Path]]:
    """Make everything that stage 1 needs in `folder`. The models are trained while the context lasts.

    Yields:
        The paths "model", "vision_tower", "data" (captions.json) and "images". After the context they are complete.
    """
    data = write_road_images(Path(folder) / "pictures", count, seed)
    with _training_tiny_models(folder, seed) as models:
        yield {**models, "data": data, "images": data.parent / IMAGES}


def _stamp(name: str, seed: int, recipe: TowerRecipe | LlmRecipe) -> dict[str, object]:
    return {"what": f"tiny {name}", "version": VERSION, "seed": seed, **asdict(recipe)}


def _main(name: str, folder: str, seed: str, recipe: str) -> None:
    """Train one model; the entry point of the processes that `make_tiny_models` starts."""
    import torch

    torch.set_num_threads(1)
    if name == "clip":
        tower = TowerRecipe(**json.loads(recipe))
        stamp = _stamp(name, int(seed), tower)
        make_folder(Path(folder), stamp, lambda folder: make_clip(folder, int(seed) + TOWER_SEED_OFFSET, tower))
    else:
        llm = LlmRecipe(**json.loads(recipe))
        make_folder(Path(folder), _stamp(name, int(seed), llm), lambda folder: make_llm(folder, int(seed), llm))


if __name__ == "__main__":
    _main(*sys.argv[1:])
