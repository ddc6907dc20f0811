"""Image files to the pixels of the vision tower, equal to those of the published code.

The published code pads an image to a square and gives the square to transformers' CLIP processor. It pays for resizing the
padding, for two conversions through numpy and for float64 arithmetic. Here the first pass of the resize skips the padding
and the second pass uses only its edge. `decode="exact"` gives the same bits; `decode="fast"` is about twice as fast and
differs by one level in a few pixels.

Resizing rounds to 8 bits, and only these levels travel to the device, where the model normalizes them (`senna.model.pixels`).

Letters: H, W are the input height and width of the tower; h, w those of an image. Arrays are (row, column, channel), tensors
(channel, row, column).
"""

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any

import numpy as np
import simplejpeg
import torch
from PIL import Image

from senna.data.resample import ResizeSpec, exact_pixels, fast_pixels
from senna.errors import DataError, UsageError
from senna.image_file import check_image_file
from senna.model.pixels import PixelScaling, normalize

ASPECT_RATIOS = ("pad", "square")
DECODERS = ("exact", "fast")

ImageSource = str | PathLike[str] | Image.Image

# A larger intermediate image (half a GB in Pillow) results only from extremely thin images, never from photographs.
_MOST_PIXELS = 1 << 27


@dataclass(frozen=True)
class PixelRules:
    """The settings of an image processor that determine the pixels.

    A level v becomes (v * scale - mean) / std, channel by channel.

    Attributes:
        size: the shorter edge after resizing, or (height, width).
        crop: (height, width) of the centre crop, or None.
        resample: a PIL.Image.Resampling value.
    """

    size: int | tuple[int, int]
    crop: tuple[int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 1 / 255
    resample: int = Image.Resampling.BICUBIC

    @classmethod
    def from_processor(cls, image_processor: Any) -> "PixelRules":
        """Read the rules from a CLIP image processor, or from any object with its attributes.

        `size` and `crop_size` may be numbers, dictionaries or transformers' SizeDict.
        """
        shortest, scaling = _entry(image_processor.size, "shortest_edge"), PixelScaling.from_processor(image_processor)
        crop = getattr(image_processor, "crop_size", None)
        crops = crop is not None and getattr(image_processor, "do_center_crop", True) is not False
        resample = getattr(image_processor, "resample", None)
        return cls(
            size=shortest or _height_width(image_processor.size),
            crop=_height_width(crop) if crops else None,
            mean=scaling.mean,
            std=scaling.std,
            scale=scaling.scale,
            resample=Image.Resampling.BICUBIC if resample is None else int(resample),
        )

    @property
    def scaling(self) -> PixelScaling:
        """The arithmetic from levels to normalized pixels."""
        return PixelScaling(self.mean, self.std, self.scale)

    @property
    def background(self) -> tuple[int, int, int]:
        """The colour of the padding: the mean, rounded down to integer levels (CLIP: 122, 116, 104)."""
        red, green, blue = (int(level * 255) for level in self.mean)
        return red, green, blue

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """Return (width, height) that an image of this size is resized to, before the crop."""
        if isinstance(self.size, tuple):
            return self.size[1], self.size[0]
        longer = int(self.size * max(width, height) / min(width, height))
        return (self.size, longer) if width <= height else (longer, self.size)


def load_image(
    source: ImageSource,
    image_processor: Any,
    aspect_ratio: str = "pad",
    decode: str = "exact",
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Read an image and return the input of the model, (3, H, W).

    Args:
        source: a path or a PIL image of any mode; its EXIF orientation is ignored, as in the published code.
        aspect_ratio: "pad" centres the image on a square of the processor's mean colour and resizes it; "square" is the
            behaviour of the CLIP processor: it resizes the shorter edge and crops the centre.
        decode: "exact" is bit-identical to padding with Pillow followed by transformers' Pillow CLIP processor; "fast"
            differs by one level in 0.1 to 0.2 % of the pixels of a padded 1600x900 image (twice that with "square", where
            no pixel is padding), and not at all for an image that is shrunk to more than half its size.
        dtype: torch.float32 returns normalized pixels; torch.uint8 returns levels, which the model normalizes to the same bits.

    Raises:
        DataError: the image is missing, empty, damaged or too large; the error names the file.
        UsageError: an option has an unknown value.
    """
    rules = PixelRules.from_processor(image_processor)
    levels = (
        torch.from_numpy(load_pixels(source, rules, aspect_ratio, decode)).permute(2, 0, 1).contiguous()
    )  # (3, H, W)
    return levels if dtype == torch.uint8 else normalize(levels, rules.scaling).to(dtype)


def load_pixels(source: ImageSource, rules: PixelRules, aspect_ratio: str = "pad", decode: str = "exact") -> np.ndarray:
    """Read an image as the uint8 (H, W, 3) array that `load_image` normalizes. Arguments and errors are the same."""
    image = _decode(source, decode)
    try:
        return square_pixels(image, rules, aspect_ratio, decode)
    except DataError as error:
        raise DataError(error.message, remedy=error.remedy, file=_name_of(source), kind=error.kind) from error


def check_image_options(aspect_ratio: str, decode: str) -> None:
    """Raise UsageError if an option of `load_image` has an unknown value."""
    for name, value, known in (("aspect_ratio", aspect_ratio, ASPECT_RATIOS), ("decode", decode, DECODERS)):
        if value not in known:
            raise UsageError(f"{name}={value!r} is not known", remedy=f"use one of {', '.join(known)}")


def square_pixels(
    image: Image.Image | np.ndarray, rules: PixelRules, aspect_ratio: str = "pad", decode: str = "exact"
) -> np.ndarray:
    """Pad, resize and crop an RGB image (a PIL image or a uint8 (h, w, 3) array) to uint8 (H, W, 3)."""
    check_image_options(aspect_ratio, decode)
    size = (image.shape[1], image.shape[0]) if isinstance(image, np.ndarray) else image.size
    spec = _resize_spec(size, rules, aspect_ratio)
    if decode == "fast" and _keeps_fast_bounds(spec, size[1]):
        return fast_pixels(image if isinstance(image, np.ndarray) else np.array(image), spec)
    return exact_pixels(Image.fromarray(image) if isinstance(image, np.ndarray) else image, spec)


def _keeps_fast_bounds(spec: ResizeSpec, height: int) -> bool:
    """Return whether torch differs from Pillow by at most one level, and its padded rows fit in memory.

    The error of torch's 16-bit weights grows with the weights, so an image that is shrunk to more than half its size could
    differ by two levels. Such an image is small, and fast to resize exactly.
    """
    is_halved = spec.canvas[0] >= 2 * spec.resized[0]
    return spec.resample == Image.Resampling.BICUBIC and is_halved and spec.canvas[0] * height <= _MOST_PIXELS // 4


def _entry(size: Any, name: str) -> int | None:
    if isinstance(size, int):
        return size
    return size.get(name) if isinstance(size, Mapping) else getattr(size, name, None)


def _height_width(size: Any) -> tuple[int, int]:
    height, width = _entry(size, "height"), _entry(size, "width")
    if not (height and width):
        raise UsageError(f"image processor size {size!r}", remedy="give it a shortest_edge, or a height and a width")
    return height, width


def _name_of(source: ImageSource) -> str:
    if isinstance(source, Image.Image):
        return getattr(source, "filename", "") or "image given as PIL.Image"
    return fspath(source)


def decode_image(path: str | PathLike[str]) -> Image.Image:
    """Read an image as RGB. Errors are those of `load_image`."""
    image = _decode(path, "exact")
    assert isinstance(image, Image.Image)  # arrays come from fast decoding only
    return image


def _decode(source: ImageSource, decode: str) -> Image.Image | np.ndarray:
    """Return an RGB image: an array if simplejpeg decoded it (fast, JPEG only), else a PIL image."""
    if isinstance(source, Image.Image):
        return _rgb(source, _name_of(source))
    name = _name_of(source)
    check_image_file(source)
    try:
        with open(source, "rb") as file:
            data = file.read()
    except FileNotFoundError as error:
        raise DataError(
            "no such image",
            remedy="check the record's path and the image folder",
            file=name,
            kind=DataError.MISSING_IMAGE,
        ) from error
    except ValueError as error:  # a NUL or a surrogate in the path
        raise DataError(f"not a path ({error})", remedy="correct the record's path", file=repr(name)) from error
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror})", remedy="give the path of a readable image file", file=name
        ) from error
    if not data:
        raise DataError("the file is empty (0 bytes)", remedy="fetch it again or drop its record", file=name)
    pixels = _decode_jpeg(data) if decode == "fast" else None
    return _rgb(data, name) if pixels is None else pixels


def _decode_jpeg(data: bytes) -> np.ndarray | None:
    """Return uint8 (h, w, 3), or None to leave it to Pillow: other formats and colours, damage, excessive size."""
    if data[:2] != b"\xff\xd8":
        return None
    try:
        header: Any = simplejpeg.decode_jpeg_header(data)
        height, width, colour = header[:3]
        if colour not in ("YCbCr", "Gray") or height * width > (Image.MAX_IMAGE_PIXELS or math.inf):
            return None
        return simplejpeg.decode_jpeg(data, colorspace="RGB")
    except ValueError:
        return None


def _rgb(source: bytes | Image.Image, name: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(source)) if isinstance(source, bytes) else source
        if min(image.size) < 1:
            raise DataError(f"{image.width} x {image.height} pixels", remedy="drop its record", file=name)
        image.load()
        return image if image.mode == "RGB" else image.convert("RGB")
    except (DataError, MemoryError):
        raise
    except Image.UnidentifiedImageError as error:
        raise DataError(
            "not an image in a format that Pillow reads", remedy="fetch it again or convert it", file=name
        ) from error
    except Image.DecompressionBombError as error:
        limit = f"raise PIL.Image.MAX_IMAGE_PIXELS (now {Image.MAX_IMAGE_PIXELS})"
        raise DataError(
            f"too large ({error})", remedy=f"scale it down, or {limit} if you trust it", file=name
        ) from error
    except Exception as error:  # Pillow's parsers raise many kinds: SyntaxError, struct.error, EOFError...
        raise DataError(
            f"damaged or truncated ({error})", remedy="fetch it again or drop its record", file=name
        ) from error


def _resize_spec(size: tuple[int, int], rules: PixelRules, aspect_ratio: str) -> ResizeSpec:
    side = max(size)
    canvas = (side, side) if aspect_ratio == "pad" else size
    resized = rules.resized(*canvas)
    if resized[0] * max(resized[1], size[1]) > _MOST_PIXELS:
        raise DataError(
            f"{size[0]} x {size[1]} pixels would become {resized[0]} x {resized[1]}: too thin for aspect_ratio="
            f"{aspect_ratio!r}",
            remedy="use aspect_ratio='pad', or drop its record",
        )
    crop = (rules.crop[1], rules.crop[0]) if rules.crop else resized
    if crop[0] > resized[0] or crop[1] > resized[1]:
        raise UsageError(
            f"the crop {crop} of the image processor exceeds the resized image {resized}",
            remedy="make crop_size <= size",
        )
    return ResizeSpec(
        canvas=canvas,
        offset=((canvas[0] - size[0]) // 2, (canvas[1] - size[1]) // 2),
        resized=resized,
        corner=((resized[0] - crop[0]) // 2, (resized[1] - crop[1]) // 2),
        crop=crop,
        background=rules.background,
        resample=Image.Resampling(rules.resample),
    )
