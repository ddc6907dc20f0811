"""Colours (Okabe and Ito's, told apart by everyone) and sizes of the pictures, in pixels."""

from senna.meta_actions import SPEEDS

PAPER, INK, SOFT, LINE, TILE = "#ffffff", "#1a1d21", "#5f6770", "#d5d9de", "#e9ecef"
RIGHT, WRONG, UNJUDGED = "#0072B2", "#D55E00", "#4d5560"
BAR = "#cbd1d8"  # of a meta-action that is not predicted

SPEED_COLOURS = dict(zip(SPEEDS, ("#56B4E9", "#009E73", "#F0E442", "#CC79A7"), strict=True))
"""Of the ribbon. None of them is RIGHT or WRONG."""

WIDTH, HEIGHT = 1920, 1080
MARGIN, GAP, HEAD, FOOT = 24, 10, 64, 16
FRONT = (1312, 738)
SIDE_LEFT = MARGIN + FRONT[0] + 28
SIDE_WIDTH = WIDTH - MARGIN - SIDE_LEFT
OTHERS = ("front left", "front right", "back left", "back", "back right")
TILE_SIZE = ((FRONT[0] - 4 * GAP) // 5, 143)


def mark_of(correct: bool | None) -> tuple[str, str, str]:
    """(sign, word, colour) of a verdict: never by the colour alone."""
    if correct is None:
        return "?", "not judged", UNJUDGED
    return ("✓", "correct", RIGHT) if correct else ("✗", "wrong", WRONG)


def tint(colour: str, share: float = 0.45) -> str:
    """A colour on white paper, so light that black text on it can be read."""
    levels = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return "#" + "".join(f"{round(share * level + (1 - share) * 255):02x}" for level in levels)


MEANT = (RIGHT, WRONG, UNJUDGED, *map(tint, (RIGHT, WRONG, UNJUDGED)), *SPEED_COLOURS.values(), INK, PAPER)
"""The colours that say something."""
