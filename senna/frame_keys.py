"""Which records are of one frame: found while a file is indexed, from what they name, without opening an image."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from senna.views import IMAGE_TOKEN


def frame_key(record: Mapping[str, Any], images: int, number: int) -> int:
    """64 bits, in this process equal for records that name the same images and ask about them after the same text.

    The text is that of the first question up to its last ``<image>``. Equal images and equal text are all that sharing
    them needs; a token may be missing, or name the question. A record without images, or with one outside its first
    question, is a frame of its own.

    Args:
        record: whose ``conversations`` are known to be well formed; what it names as images need not be.
        images: how many ``<image>`` it has.
        number: that no other record of the file has.
    """
    turns = record["conversations"]
    question = turns[0]["value"] if turns[0]["from"] == "human" else _first_question(turns)
    last = question.rfind(IMAGE_TOKEN)
    if last < 0 or (images > 1 and question.count(IMAGE_TOKEN) != images):
        return hash((number,))
    image, several = record.get("image"), record.get("images")
    try:
        # What is named, and not `prompt_images`, which follows from it: ordering paths takes longer than indexing.
        return hash((question[:last], image, tuple(several) if type(several) is list else several))
    except TypeError:
        return hash((number,))  # no paths as they should be


def _first_question(turns: list[dict[str, str]]) -> str:
    return next((turn["value"] for turn in turns if turn["from"] == "human"), "")


def numbered(keys: np.ndarray) -> np.ndarray:
    """int32 (N,): the same number for equal keys (N,), by first appearance."""
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    numbers = np.empty(len(first), dtype=np.int32)
    numbers[np.argsort(first)] = np.arange(len(first))
    return numbers[inverse]
