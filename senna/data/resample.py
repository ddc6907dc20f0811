"""The two passes that resize a padded image: bit-identical to Pillow without its redundant work, or faster and approximate.

The *canvas* of an image is the square that pads it, or the image itself. Rows are resized first, then columns.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

_BAND_PIXELS = 1 << 20
_BLOCK_ROWS = 24


@dataclass(frozen=True)
class ResizeSpec:
    """The canvas of an image, the size that it is resized to, and the crop; (x, y) pairs in pixels."""

    canvas: tuple[int, int]  # size of the padded square, or of the image
    offset: tuple[int, int]  # of the image in its canvas
    resized: tuple[int, int]  # size of the resized canvas
    corner: tuple[int, int]  # of the crop in the resized canvas
    crop: tuple[int, int]  # size of the crop
    background: tuple[int, int, int]
    resample: Image.Resampling


def exact_pixels(image: Image.Image, spec: ResizeSpec) -> np.ndarray:
    """Return the resized and cropped canvas, uint8 (H, W, 3), bit-identical to a resize of the entire canvas with Pillow.

    Pillow resizes rows first, rounds to uint8, then resizes columns. So the rows of padding can be added after the first
    pass (a constant row stays constant), and the columns outside the crop can be dropped before the second pass.
    """
    rows = _resize_rows(image, spec)
    left, top = spec.corner
    width, height = spec.crop
    if width < rows.width:
        rows = rows.crop((left, 0, left + width, rows.height))
    start = spec.offset[1]
    window = _exact_window(spec.canvas[1], spec.resized[1], start, start + rows.height, spec.resample)
    if window.in_stop - window.in_start > rows.height:
        strip = Image.new("RGB", (width, window.in_stop - window.in_start), spec.background)
        strip.paste(rows, (0, start - window.in_start))
        rows = strip
    if window.out_stop - window.out_start != rows.height:
        rows = rows.resize((width, window.out_stop - window.out_start), spec.resample)
    pixels = np.empty((spec.resized[1], width, 3), np.uint8)
    pixels[:] = spec.background
    pixels[window.out_start : window.out_stop] = np.asarray(rows)
    return pixels[top : top + height]


def _resize_rows(image: Image.Image, spec: ResizeSpec) -> Image.Image:
    """Return the first pass: the image's own rows at the resized width, padded left and right for a portrait image."""
    width, (image_width, height) = spec.resized[0], image.size
    if spec.canvas[0] == image_width:
        return image if width == image_width else image.resize((width, height), spec.resample)
    start = spec.offset[0]
    window = _exact_window(spec.canvas[0], width, start, start + image_width, spec.resample)
    wide, narrow = window.in_stop - window.in_start, window.out_stop - window.out_start
    # One band of rows at a time, so that the padded square of a very narrow image does not fill the memory.
    band = min(height, max(1, _BAND_PIXELS // wide))
    padded = Image.new("RGB", (wide, band), spec.background)
    rows = Image.new("RGB", (width, height), spec.background)
    for top in range(0, height, band):
        padded.paste(image.crop((0, top, image_width, min(top + band, height))), (start - window.in_start, 0))
        rows.paste(padded if wide == narrow else padded.resize((narrow, band), spec.resample), (window.out_start, top))
    return rows


def fast_pixels(image: np.ndarray, spec: ResizeSpec) -> np.ndarray:
    """Return ``exact_pixels`` of a uint8 (h, w, 3) array approximately, with the two passes in torch.

    The rows are resized in uint8 with 16-bit weights, the columns in float, which halves the error.
    """
    left, top = spec.corner
    width, height = spec.crop
    rows = _fast_rows(image, spec)[:, left : left + width]  # (h, W, 3)
    flat = rows.reshape(rows.shape[0], -1).to(torch.float32)  # (h, W * 3)
    background = torch.tensor(spec.background * width, dtype=torch.float32)  # (W * 3,)
    pixels = background.to(torch.uint8).repeat(spec.resized[1], 1)  # (resized height, W * 3)
    for block in _column_blocks(spec.canvas[1], spec.resized[1], spec.offset[1], rows.shape[0]):
        column = torch.addmm(block.padding * background, block.weights, flat[block.in_start : block.in_stop])
        # Halves are rounded up, as in Pillow.
        pixels[block.out_start : block.out_stop] = column.add_(0.5).clamp_(0, 255)
    return pixels.view(-1, width, 3)[top : top + height].numpy()


def _fast_rows(image: np.ndarray, spec: ResizeSpec) -> torch.Tensor:
    """Return the first pass, uint8 (h, resized width, 3)."""
    height, width = image.shape[:2]
    if spec.canvas[0] != width:
        padded = np.empty((height, spec.canvas[0], 3), np.uint8)
        padded[:] = spec.background
        padded[:, spec.offset[0] : spec.offset[0] + width] = image
        image = padded
    rows = torch.from_numpy(image)
    if spec.resized[0] == spec.canvas[0]:
        return rows
    planes = rows.permute(2, 0, 1)[None]
    return interpolate(planes, size=(height, spec.resized[0]), mode="bicubic", antialias=True)[0].permute(1, 2, 0)


class _ColumnBlock(NamedTuple):
    """A group of resized rows as a matrix product over the few rows of the image that they depend on."""

    out_start: int
    out_stop: int
    in_start: int
    in_stop: int
    weights: torch.Tensor  # (out, in) float32
    padding: torch.Tensor  # (out, 1) float32: the weight of the background


@lru_cache(maxsize=64)
def _column_blocks(canvas: int, resized: int, start: int, height: int) -> tuple[_ColumnBlock, ...]:
    """Return the second pass over an image of `height` rows that begins at row `start` of its canvas.

    Resized rows that depend on no row of the image are in no block.
    """
    blocks = []
    for out_start in range(0, resized, _BLOCK_ROWS):
        out_stop = min(out_start + _BLOCK_ROWS, resized)
        taps, weights = _bicubic_weights(canvas, resized, out_start, out_stop)
        matrix = np.zeros((out_stop - out_start, canvas))
        np.add.at(matrix, (np.arange(len(taps))[:, None], taps.clip(0, canvas - 1)), weights)
        matrix = matrix[:, start : start + height]
        used = np.flatnonzero(matrix.any(axis=0))
        if used.size:
            first, last = int(used[0]), int(used[-1]) + 1
            padding = torch.from_numpy(1 - matrix.sum(axis=1, keepdims=True)).float()
            block = torch.from_numpy(matrix[:, first:last]).float().contiguous()
            blocks.append(_ColumnBlock(out_start, out_stop, first, last, block, padding))
    return tuple(blocks)


def _bicubic_weights(canvas: int, resized: int, out_start: int, out_stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the taps of the resized positions [out_start, out_stop): positions (n, T) and their float64 weights (n, T).

    This is Pillow's antialiased bicubic filter: the cubic with a = -0.5, stretched by the scale if the image shrinks, and
    cut off at the ends of the canvas.
    """
    scale = canvas / resized
    stretch = max(scale, 1.0)
    centres = (np.arange(out_start, out_stop)[:, None] + 0.5) * scale
    taps = np.floor(centres - 2 * stretch).astype(np.int64) + np.arange(math.ceil(4 * stretch) + 2)
    x = np.abs((taps + 0.5 - centres) / stretch)
    weights = np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, (((x - 5) * x + 8) * x - 4) * -0.5, 0))
    weights[(taps < 0) | (taps >= canvas)] = 0
    return taps, weights / weights.sum(axis=1, keepdims=True)


class _Window(NamedTuple):
    """A range of resized positions of a canvas, and the range of original positions that they are computed from."""

    out_start: int
    out_stop: int
    in_start: int
    in_stop: int


def _window(canvas: int, resized: int, start: int, stop: int) -> _Window:
    """Return the range of an axis that the image's positions [start, stop) can affect; beyond it is only background.

    Both ends are at positions that are integers in the input and in the output, so that resizing the range alone uses the
    scale and the phase of the entire canvas.
    """
    steps = math.gcd(canvas, resized)
    step_in, step_out = canvas // steps, resized // steps
    reach = 4 * max(canvas / resized, 1) + 1  # twice the half width of the bicubic filter
    first = max(0, math.floor((start - reach) / step_in))
    last = min(steps, math.ceil((stop + reach) / step_in))
    return _Window(first * step_out, last * step_out, first * step_in, last * step_in)


@lru_cache(maxsize=4096)
def _exact_window(canvas: int, resized: int, start: int, stop: int, resample: int) -> _Window:
    """Return `_window` if it gives Pillow's bits for certain and is much smaller than the canvas; else the entire canvas.

    Pillow computes each weight in float64 and rounds it to 22 fractional bits. Within the window positions are smaller by
    an integer, which changes a weight by 1e-12 at most: it is rounded alike unless it is that close to a half.
    """
    entire = _Window(0, resized, 0, canvas)
    window = _window(canvas, resized, start, stop)
    if resample != Image.Resampling.BICUBIC or window.in_stop - window.in_start > 0.8 * canvas:
        return entire
    _, weights = _bicubic_weights(canvas, resized, window.out_start, window.out_stop)
    fixed = np.abs(weights) * (1 << 22)
    return entire if (np.abs(fixed % 1 - 0.5) < 2e-5).any() else window
