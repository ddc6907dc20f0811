"""Pictures on disk. Each PNG holds the settings that it was drawn with, so that a continued run knows which ones to keep."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from senna import run_folder
from senna.files import atomic_write

FILES = "files"
"""The setting with the `senna.contents` hashes of the files that other settings name: name of the setting -> hash."""

_NOTE = "senna"  # the PNG's text chunk


def write_png(picture: Image.Image, path: Path, settings: Mapping[str, Any], unreadable: int = 0) -> None:
    """Write a PNG atomically, with its settings and the number of views that could not be read. Raises SennaError."""
    note = PngInfo()
    note.add_text(_NOTE, json.dumps({"settings": settings, "unreadable": unreadable}))
    with atomic_write(path) as partial:
        picture.save(partial, "PNG", pnginfo=note, compress_level=4)


def read_note(path: Path) -> dict[str, Any] | None:
    """Return {"settings", "unreadable"} as ``write_png`` stored it; None where the picture is missing or damaged."""
    try:
        with Image.open(path) as picture:
            note = json.loads(picture.info[_NOTE])
            picture.load()
        return note
    except (OSError, ValueError, SyntaxError, KeyError):
        return None


def pictures_to_draw(
    paths: Iterable[Path], settings: Mapping[str, Any], earlier: Mapping[str, Any] | None = None
) -> set[Path]:
    """Return the pictures to draw: those that are missing, damaged, or were drawn without an image that may exist now.

    Args:
        settings: what pictures are drawn with now. The paths of `FILES` may differ if their contents are equal.
        earlier: the same as an earlier version of Senna wrote them.

    Raises:
        UsageError: a picture was drawn with other settings; the message names what differs.
    """
    shown = {"--base", *(name for name, content in settings.get(FILES, {}).items() if content)}
    to_draw = set()
    for path in paths:
        note = read_note(path)
        if note is not None:
            now = earlier if earlier and isinstance(note["settings"].get(FILES), list) else settings
            remedy = "give another --out, or use --overwrite to draw it again"
            run_folder.check_same_run(path, note["settings"], now, remedy=remedy, names=now, shown=shown)
        if note is None or note["unreadable"]:
            to_draw.add(path)
    return to_draw
