"""Whether a model is as sure as it is right: calibration error and log-loss over the twenty meta-actions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from senna.evaluate.metrics.bootstrap import plain
from senna.evaluate.metrics.meta_actions import codes
from senna.meta_actions import ALL_META_ACTIONS, MetaAction

BINS = 10


def calibration(log_probs: ArrayLike, truth: Sequence[MetaAction]) -> dict[str, Any]:
    """Calibration of N plans from log-probabilities (N, 20), in the order of ``ALL_META_ACTIONS``; any constant may be off.

    - ``ece``: expected calibration error (Guo et al. 2017, arXiv 1706.04599): the mean distance of confidence, the top
      probability after softmax over the twenty, and accuracy, over ten bins of equal width that own their upper edge.
    - ``log_loss``: mean of -ln of the true action's probability after that softmax.
    - ``log_loss_frequencies``: the same of somebody who always gives the frequencies of these very truths; a model whose
      probabilities say something is below it.
    """
    scores = log_softmax(np.asarray(log_probs, dtype=np.float64))  # (N, 20)
    true_codes = np.array(codes(truth))
    confidence = np.exp(scores.max(axis=1))
    right = scores.argmax(axis=1) == true_codes
    # The rounding keeps 0.7 that is 0.7000000000000001 out of the bin above.
    place = np.clip(np.ceil(np.round(confidence * BINS, 9)) - 1, 0, BINS - 1).astype(int)
    bins = []
    for number in range(BINS):
        there = place == number
        bins.append(
            {
                "low": number / BINS,
                "high": (number + 1) / BINS,
                "count": int(there.sum()),
                "confidence": float(confidence[there].mean()) if there.any() else None,
                "accuracy": float(right[there].mean()) if there.any() else None,
            }
        )
    gaps = [one["count"] * abs(one["confidence"] - one["accuracy"]) for one in bins if one["count"]]
    shares = np.bincount(true_codes, minlength=len(ALL_META_ACTIONS)) / len(true_codes)
    shares = shares[shares > 0]
    return {
        "ece": float(sum(gaps) / len(true_codes)),
        "log_loss": plain(-scores[np.arange(len(true_codes)), true_codes].mean()),
        "log_loss_frequencies": float(-(shares * np.log(shares)).sum()),
        "bins": bins,
    }


def outside(log_probs: ArrayLike) -> float:
    """The mean probability of any answer but the twenty, from log-probabilities (N, 20)."""
    inside = np.exp(np.asarray(log_probs, dtype=np.float64)).sum(axis=1)
    return float(np.clip(1.0 - inside, 0.0, 1.0).mean())


def log_softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over the last axis."""
    shifted = scores - scores.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
