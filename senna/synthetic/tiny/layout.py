"""The layout of a front view in words: the distances to the stop line and to vehicles, the lane and the heading.

The labels of `scene_labels` have a word each. Stage 1 asks for them, so that the adapter passes them on to the language model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

from senna.synthetic.tiny.scene_labels import GAP_BINS, SCENE_LABELS, STOP_LINE_BINS

QUESTION = (
    "Give a word each for the distance to the stop line, the gap to the next vehicle ahead, its brake lamps, the gaps in the "
    "lanes to the left and to the right, the lane of the car and its heading."
)
NOTHING = "none"
NUMBERS = {
    2: "two", 4: "four", 8: "eight", 13: "thirteen", 14: "fourteen", 19: "nineteen", 21: "twentyone", 27: "twentyseven",
    29: "twentynine", 37: "thirtyseven", 38: "thirtyeight", 50: "fifty", 65: "sixtyfive", 70: "seventy", 90: "ninety",
}  # fmt: skip
GAP_WORDS = (*(NUMBERS[round(end)] for end in GAP_BINS), NOTHING)
LINE_WORDS = (*(NUMBERS[round(end)] for end in STOP_LINE_BINS), NOTHING)
WORDS = {  # those of each fact
    "line": LINE_WORDS,
    "ahead": GAP_WORDS,
    "lamps": (NOTHING, "off", "on"),
    "left": GAP_WORDS,
    "right": GAP_WORDS,
    "lane": ("left", "right"),
    "heading": ("farright", "right", "bitright", "straight", "bitleft", "left", "farleft"),  # as HEADING_BINS
}


@dataclass(frozen=True)
class Layout:
    """The facts of a front view, each one of WORDS. A number is the upper end of a bin in metres.

    Attributes:
        line: the stop line.
        ahead, left, right: the gap to the next vehicle in the ego's lane and in the lanes beside it.
        lamps: the brake lamps of the next vehicle ahead.
        lane: the lane of the ego.
        heading: relative to the road.
    """

    line: str
    ahead: str
    lamps: str
    left: str
    right: str
    lane: str
    heading: str

    def words(self) -> list[str]:
        """Return one word for each fact, for example "linetwentyone". It is one token, so that facts cannot be confused."""
        return [name + word for name, word in zip(WORDS, astuple(self), strict=True)]

    def __str__(self) -> str:
        return ", ".join(self.words())


def layout_of(labels: Sequence[int]) -> Layout:
    """Return the layout that the labels of a front view give; its light and the offset in the lane are left out."""
    value = dict(zip(SCENE_LABELS, labels, strict=True))
    names = ("stop line", "gap ahead", "brake lamps ahead", "gap in the lane to the left", "gap in the lane to the right",
             "lane", "heading")  # fmt: skip
    return Layout(*(words[value[name]] for words, name in zip(WORDS.values(), names, strict=True)))
