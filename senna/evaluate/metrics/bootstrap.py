"""95 % intervals by resampling scenes: frames of a scene are alike, so that resampling frames would promise too much.

Counts are added up a scene once. A resample draws as many scenes as there are, with replacement, and is then a row of
weights: all resamples of all counts are one matrix product. The seed is fixed and scenes are sorted by name, so the
same records give the same bounds in whatever order they come. Percentile bootstrap (Efron & Tibshirani 1993, chapter 13).
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Interval = dict[str, float | None]
"""{"value", "low", "high"}; the bounds are None where there are fewer than two scenes, or nothing to measure."""

RESAMPLES, SEED = 2000, 0
_LEVELS = (0.025, 0.975)


class Scenes:
    """The scenes of N records, and their resamples. R resamples, S scenes, K counts."""

    def __init__(self, scenes: Sequence[str] | NDArray[np.str_], resamples: int = RESAMPLES, seed: int = SEED) -> None:
        self._names = np.asarray(scenes, dtype=str)
        names, self._scene_of = np.unique(self._names, return_inverse=True)  # (N,)
        self.count, self._resamples, self._seed = len(names), resamples, seed

    def select(self, records: Sequence[int]) -> "Scenes":
        """The scenes of these records, (M,), each as often as it is given: of the objects in them, for example."""
        return Scenes(self._names[list(records)], self._resamples, self._seed)

    @cached_property
    def _weights(self) -> NDArray[np.float64]:
        """(R, S): how often a resample has a scene. R is 0 with one scene, which says nothing of others."""
        if self.count < 2:
            return np.zeros((0, self.count))
        rng = np.random.default_rng(self._seed)
        weights = np.empty((self._resamples, self.count))
        for row in weights:
            row[:] = np.bincount(rng.integers(self.count, size=self.count), minlength=self.count)
        return weights

    def counts(self, codes: ArrayLike, kinds: int) -> NDArray[np.float64]:
        """Records of each code 0 .. K - 1, (N,) -> (1 + R, K): in all scenes first, then in each resample."""
        places = self._scene_of * kinds + np.asarray(codes)
        by_scene = np.bincount(places, minlength=self.count * kinds).reshape(self.count, kinds)
        return self._resample(by_scene.astype(np.float64))

    def sums(self, values: ArrayLike) -> NDArray[np.float64]:
        """Sums of values of records, (N,) or (N, K) -> (1 + R,) or (1 + R, K): of all scenes first, then of each resample."""
        values = np.asarray(values, dtype=np.float64)
        columns = values.reshape(len(values), -1).T
        by_scene = [np.bincount(self._scene_of, weights=column, minlength=self.count) for column in columns]
        return self._resample(np.stack(by_scene, axis=1)).reshape(-1, *values.shape[1:])

    def _resample(self, by_scene: NDArray[np.float64]) -> NDArray[np.float64]:
        """(S, K) -> (1 + R, K)."""
        used = by_scene.any(axis=0)  # of the pairs of twenty meta-actions few occur
        result = np.zeros((1 + len(self._weights), by_scene.shape[1]))
        result[0] = by_scene.sum(axis=0)
        result[1:, used] = self._weights @ by_scene[:, used]
        return result


def interval(draws: NDArray[np.float64]) -> Interval:
    """The interval of a figure, given in all scenes and in each resample, (1 + R,); NaN where it is not defined."""
    value, others = draws[0], draws[1:]
    others = others[np.isfinite(others)]
    low, high = np.quantile(others, _LEVELS) if len(others) else (np.nan, np.nan)
    return {"value": plain(value), "low": plain(low), "high": plain(high)}


def mean_interval(scenes: Scenes, values: ArrayLike) -> Interval:
    """The interval of a mean over records, (N,); a record without a value is NaN."""
    values = np.asarray(values, dtype=np.float64)
    known = np.isfinite(values)
    sums = scenes.sums(np.stack([np.where(known, values, 0.0), known], axis=1))
    return interval(ratio(sums[:, 0], sums[:, 1]))


def ratio(over: NDArray[Any], under: NDArray[Any], empty: float = np.nan) -> NDArray[np.float64]:
    """``over / under``; ``empty`` where that divides by nothing."""
    over, under = np.broadcast_arrays(np.asarray(over, dtype=np.float64), under)
    return np.divide(over, under, out=np.full(over.shape, empty), where=under > 0)


def plain(value: Any) -> float | None:
    """A figure as JSON can have it: None where it is not finite."""
    return float(value) if np.isfinite(value) else None
