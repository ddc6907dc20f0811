"""Text in pictures. It is measured before it is drawn, so that nothing is cut off or overlaps."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

LEADING = 1.32  # line height in font sizes


@lru_cache(maxsize=64)
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Load DejaVu Sans at a size in pixels. The font comes with matplotlib, so every machine has it."""
    from matplotlib import get_data_path

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / name), size)


def line_height(size: int) -> int:
    """Return the line height in pixels."""
    return round(size * LEADING)


@lru_cache(maxsize=256)
def wrap(text: str, face: ImageFont.FreeTypeFont, width: float) -> tuple[str, ...]:
    """Break a text into lines of at most ``width`` pixels. A word that is wider is broken; no text is lost."""
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
            *full, line = _pieces(word, face, width)
            lines.extend(full)
        lines.append(line)
    return tuple(lines)


def fit(texts: Sequence[str], width: float, height: float, sizes: Sequence[int]) -> int | None:
    """Return the first font size at which all texts fit below each other; None where none does."""
    for size in sizes:
        lines = sum(len(wrap(text, font(size), width)) for text in texts)
        if lines * line_height(size) <= height:
            return size
    return None


def _pieces(word: str, face: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Split a word into pieces of at most ``width`` pixels and at least one letter."""
    pieces = [""]
    for letter in word:
        if pieces[-1] and face.getlength(pieces[-1] + letter) > width:
            pieces.append("")
        pieces[-1] += letter
    return pieces
