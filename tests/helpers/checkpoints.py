"""Checkpoints that tests open: the published tiny model, and a pickle with code."""

import os
import shutil
from pathlib import Path

from tests.helpers.paths import GOLDEN
from tests.helpers.small_tokenizers import llama_folder


class MakesFolder:
    """An object whose unpickling would create a folder: a harmless stand-in for code in a pickle."""

    def __init__(self, folder: Path):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def write_checkpoint(folder: Path, name: str) -> Path:
    """Write the published tiny checkpoint with a tokenizer as ``folder / name``, and its vision tower beside it."""
    shutil.copytree(GOLDEN / "clip_tiny", folder / "clip_tiny")
    checkpoint = llama_folder(folder / name)
    for file in ("config.json", "model.safetensors"):
        shutil.copy(GOLDEN / "model_v320" / file, checkpoint)
    return checkpoint
