"""Validation of images from visitors and from records, with messages for visitors, and the copies that the page serves."""

import os
import time
from contextlib import suppress
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from senna.demo.questions import Refusal
from senna.files import atomic_write

FORMATS = ("JPEG", "PNG", "WEBP")
MOST_MEGAPIXELS = 40.0
_MOST_BYTES = 256 << 20  # of a file; some decoders read it entirely
KEPT = 3600  # seconds before uploaded files are deleted
_LEAST_FILE = 64 << 10  # bytes that a file counts at least, which limits their number
_LEAST_SIDE = 16  # pixels
_MOST_STRETCH = 20  # ratio of the longer to the shorter side


def open_upload(path: str | os.PathLike[str], view: str, most_megapixels: float) -> Image.Image:
    """Open the image of a view as RGB, rotated as its EXIF data say (as a browser shows it).

    An image with too many pixels is refused from its header, before it is decoded. Raises Refusal.
    """
    _check_file(Path(path), view)
    try:
        with Image.open(Path(path), formats=FORMATS) as image:
            _check_size(image.size, view, most_megapixels)
            image.load()
            pixels = ImageOps.exif_transpose(image).convert("RGB")
            pixels.info.clear()  # comments and profiles, which Pillow would write into a copy
            return pixels
    except Refusal:
        raise
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


def size_of_uploads(folder: Path) -> int:
    """Return the bytes of all files in the folder of the uploads, each counted as 64 KiB at least.

    Files of interrupted uploads, which gradio forgets, are deleted after an hour.
    """
    total, oldest = 0, time.time() - KEPT
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # a file that is being deleted
                path = Path(parent, name)
                facts = path.lstat()
                if Path(parent) == folder and name.startswith("tmp") and facts.st_mtime < oldest:
                    path.unlink()
                    continue
                total += max(facts.st_size, _LEAST_FILE)
    return total


def serve_copy(path: Path, view: str, copy: Path, most_megapixels: float) -> Path:
    """Decode an image, write its pixels to ``copy`` as PNG, and return ``copy``.

    The page serves copies only: a file that is named by a record may be any file of this machine, and an image may carry
    other data behind its pixels. A copy that exists is kept. Raises Refusal.
    """
    if not copy.is_file():
        image = open_upload(path, view, most_megapixels)
        copy.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(copy) as partial:
            image.save(partial, "PNG", compress_level=1)  # without loss: the answer must be that of the original
    return copy


def _check_file(path: Path, view: str) -> None:
    """Refuse what is no regular file of a sensible size: a pipe or a device could be read forever."""
    try:
        size = path.stat().st_size if path.is_file() else None
    except (OSError, ValueError):
        size = None
    if size is None:
        raise Refusal(f"The {view} image is not there any more. Choose it again.")
    if size > _MOST_BYTES:
        raise Refusal(
            f"The file for the {view} view has {size >> 20} MB; this page reads up to {_MOST_BYTES >> 20}. "
            "Scale the image down and upload it again."
        )


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
