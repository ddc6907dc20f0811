"""Colours and sizes (pixels) of the pictures. The colours are from Okabe and Ito's palette for colour-blind readers."""

from senna.meta_actions import SPEEDS

PAPER, INK, SOFT, LINE, TILE = "#ffffff", "#1a1d21", "#5f6770", "#d5d9de", "#e9ecef"
RIGHT, WRONG, UNJUDGED = "#0072B2", "#D55E00", "#4d5560"
BAR = "#cbd1d8"  # the bar of a meta-action that is not predicted

SPEED_COLOURS = dict(zip(SPEEDS, ("#56B4E9", "#009E73", "#F0E442", "#CC79A7"), strict=True))
"""Colours of the path on the road. None of them is RIGHT or WRONG."""

WIDTH, HEIGHT = 1920, 1080
MARGIN, GAP, HEAD, FOOT = 24, 10, 64, 16
FRONT = (1312, 738)
SIDE_LEFT = MARGIN + FRONT[0] + 28
SIDE_WIDTH = WIDTH - MARGIN - SIDE_LEFT
OTHERS = ("front left", "front right", "back left", "back", "back right")
TILE_SIZE = ((FRONT[0] - 4 * GAP) // 5, 143)


def mark_of(correct: bool | None) -> tuple[str, str, str]:
    """Return (sign, word, colour) of a verdict, so that colour is never the only difference."""
    if correct is None:
        return "?", "not judged", UNJUDGED
    return ("✓", "correct", RIGHT) if correct else ("✗", "wrong", WRONG)


def tint(colour: str, share: float = 0.45) -> str:
    """Return a colour mixed with white, light enough for black text on it."""
    levels = (int(colour[offset : offset + 2], 16) for offset in (1, 3, 5))
    return "#" + "".join(f"{round(share * level + (1 - share) * 255):02x}" for level in levels)


SIGNAL_COLOURS = (RIGHT, WRONG, UNJUDGED, *map(tint, (RIGHT, WRONG, UNJUDGED)), *SPEED_COLOURS.values(), INK, PAPER)
"""The colours that carry a meaning."""
