"""Validation of uploaded images, with messages for visitors."""

import os
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from senna.demo.questions import Refusal
from senna.errors import DataError
from senna.image_file import check_image_file

FORMATS = ("JPEG", "PNG", "WEBP")
_LEAST_SIDE = 16  # pixels
_MOST_STRETCH = 20  # ratio of the longer to the shorter side


def open_upload(path: str | os.PathLike[str], view: str, most_megapixels: float) -> Image.Image:
    """Open the image of a view as RGB, rotated as its EXIF data say (as a browser shows it).

    An image with too many pixels is refused from its header, before it is decoded. Raises Refusal.
    """
    try:
        check_image_file(path)
        with Image.open(Path(path), formats=FORMATS) as image:
            _check_size(image.size, view, most_megapixels)
            image.load()
            return ImageOps.exif_transpose(image).convert("RGB")
    except Refusal:
        raise
    except DataError as error:
        raise Refusal(f"The file for the {view} view cannot be used: {error.message}.") from None
    except UnidentifiedImageError:
        raise Refusal(
            f"The file for the {view} view is not an image that this page can read. Use JPEG, PNG or WebP."
        ) from None
    except Image.DecompressionBombError:  # Pillow's own limit, far above ours
        raise Refusal(
            f"The {view} image is far too large; this page accepts up to {most_megapixels:g} megapixels."
        ) from None
    except Exception:  # Pillow's decoders raise many kinds: OSError, SyntaxError, struct.error, EOFError, ...
        raise Refusal(
            f"The {view} image is damaged or truncated. Export or download it again, then upload it once more."
        ) from None


def _check_size(size: tuple[int, int], view: str, most_megapixels: float) -> None:
    width, height = size
    megapixels = width * height / 1e6
    if megapixels > most_megapixels:
        raise Refusal(
            f"The {view} image has {megapixels:.0f} megapixels ({width} x {height}); this page accepts up to "
            f"{most_megapixels:g}. Scale it down and upload it again."
        )
    if min(size) < _LEAST_SIDE or max(size) > _MOST_STRETCH * min(size):
        raise Refusal(f"The {view} image is {width} x {height} pixels, which is too small or too narrow.")
