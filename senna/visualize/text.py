"""Text in pictures. It is measured before it is drawn, so that nothing is cut off or overlaps."""

import re
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from pathlib import Path

from PIL import ImageFont

LEADING = 1.32  # line height in font sizes


_MOST_FONTS = 300  # installed fonts that are searched for characters
_LIKELY = re.compile(
    r"cjk|sourcehan|wqy|wenquan|droidsansfallback|unifont|msyh|simhei|simsun|pingfang|hiragino|gothic|ipa", re.I
)


def font(size: int, bold: bool = False, text: str = "") -> ImageFont.FreeTypeFont:
    """Load a font at a size in pixels: DejaVu Sans, which comes with matplotlib, so that every machine has it.

    Args:
        text: a text with characters that DejaVu Sans lacks, as Chinese ones, gets an installed font that has them, if any.
    """
    missing = _missing(text)
    return _load(size, (_other_font(missing) if missing else None) or _dejavu(bold))


def undrawable_note(texts: Iterable[str]) -> str | None:
    """Return a sentence about the characters that no installed font has; None where all can be drawn."""
    lacking: set[str] = set()
    for text in texts:
        missing = _missing(text)
        file = _other_font(missing) if missing else None
        lacking |= missing - (_characters(file) if file else frozenset())
    if not lacking:
        return None
    return (
        f"{len(lacking)} characters of this frame's texts are drawn as boxes, because no installed font has them. Install a "
        "font such as Noto Sans CJK (package fonts-noto-cjk) and draw it again with --overwrite."
    )


@lru_cache(maxsize=64)
def _load(size: int, file: str) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size)


def _dejavu(bold: bool) -> str:
    from matplotlib import get_data_path

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return str(Path(get_data_path()) / "fonts" / "ttf" / name)


def _missing(text: str) -> frozenset[str]:
    """Return the characters of a text that DejaVu Sans lacks."""
    if text.isascii():
        return frozenset()
    return frozenset(char for char in text if char.isprintable() and not char.isspace()) - _characters(_dejavu(False))


@cache
def _characters(file: str) -> frozenset[str]:
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(map(chr, FT2Font(file).get_charmap()))
    except (OSError, RuntimeError, ValueError):
        return frozenset()  # a file that is damaged, or no font


@lru_cache(maxsize=256)
def _other_font(missing: frozenset[str]) -> str | None:
    """Return the file of the first installed font that has most of these characters, None where none has any."""
    best, most = None, 0
    for file in _installed():
        count = len(missing & _characters(file))
        if count > most:
            best, most = file, count
        if count == len(missing):
            break
    return best


@lru_cache(maxsize=1)
def _installed() -> tuple[str, ...]:
    """Return the files of the installed fonts, those first whose name suggests Chinese and Japanese characters."""
    from matplotlib.font_manager import findSystemFonts

    return tuple(sorted(findSystemFonts(), key=lambda file: (_LIKELY.search(Path(file).name) is None, file)))[
        :_MOST_FONTS
    ]


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
        lines = sum(len(wrap(text, font(size, text=text), width)) for text in texts)
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
