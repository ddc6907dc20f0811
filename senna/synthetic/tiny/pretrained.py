"""The pretrained models of the tiny preset, which come with the package: folders of `pretrained_models`.

They take the place of Vicuna and CLIP, which nobody trains before using Senna either. A folder has what
`make.train_tiny_models` writes, with weights in float16, and recipe and seed in recipe.json. After a change of a recipe:

    senna synthesize --stage1 --pretrain --out DIR && python -m senna.synthetic.tiny.pretrained DIR
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path

from senna.files import sync_tree
from senna.synthetic.folders import STAMP

FOLDER = Path(__file__).with_name("pretrained_models")
NAMES = ("llm", "clip")
RECIPE, WEIGHTS = "recipe.json", "model.safetensors"


def digest(name: str) -> str:
    """Return the SHA-256 of a model's weights, 16 hexadecimal digits of it."""
    return hashlib.sha256((FOLDER / name / WEIGHTS).read_bytes()).hexdigest()[:16]


def write_model(name: str, folder: Path) -> None:
    """Write a model, with float32 weights, into an existing folder."""
    _copy(FOLDER / name, folder, "float32")


def replace_models(trained: Path) -> None:
    """Replace the models of the package by those that `make.train_tiny_models` has written into `trained`."""
    for name in NAMES:
        target = FOLDER / name
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        _copy(trained / name, target, "float16")
        shutil.copyfile(trained / name / STAMP, target / RECIPE)


def _copy(source: Path, target: Path, dtype: str) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    for path in source.iterdir():
        if path.name not in (WEIGHTS, STAMP, RECIPE):
            shutil.copyfile(path, target / path.name)
    weights = {name: weight.to(getattr(torch, dtype)) for name, weight in load_file(source / WEIGHTS).items()}
    save_file(weights, target / WEIGHTS, metadata={"format": "pt"})
    sync_tree(target)


if __name__ == "__main__":
    replace_models(Path(sys.argv[1]))
