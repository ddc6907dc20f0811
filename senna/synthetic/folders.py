"""Folders that are either complete or not there: made beside their place, stamped, then renamed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from senna.errors import UsageError

STAMP = "complete.json"


def needs_making(folder: Path, recipe: Mapping[str, object]) -> bool:
    """Whether `folder` is not yet, or not by this `recipe`, complete.

    UsageError when it holds something that `make_whole` did not make: that stays as it is.
    """
    if not folder.exists():
        return True
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder: name another place")
    found = _recipe_of(folder)
    if found is None and any(folder.iterdir()):
        raise UsageError(f"{folder} holds something else already: name another folder, or empty this one")
    return found != dict(recipe)


def make_whole(folder: Path, recipe: Mapping[str, object], make: Callable[[Path], object]) -> None:
    """Let `make` fill a neighbouring folder, which takes the name `folder` only when it is whole and stamped.

    What an interrupted making left is thrown away first.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.parent / f".{folder.name}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    make(unfinished)
    (unfinished / STAMP).write_text(json.dumps(dict(recipe), indent=1) + "\n", encoding="utf-8")
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(unfinished, folder)


def _recipe_of(folder: Path) -> dict[str, object] | None:
    try:
        return json.loads((folder / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
