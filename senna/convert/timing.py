"""Labels at exact half seconds. nuScenes' key frames are 0.4 to 0.6 s apart, and a label takes each gap for 0.5 s.

The records keep the published labels, by key frame. The quality report flags those that change when the positions are
interpolated to 0.5, 1.0, ..., 3.0 s. Letters: S key frames of a scene, N trajectories, T = 6 steps.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from senna.convert.geometry import Array
from senna.meta_actions import FUTURE_STEPS, STEP, STOP_SPEED, MetaAction, label_trajectories

_SAME = 1e-6  # metres; positions that differ by less have the same label


class HalfSeconds(NamedTuple):
    """Between which key frames the next half seconds of each key frame are."""

    lower: NDArray[np.int64]  # (S, 6) index of the key frame at or before
    upper: NDArray[np.int64]  # (S, 6) index of the key frame after
    weight: Array  # (S, 6) from 0 at ``lower`` to 1 at ``upper``; NaN past the end of the scene


def half_seconds(times: Array) -> HalfSeconds:
    """Return the half seconds after each of S key frames, given their times in microseconds, ascending."""
    wanted = times[:, None] + np.arange(1, FUTURE_STEPS + 1) * STEP * 1e6  # (S, 6)
    lower = np.maximum(np.searchsorted(times, wanted, side="right") - 1, 0)
    upper = np.minimum(lower + 1, len(times) - 1)
    past, gap = wanted - times[lower], times[upper] - times[lower]
    inside = (past == 0) | (past < gap)
    return HalfSeconds(lower, upper, np.where(inside, past / np.where(gap > 0, gap, 1.0), np.nan))


def interpolate(lower: Array, upper: Array, weight: Array) -> Array:
    """Return the points between two key frames, (N, T, D) from twice (N, T, D) and the weights (N, T)."""
    share = weight[..., None]
    return np.where(share == 0, lower, lower + share * (upper - lower))


def retimed_labels(
    labels: Sequence[MetaAction | None], future: Array, retimed: Array, stop_speed: float | Array = STOP_SPEED
) -> list[MetaAction | None]:
    """Return the labels of interpolated trajectories; None where one is not completely known.

    Args:
        labels: the labels of ``future``, which are kept where the positions are the same.
        future, retimed: (N, T, 2) positions by key frame, and interpolated.
    """
    if not len(future):
        return []
    with np.errstate(invalid="ignore"):
        is_same = (np.abs(retimed - future) < _SAME).all(axis=(1, 2)).tolist()
    found = label_trajectories(retimed, stop_speed)
    return [label if same else new for label, same, new in zip(labels, is_same, found, strict=True)]
