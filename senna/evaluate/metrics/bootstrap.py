"""95 % intervals by resampling scenes. The frames of a scene are alike, so resampling frames would give too narrow ones.

Counts are added up per scene once. A resample draws as many scenes as there are, with replacement, and is a row of
weights, so that all resamples of all counts are one matrix product. The seed is fixed and scenes are sorted by name:
the same records give the same bounds in any order. Percentile bootstrap (Efron & Tibshirani 1993, chapter 13), except for
macro F1, which is not a smooth function of the counts (`macro_interval`).
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Interval = dict[str, float | None]
"""{"value", "low", "high"}; the bounds are None with fewer than two scenes, or if the value is not defined."""

RESAMPLES, SEED = 2000, 0
FEW_SCENES = 50
"""Below this number of scenes the intervals of macro F1 are too narrow (tests/evaluate/metrics/test_coverage.py)."""

_LEVELS = (0.025, 0.975)


class Scenes:
    """The scenes of N records, and their resamples. Letters: R resamples, S scenes, K counts."""

    def __init__(self, scenes: Sequence[str] | NDArray[np.str_], resamples: int = RESAMPLES, seed: int = SEED) -> None:
        self._names = np.asarray(scenes, dtype=str)
        names, self._scene_of = np.unique(self._names, return_inverse=True)  # (N,)
        self.count, self._resamples, self._seed = len(names), resamples, seed

    def select(self, records: Sequence[int]) -> "Scenes":
        """Return the scenes of the records with these indices, (M,); an index may occur several times."""
        return Scenes(self._names[list(records)], self._resamples, self._seed)

    @cached_property
    def _weights(self) -> NDArray[np.float64]:
        """(R, S): how often each resample contains a scene. R is 0 with fewer than two scenes."""
        if self.count < 2:
            return np.zeros((0, self.count))
        rng = np.random.default_rng(self._seed)
        weights = np.empty((self._resamples, self.count))
        for row in weights:
            row[:] = np.bincount(rng.integers(self.count, size=self.count), minlength=self.count)
        return weights

    def counts(self, codes: ArrayLike, kinds: int) -> NDArray[np.float64]:
        """Count the records of each code 0 .. K - 1, (N,) -> (1 + R, K): row 0 in all scenes, then in each resample."""
        bins = self._scene_of * kinds + np.asarray(codes)
        by_scene = np.bincount(bins, minlength=self.count * kinds).reshape(self.count, kinds)
        return self._resample(by_scene.astype(np.float64))

    def sums(self, values: ArrayLike) -> NDArray[np.float64]:
        """Add up values of records, (N,) or (N, K) -> (1 + R,) or (1 + R, K): row 0 in all scenes, then in each resample."""
        values = np.asarray(values, dtype=np.float64)
        columns = values.reshape(len(values), -1).T
        by_scene = [np.bincount(self._scene_of, weights=column, minlength=self.count) for column in columns]
        return self._resample(np.stack(by_scene, axis=1)).reshape(-1, *values.shape[1:])

    def _resample(self, by_scene: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return (1 + R, K) from counts per scene, (S, K)."""
        used = by_scene.any(axis=0)  # only a few of the pairs of twenty meta-actions occur
        result = np.zeros((1 + len(self._weights), by_scene.shape[1]))
        result[0] = by_scene.sum(axis=0)
        result[1:, used] = self._weights @ by_scene[:, used]
        return result


def interval(draws: NDArray[np.float64]) -> Interval:
    """Return the interval of a figure from its values in all scenes and in each resample, (1 + R,); NaN is undefined."""
    value, resampled = draws[0], draws[1:]
    resampled = resampled[np.isfinite(resampled)]
    low, high = np.quantile(resampled, _LEVELS) if len(resampled) else (np.nan, np.nan)
    return {"value": plain(value), "low": plain(low), "high": plain(high)}


def macro_interval(draws: NDArray[np.float64], scenes: int, lowest: float, highest: float) -> Interval:
    """Return the interval of a macro F1, or of a difference of two, from its values over a fixed set of classes, (1 + R,).

    Rare classes occur in few scenes. Where a resample lacks them their F1 is 0, so that resamples are biased downwards; the
    basic interval (Davison & Hinkley 1997, section 5.2), which reflects the quantiles at the value, errs upwards. The wider
    bound of the basic and the percentile interval is taken on each side. The levels of the quantiles are expanded for a
    small number of scenes, so that they agree with Student's t for a mean (Hesterberg 2015, section 5.3).

    Args:
        lowest, highest: the possible values; bounds are clipped to them.
    """
    value, resampled = draws[0], draws[1:]
    if not len(resampled) or not np.isfinite(draws).all():
        return {"value": plain(value), "low": None, "high": None}
    low, high = np.quantile(resampled, _expanded_levels(scenes))
    low, high = min(low, 2 * value - high), max(high, 2 * value - low)
    return {"value": plain(value), "low": plain(max(low, lowest)), "high": plain(min(high, highest))}


def _expanded_levels(scenes: int) -> tuple[float, float]:
    from scipy.stats import norm, t

    low = float(norm.cdf(t.ppf(_LEVELS[0], scenes - 1) * np.sqrt(scenes / (scenes - 1))))
    return low, 1.0 - low


def mean_interval(scenes: Scenes, values: ArrayLike) -> Interval:
    """Return the interval of a mean over records, (N,); records whose value is NaN are left out."""
    values = np.asarray(values, dtype=np.float64)
    known = np.isfinite(values)
    sums = scenes.sums(np.stack([np.where(known, values, 0.0), known], axis=1))
    return interval(ratio(sums[:, 0], sums[:, 1]))


def ratio(numerator: NDArray[Any], denominator: NDArray[Any], empty: float = np.nan) -> NDArray[np.float64]:
    """Return ``numerator / denominator``, and ``empty`` where the denominator is 0."""
    numerator, denominator = np.broadcast_arrays(np.asarray(numerator, dtype=np.float64), denominator)
    return np.divide(numerator, denominator, out=np.full(numerator.shape, empty), where=denominator > 0)


def plain(value: Any) -> float | None:
    """Return a figure as a JSON number; None if it is not finite."""
    return float(value) if np.isfinite(value) else None
