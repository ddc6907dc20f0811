"""Text in pictures: measured before it is drawn, so that nothing is cut off and nothing overlaps."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

LEADING = 1.32  # from a line to the next, in font sizes


@lru_cache(maxsize=64)
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans of a size in pixels: the one that comes with matplotlib, so that it is there on every machine."""
    from matplotlib import get_data_path

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / name), size)


def line_height(size: int) -> int:
    """Pixels from a line of text to the next."""
    return round(size * LEADING)


@lru_cache(maxsize=256)
def wrap(text: str, face: ImageFont.FreeTypeFont, width: float) -> tuple[str, ...]:
    """The text in lines no wider than ``width`` pixels; a word that is wider is broken. All its words are there, in order."""
    lines: list[str] = []
    for paragraph in text.strip().splitlines():
        line = ""
        for word in paragraph.split():
            joined = f"{line} {word}" if line else word
            if face.getlength(joined) <= width:
                line = joined
                continue
            if line:
                lines.append(line)
            *whole, line = _pieces(word, face, width)
            lines.extend(whole)
        lines.append(line)
    return tuple(lines)


def fit(texts: Sequence[str], width: float, height: float, sizes: Sequence[int]) -> int | None:
    """The first of the font sizes at which the texts, one below the other, fit; None where none does."""
    for size in sizes:
        lines = sum(len(wrap(text, font(size), width)) for text in texts)
        if lines * line_height(size) <= height:
            return size
    return None


def _pieces(word: str, face: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """A word in pieces no wider than ``width``, of a letter at least."""
    pieces = [""]
    for letter in word:
        if pieces[-1] and face.getlength(pieces[-1] + letter) > width:
            pieces.append("")
        pieces[-1] += letter
    return pieces
