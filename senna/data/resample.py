"""The two passes that resize a padded picture: Pillow's own bits without its wasted work, and a faster near miss.

A picture lies in a frame: the square that pads it, or just itself. Rows are resized first, then columns.
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
class Plan:
    """Where the picture lies in its frame (its padded square, or itself) and what the frame becomes; (x, y) pairs."""

    frame: tuple[int, int]
    offset: tuple[int, int]
    resized: tuple[int, int]
    corner: tuple[int, int]
    crop: tuple[int, int]
    background: tuple[int, int, int]
    resample: int


def exact_pixels(picture: Image.Image, plan: Plan) -> np.ndarray:
    """Pillow's resize of the whole frame, taken apart into its two passes.

    Pillow resizes rows first, rounds to uint8, then columns. So rows of padding can join after the first pass (a
    constant row stays constant) and columns that the crop drops can leave before the second: the bits are the same.
    """
    rows = _resize_rows(picture, plan)
    left, top = plan.corner
    width, height = plan.crop
    if width < rows.width:
        rows = rows.crop((left, 0, left + width, rows.height))
    start = plan.offset[1]
    window = _exact_window(plan.frame[1], plan.resized[1], start, start + rows.height, plan.resample)
    if window.in_stop - window.in_start > rows.height:
        strip = Image.new("RGB", (width, window.in_stop - window.in_start), plan.background)
        strip.paste(rows, (0, start - window.in_start))
        rows = strip
    if window.out_stop - window.out_start != rows.height:
        rows = rows.resize((width, window.out_stop - window.out_start), plan.resample)
    pixels = np.empty((plan.resized[1], width, 3), np.uint8)
    pixels[:] = plan.background
    pixels[window.out_start : window.out_stop] = np.asarray(rows)
    return pixels[top : top + height]


def _resize_rows(picture: Image.Image, plan: Plan) -> Image.Image:
    """The first pass: the picture's own rows at the resized width, with the padding of a portrait's columns."""
    width, (picture_width, height) = plan.resized[0], picture.size
    if plan.frame[0] == picture_width:
        return picture if width == picture_width else picture.resize((width, height), plan.resample)
    start = plan.offset[0]
    window = _exact_window(plan.frame[0], width, start, start + picture_width, plan.resample)
    wide, narrow = window.in_stop - window.in_start, window.out_stop - window.out_start
    # A band of rows at a time, so that the padded square of a sliver does not fill the memory.
    band = min(height, max(1, _BAND_PIXELS // wide))
    canvas = Image.new("RGB", (wide, band), plan.background)
    rows = Image.new("RGB", (width, height), plan.background)
    for top in range(0, height, band):
        canvas.paste(picture.crop((0, top, picture_width, min(top + band, height))), (start - window.in_start, 0))
        rows.paste(canvas if wide == narrow else canvas.resize((narrow, band), plan.resample), (window.out_start, top))
    return rows


def fast_pixels(picture: np.ndarray, plan: Plan) -> np.ndarray:
    """The same two passes in torch: rows in uint8 with 16-bit weights, columns in float, which halves the error."""
    left, top = plan.corner
    width, height = plan.crop
    rows = _fast_rows(picture, plan)[:, left : left + width]  # (h, W, 3)
    flat = rows.reshape(rows.shape[0], -1).to(torch.float32)  # (h, W * 3)
    background = torch.tensor(plan.background * width, dtype=torch.float32)  # (W * 3,)
    pixels = background.to(torch.uint8).repeat(plan.resized[1], 1)  # (resized height, W * 3)
    for block in _column_blocks(plan.frame[1], plan.resized[1], plan.offset[1], rows.shape[0]):
        column = torch.addmm(block.padding * background, block.weights, flat[block.in_start : block.in_stop])
        # Halves go up, as in Pillow.
        pixels[block.out_start : block.out_stop] = column.add_(0.5).clamp_(0, 255)
    return pixels.view(-1, width, 3)[top : top + height].numpy()


def _fast_rows(picture: np.ndarray, plan: Plan) -> torch.Tensor:
    """uint8 (h, resized width, 3)."""
    height, width = picture.shape[:2]
    if plan.frame[0] != width:
        padded = np.empty((height, plan.frame[0], 3), np.uint8)
        padded[:] = plan.background
        padded[:, plan.offset[0] : plan.offset[0] + width] = picture
        picture = padded
    rows = torch.from_numpy(picture)
    if plan.resized[0] == plan.frame[0]:
        return rows
    planes = rows.permute(2, 0, 1)[None]
    return interpolate(planes, size=(height, plan.resized[0]), mode="bicubic", antialias=True)[0].permute(1, 2, 0)


class _ColumnBlock(NamedTuple):
    """Some resized rows as a matrix product over the few rows of the picture they are made of."""

    out_start: int
    out_stop: int
    in_start: int
    in_stop: int
    weights: torch.Tensor  # (out, in) float32
    padding: torch.Tensor  # (out, 1) float32: what the background adds


@lru_cache(maxsize=64)
def _column_blocks(frame: int, resized: int, start: int, height: int) -> tuple[_ColumnBlock, ...]:
    """The second pass over a picture of `height` rows that begins at row `start` of its frame; see `_ColumnBlock`.

    Resized rows that see no row of the picture are in no block.
    """
    blocks = []
    for out_start in range(0, resized, _BLOCK_ROWS):
        out_stop = min(out_start + _BLOCK_ROWS, resized)
        taps, weights = _bicubic_weights(frame, resized, out_start, out_stop)
        matrix = np.zeros((out_stop - out_start, frame))
        np.add.at(matrix, (np.arange(len(taps))[:, None], taps.clip(0, frame - 1)), weights)
        matrix = matrix[:, start : start + height]
        used = np.flatnonzero(matrix.any(axis=0))
        if used.size:
            first, last = int(used[0]), int(used[-1]) + 1
            padding = torch.from_numpy(1 - matrix.sum(axis=1, keepdims=True)).float()
            block = torch.from_numpy(matrix[:, first:last]).float().contiguous()
            blocks.append(_ColumnBlock(out_start, out_stop, first, last, block, padding))
    return tuple(blocks)


def _bicubic_weights(frame: int, resized: int, out_start: int, out_stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions (n, T) and float64 weights (n, T) that resized positions [out_start, out_stop) sum up.

    Pillow's antialiased bicubic: the cubic of a = -0.5, stretched by the scale when shrinking, cut at the frame's ends.
    """
    scale = frame / resized
    stretch = max(scale, 1.0)
    centres = (np.arange(out_start, out_stop)[:, None] + 0.5) * scale
    taps = np.floor(centres - 2 * stretch).astype(np.int64) + np.arange(math.ceil(4 * stretch) + 2)
    x = np.abs((taps + 0.5 - centres) / stretch)
    weights = np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, (((x - 5) * x + 8) * x - 4) * -0.5, 0))
    weights[(taps < 0) | (taps >= frame)] = 0
    return taps, weights / weights.sum(axis=1, keepdims=True)


class _Window(NamedTuple):
    """A range of a frame's resized positions, and the range of its own positions they are computed from."""

    out_start: int
    out_stop: int
    in_start: int
    in_stop: int


def _window(frame: int, resized: int, start: int, stop: int) -> _Window:
    """The part of an axis that the picture's own positions [start, stop) can touch; outside it is only background.

    Both ends lie where output and input positions are whole numbers at once, so that resizing the range alone uses
    the scale and the phase of the whole frame.
    """
    steps = math.gcd(frame, resized)
    step_in, step_out = frame // steps, resized // steps
    reach = 4 * max(frame / resized, 1) + 1  # twice a bicubic filter's half width: its taps' taps
    first = max(0, math.floor((start - reach) / step_in))
    last = min(steps, math.ceil((stop + reach) / step_in))
    return _Window(first * step_out, last * step_out, first * step_in, last * step_in)


@lru_cache(maxsize=4096)
def _exact_window(frame: int, resized: int, start: int, stop: int, resample: int) -> _Window:
    """The same, where it is proven to give Pillow's bits and worth the proof; else the whole frame.

    Pillow computes each tap's weight in float64 and rounds it to 22 fractional bits. In the window a position is less
    by a whole number, which moves a weight by 1e-12 at most: it rounds alike unless it lies that near a half.
    """
    whole = _Window(0, resized, 0, frame)
    window = _window(frame, resized, start, stop)
    if resample != Image.Resampling.BICUBIC or window.in_stop - window.in_start > 0.8 * frame:
        return whole
    _, weights = _bicubic_weights(frame, resized, window.out_start, window.out_stop)
    fixed = np.abs(weights) * (1 << 22)
    return whole if (np.abs(fixed % 1 - 0.5) < 2e-5).any() else window
