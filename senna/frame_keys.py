"""Keys that group records by frame, computed while a file is indexed, from the paths in a record, without opening an image."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from senna.views import IMAGE_TOKEN


def frame_key(record: Mapping[str, Any], images: int, number: int) -> int:
    """Return a 64-bit key that is equal, within this process, for records that can share the start of their prompt.

    Such records name the same images and have the same text up to the last ``<image>`` of the first question. ``token`` is
    not used: it may be missing, or name the question. A record without images, or with one outside its first question,
    gets a key of its own.

    Args:
        record: a record with validated ``conversations``; its image paths need not be valid.
        images: the number of its ``<image>`` placeholders.
        number: a number that no other record of the file has.
    """
    turns = record["conversations"]
    question = turns[0]["value"] if turns[0]["from"] == "human" else _first_question(turns)
    last = question.rfind(IMAGE_TOKEN)
    if last < 0 or (images > 1 and question.count(IMAGE_TOKEN) != images):
        return hash((number,))
    image, paths = record.get("image"), record.get("images")
    try:
        # The raw values, not `prompt_images`, which follows from them: ordering paths takes longer than indexing.
        return hash((question[:last], image, tuple(paths) if type(paths) is list else paths))
    except TypeError:
        return hash((number,))  # not valid paths


def _first_question(turns: list[dict[str, str]]) -> str:
    return next((turn["value"] for turn in turns if turn["from"] == "human"), "")


def number_keys(keys: np.ndarray) -> np.ndarray:
    """Return int32 (N,): for keys (N,), a number that is equal for equal keys, counted by first appearance."""
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    numbers = np.empty(len(first), dtype=np.int32)
    numbers[np.argsort(first)] = np.arange(len(first))
    return numbers[inverse]
