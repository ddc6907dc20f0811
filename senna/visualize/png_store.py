"""Pictures on disk: each whole or absent, with a note in it of what decided it, so that a run knows which it can keep."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from senna.errors import UsageError
from senna.files import atomic_write

_NOTE = "senna"  # the PNG's text chunk


def write_png(picture: Image.Image, path: Path, settings: Mapping[str, Any], unreadable: int = 0) -> None:
    """Write a PNG, whole or not at all. ``unreadable``: how many of its views could not be read. Raises SennaError."""
    note = PngInfo()
    note.add_text(_NOTE, json.dumps({"settings": settings, "unreadable": unreadable}))
    with atomic_write(path) as partial:
        picture.save(partial, "PNG", pnginfo=note, compress_level=4)


def read_note(path: Path) -> dict[str, Any] | None:
    """What ``write_png`` noted: {"settings", "unreadable"}; None where there is no such picture, or not all of it."""
    try:
        with Image.open(path) as picture:
            note = json.loads(picture.info[_NOTE])
            picture.load()
        return note
    except (OSError, ValueError, SyntaxError, KeyError):
        return None


def missing(paths: Iterable[Path], settings: Mapping[str, Any]) -> set[Path]:
    """The pictures that are to be drawn: those not there, not whole, or without an image that may be there by now.

    Raises UsageError, which says what differs, where one is there that was drawn with other settings.
    """
    found = set()
    for path in paths:
        note = read_note(path)
        if note is not None and note["settings"] != settings:
            before = note["settings"]
            names = [name for name in settings if before.get(name) != settings[name]]
            told = "; ".join(f"{name} was {before.get(name)!r} and is {settings[name]!r}" for name in names)
            raise UsageError(f"{path} is of another run: {told}. Give another --out, or --overwrite to draw it anew")
        if note is None or note["unreadable"]:
            found.add(path)
    return found
