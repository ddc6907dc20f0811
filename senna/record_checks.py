"""Checks of a record's values that JSON allows and that fail later: in the tokenizer, the file system or numpy."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from senna.errors import DataError

MOST_IMAGES = 1000
"""The number of ``<image>`` in one record that no real record reaches."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_REPAIR = "correct or remove it"


def has_surrogate(text: str) -> bool:
    """Return whether a text holds half of a UTF-16 pair, which is not a character and cannot be written as UTF-8."""
    return not text.isascii() and _SURROGATE.search(text) is not None


def replace_surrogates(text: str) -> str:
    """Return a text with U+FFFD for every half of a UTF-16 pair."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def shortened(value: object) -> str:
    """Return a value as JSON for a message, at most 80 characters that can be printed."""
    try:
        text = replace_surrogates(json.dumps(value, ensure_ascii=False))
    except (RecursionError, TypeError, ValueError):
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def check_values(record: Mapping[str, Any]) -> None:
    """Check the texts, image paths and numbers of a record.

    Raises:
        DataError: a text has a lone surrogate, an image path a NUL character, or ``speed`` or ``ego_fut_trajs`` does not
            consist of finite numbers. The error does not name the record.
    """
    for key, text in _texts(record) if _may_have_surrogate(record) else ():
        if has_surrogate(text):
            raise DataError(
                f"has a lone surrogate, half of a character, in its {key!r}: {_escaped(text)}", remedy=_REPAIR
            )
    for key in ("image", "images"):
        paths = record.get(key)
        for path in paths if isinstance(paths, list) else [paths]:
            if isinstance(path, str) and "\0" in path:
                raise DataError(f"has a NUL character in its {key!r}: {shortened(path)}", remedy=_REPAIR)
    speed, trajectory = record.get("speed"), record.get("ego_fut_trajs")
    if speed is not None and not _is_finite(speed):
        raise DataError(f"has a 'speed' that is not a finite number: {shortened(speed)}", remedy=_REPAIR)
    if trajectory is not None and not _is_trajectory(trajectory):
        raise DataError(
            f"has an 'ego_fut_trajs' that is not a list of [x, y] with finite numbers: {shortened(trajectory)}",
            remedy="write one [x, y] for each step that is known",
        )


def check_count(images: int) -> None:
    """Raise DataError if a record has more ``<image>`` than ``MOST_IMAGES``. The error does not name the record."""
    if images > MOST_IMAGES:
        raise DataError(f"has {images} <image>, more than {MOST_IMAGES}", remedy=_REPAIR)


def _may_have_surrogate(record: Mapping[str, Any]) -> bool:
    """Return False only if no text of a record has a lone surrogate, which ``repr`` writes as an escape."""
    try:
        return "\\ud" in repr(record)
    except RecursionError:
        return True


def _texts(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (key of the record, text) for all texts in it. It uses no recursion, which deep values would exhaust."""
    for key, top in record.items():
        yield key, key
        values = [top]
        while values:
            value = values.pop()
            if isinstance(value, str):
                yield key, value
            elif isinstance(value, list):
                values.extend(value)
            elif isinstance(value, dict):
                values.extend(value)
                values.extend(value.values())


def _escaped(text: str) -> str:
    found = _SURROGATE.search(text)
    start = max(found.start() - 20, 0) if found else 0
    return json.dumps(text[start : start + 41])


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_trajectory(value: object) -> bool:
    if not isinstance(value, list) or not all(isinstance(point, list) for point in value):
        return False
    sizes = {len(point) for point in value}
    return (not value or (len(sizes) == 1 and min(sizes) >= 2)) and all(
        map(_is_finite, (x for point in value for x in point))
    )
