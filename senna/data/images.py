"""Image files to the pixels the published code feeds its vision tower, without the copies it makes on the way.

The published way pads the picture to a square, hands the square to transformers' CLIP processor, and pays for resizing
the padding, for two trips through numpy and for float64 arithmetic. Here the padding never meets the first pass of
the resize and only its edge meets the second. `decode="exact"` gives the same bits; `decode="fast"` gives up one level
in a few pixels for about twice that speed.

Letters: H, W are the tower's input height and width; arrays are (row, column, channel) until `normalise`.
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

from senna.data.resample import Plan, exact_pixels, fast_pixels
from senna.errors import DataError, UsageError

ASPECT_RATIOS = ("pad", "square")
DECODERS = ("exact", "fast")

ImageSource = str | PathLike | Image.Image

# An intermediate image beyond this (half a GB in Pillow) comes from a sliver of a picture, never from a photograph.
_MOST_PIXELS = 1 << 27


@dataclass(frozen=True)
class PixelRules:
    """What an image processor does to a picture: the part of its configuration that decides the pixels.

    `size` is the shorter edge after resizing, or (height, width); `crop` the centre crop (height, width), or None;
    `resample` a PIL.Image.Resampling value; a level v becomes (v * scale - mean) / std, channel by channel.
    """

    size: int | tuple[int, int]
    crop: tuple[int, int] | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    scale: float = 1 / 255
    resample: int = Image.Resampling.BICUBIC

    @classmethod
    def from_processor(cls, image_processor: Any) -> "PixelRules":
        """Read the rules from a CLIP image processor, or from any object with its attributes.

        `size` and `crop_size` may be numbers, dictionaries or transformers' SizeDict.
        """
        shortest = _entry(image_processor.size, "shortest_edge")
        crop = getattr(image_processor, "crop_size", None)
        crops = crop is not None and getattr(image_processor, "do_center_crop", True) is not False
        scale, resample = (getattr(image_processor, name, None) for name in ("rescale_factor", "resample"))
        return cls(
            size=shortest or _height_width(image_processor.size),
            crop=_height_width(crop) if crops else None,
            mean=tuple(image_processor.image_mean),
            std=tuple(image_processor.image_std),
            scale=1 / 255 if scale is None else float(scale),
            resample=Image.Resampling.BICUBIC if resample is None else int(resample),
        )

    @property
    def background(self) -> tuple[int, int, int]:
        """The padding's colour: the mean, cut down to whole levels (CLIP's is 122, 116, 104)."""
        return tuple(int(level * 255) for level in self.mean)

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) that a picture of this size is resized to, before the crop."""
        if isinstance(self.size, tuple):
            return self.size[1], self.size[0]
        longer = int(self.size * max(width, height) / min(width, height))
        return (self.size, longer) if width <= height else (longer, self.size)


def load_image(
    source: ImageSource, image_processor: Any, aspect_ratio: str = "pad", decode: str = "exact"
) -> torch.Tensor:
    """Read a picture and make the vision tower's input of it: float32 (3, H, W).

    `source` is a path or a PIL image, of any mode; its EXIF orientation is ignored, as in the published code.
    `aspect_ratio` "pad" centres the picture on a square of the processor's mean colour, then resizes; "square" is the
    CLIP processor's own behaviour: resize the shorter edge, then cut out the centre. `decode` "exact" equals Pillow
    padding followed by transformers' Pillow CLIP processor bit for bit; "fast" differs by one level in 0.1 to 0.2 % of
    the pixels of a padded 1600x900 picture (twice that in "square", where no pixel is padding), and in none where the
    picture is shrunk to more than half.

    Raises DataError, naming the file, for a picture that is missing, empty, damaged or absurdly large.
    """
    rules = PixelRules.from_processor(image_processor)
    return normalise(load_pixels(source, rules, aspect_ratio, decode), rules)


def load_pixels(source: ImageSource, rules: PixelRules, aspect_ratio: str = "pad", decode: str = "exact") -> np.ndarray:
    """Read a picture as the uint8 (H, W, 3) array that `load_image` normalises. Arguments and errors are the same."""
    picture = _decode(source, decode)
    try:
        return square_pixels(picture, rules, aspect_ratio, decode)
    except DataError as error:
        raise DataError(f"{_name_of(source)}: {error}") from error


def square_pixels(
    picture: Image.Image | np.ndarray, rules: PixelRules, aspect_ratio: str = "pad", decode: str = "exact"
) -> np.ndarray:
    """Pad, resize and crop an RGB picture (a PIL image or a uint8 (h, w, 3) array) to uint8 (H, W, 3)."""
    for name, value, known in (("aspect_ratio", aspect_ratio, ASPECT_RATIOS), ("decode", decode, DECODERS)):
        if value not in known:
            raise UsageError(f"{name}={value!r}: not known; use one of {', '.join(known)}")
    is_array = isinstance(picture, np.ndarray)
    size = picture.shape[1::-1] if is_array else picture.size
    plan = _plan(size, rules, aspect_ratio)
    if decode == "fast" and _keeps_fast_bounds(plan, size[1]):
        return fast_pixels(picture if is_array else np.array(picture), plan)
    return exact_pixels(Image.fromarray(picture) if is_array else picture, plan)


def _keeps_fast_bounds(plan: Plan, height: int) -> bool:
    """Whether torch stays within a level of Pillow, and its padded rows within memory.

    Its 16-bit weights are coarser the larger they are, so that a picture shrunk by less than half can be two levels
    off; such a picture is small, and quick the exact way.
    """
    halves = plan.frame[0] >= 2 * plan.resized[0]
    return plan.resample == Image.Resampling.BICUBIC and halves and plan.frame[0] * height <= _MOST_PIXELS // 4


def normalise(pixels: np.ndarray, rules: PixelRules) -> torch.Tensor:
    """uint8 (H, W, 3) to float32 (3, H, W): rescaled, less the mean, over the deviation.

    The processor's own bits where its factor is 1 / 255 (it multiplies in float64, rounds to float32 and goes on from
    there, which for these 256 levels equals a float32 division); within 1e-6 for another factor.
    """
    planes = torch.from_numpy(pixels).permute(2, 0, 1).to(torch.float32, memory_format=torch.contiguous_format)
    planes = planes.div_(255) if rules.scale == 1 / 255 else planes.mul_(rules.scale)
    return planes.sub_(torch.tensor(rules.mean).view(3, 1, 1)).div_(torch.tensor(rules.std).view(3, 1, 1))


def _entry(size: Any, name: str) -> int | None:
    if isinstance(size, int):
        return size
    return size.get(name) if isinstance(size, Mapping) else getattr(size, name, None)


def _height_width(size: Any) -> tuple[int, int]:
    height, width = _entry(size, "height"), _entry(size, "width")
    if not (height and width):
        raise UsageError(f"image processor size {size!r}: needs a shortest_edge, or a height and a width")
    return height, width


def _name_of(source: ImageSource) -> str:
    if isinstance(source, Image.Image):
        return getattr(source, "filename", "") or "image given as PIL.Image"
    return fspath(source)


def _decode(source: ImageSource, decode: str) -> Image.Image | np.ndarray:
    """An RGB picture: an array where simplejpeg read it (fast JPEG only), else a PIL image."""
    if isinstance(source, Image.Image):
        return _rgb(source, _name_of(source))
    name = _name_of(source)
    try:
        with open(source, "rb") as file:
            data = file.read()
    except FileNotFoundError as error:
        raise DataError(f"{name}: no such image; check the record's path and the image folder") from error
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror}); give the path of a readable image file") from error
    if not data:
        raise DataError(f"{name}: the file is empty (0 bytes); fetch it again or drop its record")
    pixels = _decode_jpeg(data) if decode == "fast" else None
    return _rgb(data, name) if pixels is None else pixels


def _decode_jpeg(data: bytes) -> np.ndarray | None:
    """uint8 (h, w, 3), or None where Pillow must decide: other formats and colours, damage, a size it would refuse."""
    if data[:2] != b"\xff\xd8":
        return None
    try:
        height, width, colour, _ = simplejpeg.decode_jpeg_header(data)
        if colour not in ("YCbCr", "Gray") or height * width > (Image.MAX_IMAGE_PIXELS or math.inf):
            return None
        return simplejpeg.decode_jpeg(data, colorspace="RGB")
    except ValueError:
        return None


def _rgb(source: bytes | Image.Image, name: str) -> Image.Image:
    try:
        picture = source if isinstance(source, Image.Image) else Image.open(io.BytesIO(source))
        if min(picture.size) < 1:
            raise DataError(f"{name}: {picture.width} x {picture.height} pixels: nothing to see; drop its record")
        picture.load()
        return picture if picture.mode == "RGB" else picture.convert("RGB")
    except (DataError, MemoryError):
        raise
    except Image.UnidentifiedImageError as error:
        raise DataError(
            f"{name}: not an image in any format that Pillow knows; fetch it again or convert it"
        ) from error
    except Image.DecompressionBombError as error:
        limit = f"raise PIL.Image.MAX_IMAGE_PIXELS (now {Image.MAX_IMAGE_PIXELS})"
        raise DataError(f"{name}: too large ({error}); scale it down, or {limit} if you trust it") from error
    except Exception as error:  # Pillow's parsers raise what they stumble over: SyntaxError, struct.error, EOFError...
        raise DataError(f"{name}: damaged or truncated ({error}); fetch it again or drop its record") from error


def _plan(size: tuple[int, int], rules: PixelRules, aspect_ratio: str) -> Plan:
    side = max(size)
    frame = (side, side) if aspect_ratio == "pad" else size
    resized = rules.resized(*frame)
    if resized[0] * max(resized[1], size[1]) > _MOST_PIXELS:
        raise DataError(
            f"{size[0]} x {size[1]} pixels would become {resized[0]} x {resized[1]}: too thin for aspect_ratio="
            f"{aspect_ratio!r}; use aspect_ratio='pad', or drop its record"
        )
    crop = rules.crop[::-1] if rules.crop else resized
    if crop[0] > resized[0] or crop[1] > resized[1]:
        raise UsageError(f"image processor crop {crop} exceeds the resized picture {resized}; make crop_size <= size")
    return Plan(
        frame=frame,
        offset=tuple((outer - inner) // 2 for outer, inner in zip(frame, size, strict=True)),
        resized=resized,
        corner=tuple((outer - inner) // 2 for outer, inner in zip(resized, crop, strict=True)),
        crop=crop,
        background=rules.background,
        resample=rules.resample,
    )
