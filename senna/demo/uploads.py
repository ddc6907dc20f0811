"""Whether an uploaded file is a picture that can be used; what a visitor is told where it is not."""

import os
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from senna.demo.questions import Refusal

FORMATS = ("JPEG", "PNG", "WEBP")
_LEAST_SIDE = 16  # pixels; below, there is nothing to see
_MOST_STRETCH = 20  # times as long as wide


def open_upload(path: str | os.PathLike[str], view: str, most_megapixels: float) -> Image.Image:
    """The picture of a view, RGB, turned as its EXIF says (so the visitor's browser shows it).

    A picture of more pixels than allowed is refused by its header, before it is decoded. Raises Refusal.
    """
    try:
        with Image.open(Path(path), formats=FORMATS) as picture:
            _check_size(picture.size, view, most_megapixels)
            picture.load()
            return ImageOps.exif_transpose(picture).convert("RGB")
    except Refusal:
        raise
    except UnidentifiedImageError:
        raise Refusal(
            f"The file for the {view} view is not a picture that this page can read. Use JPEG, PNG or WebP."
        ) from None
    except Image.DecompressionBombError:  # of Pillow's own limit, far above any sensible one
        raise Refusal(
            f"The {view} picture is far too large; this page takes up to {most_megapixels:g} megapixels."
        ) from None
    except Exception:  # Pillow's parsers raise what they stumble over: OSError, SyntaxError, struct.error, EOFError...
        raise Refusal(
            f"The {view} picture is damaged or cut off. Export or download it again, then upload it once more."
        ) from None


def _check_size(size: tuple[int, int], view: str, most_megapixels: float) -> None:
    width, height = size
    megapixels = width * height / 1e6
    if megapixels > most_megapixels:
        raise Refusal(
            f"The {view} picture has {megapixels:.0f} megapixels ({width} x {height}); this page takes up to "
            f"{most_megapixels:g}. Scale it down and upload it again."
        )
    if min(size) < _LEAST_SIDE or max(size) > _MOST_STRETCH * min(size):
        raise Refusal(f"The {view} picture is {width} x {height} pixels: too small or too thin to see anything in.")
