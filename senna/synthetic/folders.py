"""Folders that are either complete or absent: built under a temporary name, stamped with their recipe, then renamed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from senna.errors import UsageError
from senna.run_folder import content, differences, is_bystander, read_settings

STAMP = "complete.json"


def needs_making(folder: Path, recipe: Mapping[str, object]) -> bool:
    """Return whether `folder` is absent, empty, or complete but made by another recipe.

    Raises:
        UsageError: the folder holds files that `make_folder` did not write. They are left untouched.
    """
    if not folder.exists():
        return True
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder", remedy="choose another folder")
    found = read_settings(folder / STAMP)
    if not found and (others := content(folder)):
        raise UsageError(
            f"{folder} already holds other files ({others[0].name})", remedy="choose another folder, or empty this one"
        )
    return bool(differences(found or {}, recipe))


def make_folder(folder: Path, recipe: Mapping[str, object], make: Callable[[Path], object]) -> None:
    """Let `make` fill a temporary folder beside `folder`, write the stamp into it and rename it to `folder`.

    Leftovers of an interrupted attempt are deleted first. An existing `folder` is replaced. Raises UsageError where the
    folder cannot be made.
    """
    unfinished = folder.parent / f".{folder.name}.unfinished"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be made: {error.strerror or error}", remedy="choose another output folder"
        ) from error
    make(unfinished)
    (unfinished / STAMP).write_text(json.dumps(dict(recipe), indent=1) + "\n", encoding="utf-8")
    if folder.exists():
        for path in filter(is_bystander, list(folder.iterdir())):
            if not (unfinished / path.name).exists():
                path.replace(unfinished / path.name)  # for example a log, which may still be written to
        shutil.rmtree(folder)
    os.replace(unfinished, folder)
