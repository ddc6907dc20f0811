"""Slopes with intervals of the samples of a process."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.stats import theilslopes

WARM_UP = 0.2
"""The share at the start of a process's work that is not judged: caches fill, and allocators reach their size."""
BLOCKS, SAMPLES_PER_BLOCK = 24, 3

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Trend:
    """A straight line through the medians of blocks of samples.

    Attributes:
        slope, low, high: units per second, with its 95 % interval.
        seconds: the time between the first and the last block.
        typical: the median of the blocks.
    """

    slope: float
    low: float
    high: float
    seconds: float
    typical: float

    def per_hour(self) -> tuple[float, float, float]:
        """Return slope and interval in units per hour."""
        return 3600 * self.slope, 3600 * self.low, 3600 * self.high

    def change(self) -> tuple[float, float, float]:
        """Return the change from the first to the last block, with its interval, in parts of the typical value."""
        scale = self.seconds / self.typical if self.typical else 0.0
        return self.slope * scale, self.low * scale, self.high * scale


def settled(done: Sequence[float]) -> slice:
    """Return the samples to judge: from the first to the last progress, without the warm-up.

    Args:
        done: the number of finished records at each sample. It stays the same while a run loads or writes its final files.
    """
    moved = np.flatnonzero(np.diff(done))
    if not len(moved):
        return slice(0, 0)
    first, last = int(moved[0]) + 1, int(moved[-1]) + 2
    return slice(first + round(WARM_UP * (last - first)), last)


def blocks(times: Sequence[float], values: Sequence[float]) -> tuple[Array, Array]:
    """Return mean time and median value of blocks of samples; no block for fewer than `SAMPLES_PER_BLOCK` samples.

    Neighbouring samples are alike. Blocks that are longer than a round of saving and validation are nearly independent.
    """
    count = min(BLOCKS, len(times) // SAMPLES_PER_BLOCK)
    if not count:
        return np.zeros(0), np.zeros(0)
    parts = zip(np.array_split(times, count), np.array_split(values, count), strict=True)
    pairs = [(part.mean(), np.median(value)) for part, value in parts]
    return np.array([time for time, _ in pairs]), np.array([value for _, value in pairs])


def rates(times: Sequence[float], done: Sequence[float]) -> tuple[Array, Array]:
    """Return mean time and records/s of blocks of samples."""
    edges = _edges(len(times))
    if len(edges) < 2:
        return np.zeros(0), np.zeros(0)
    moments, totals = np.asarray(times, float)[edges], np.asarray(done, float)[edges]
    return (moments[1:] + moments[:-1]) / 2, np.diff(totals) / np.diff(moments)


def means(values: Sequence[float]) -> Array:
    """Return the mean of the samples in each block of `rates`."""
    edges = _edges(len(values))
    return np.array([np.mean(values[first : last + 1]) for first, last in pairwise(edges)])


def _edges(samples: int) -> list[int]:
    """Return the first sample of each block of `rates`, and the last sample."""
    count = min(BLOCKS, samples // SAMPLES_PER_BLOCK)
    return np.linspace(0, samples - 1, count + 1).round().astype(int).tolist()


def trend(times: Sequence[float] | Array, values: Sequence[float] | Array) -> Trend | None:
    """Return the Theil-Sen line through blocks, which a few outliers do not move; None for fewer than ten blocks.

    The interval is that of Kendall's tau (Sen 1968).
    """
    if len(times) < 10:
        return None
    slope, _, low, high = theilslopes(values, times, 0.95)
    seconds = float(np.max(times) - np.min(times))
    return Trend(float(slope), float(low), float(high), seconds, float(np.median(values)))
