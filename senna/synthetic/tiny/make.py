"""The models of the tiny preset, a small CLIP and a small Llama: pretrained ones, or trained here from a seed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path

from senna.errors import SennaError
from senna.run_folder import read_settings
from senna.synthetic.folders import STAMP, make_folder, needs_making
from senna.synthetic.tiny import pretrained
from senna.synthetic.tiny.recipes import LlmRecipe, TowerRecipe
from senna.synthetic.tiny.road_images import IMAGES, write_road_images
from senna.synthetic.workers import child_environment

VERSION = 5  # increase it when a change gives other weights for the same seed
TOWER_SEED_OFFSET = 1_000_003  # keeps the tower's training images apart from those of stage 1


@contextmanager
def train_tiny_models(
    folder: str | os.PathLike[str], seed: int = 0, tower: TowerRecipe | None = None, llm: LlmRecipe | None = None
) -> Iterator[None]:
    """Train `folder`/clip and `folder`/llm while the context lasts. At its end they are complete.

    Each model is trained in its own process on one thread. On two cores this is faster than training them in turn on two
    threads, and the weights do not depend on the number of cores. Complete folders are kept.

    Raises:
        UsageError: one of the folders holds other files.
        SennaError: the training of a model failed.
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
        yield
        failed = [name for name, process in trainings.items() if process.wait() != 0]
    finally:
        for process in trainings.values():
            process.kill()
    if failed:
        raise SennaError(f"the training of {folder / failed[0]} failed", remedy="see the message above")


def write_tiny_models(folder: str | os.PathLike[str]) -> None:
    """Write the pretrained `folder`/clip and `folder`/llm. Complete folders are kept, also those that were trained here.

    Raises:
        UsageError: one of the folders holds other files.
    """
    recipes: dict[str, TowerRecipe | LlmRecipe] = {"clip": TowerRecipe(), "llm": LlmRecipe()}
    for name, recipe in recipes.items():
        target, stamp = Path(folder) / name, {"what": f"tiny {name}", "weights": pretrained.digest(name)}
        found = read_settings(target / STAMP) or {}
        trained_here = "seed" in found and found == _stamp(name, found["seed"], recipe)
        if needs_making(target, stamp) and not trained_here:
            make_folder(target, stamp, partial(pretrained.write_model, name))


@contextmanager
def preparing_tiny_stage1(
    folder: str | os.PathLike[str], seed: int = 0, count: int = 1536, pretrain: bool = False
) -> Iterator[dict[str, Path]]:
    """Make everything that stage 1 needs in `folder`.

    Args:
        pretrain: train the models, while the context lasts; the default writes the pretrained ones of the package.

    Yields:
        The paths "model", "vision_tower", "data" (captions.json) and "images". After the context they are complete.
    """
    folder = Path(folder)
    data = write_road_images(folder / "pictures", count, seed)
    paths = {"model": folder / "llm", "vision_tower": folder / "clip", "data": data, "images": data.parent / IMAGES}
    if not pretrain:
        write_tiny_models(folder)
    with train_tiny_models(folder, seed) if pretrain else nullcontext():
        yield paths


def _stamp(name: str, seed: int, recipe: TowerRecipe | LlmRecipe) -> dict[str, object]:
    return {"what": f"tiny {name}", "version": VERSION, "seed": seed, **asdict(recipe)}


def _main(name: str, folder: str, seed: str, recipe: str) -> None:
    """Train one model; the entry point of the processes that `train_tiny_models` starts."""
    import torch

    from senna.synthetic.tiny.train_llm import make_llm
    from senna.synthetic.tiny.train_tower import make_clip

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
