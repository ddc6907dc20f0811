"""Calibration of the probabilities of the twenty meta-actions: expected calibration error and log loss."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import log_softmax

from senna.evaluate.metrics.bootstrap import plain
from senna.evaluate.metrics.meta_actions import codes
from senna.meta_actions import ALL_META_ACTIONS, MetaAction

BINS = 10


def calibration(log_probs: ArrayLike, truth: Sequence[MetaAction]) -> dict[str, Any]:
    """Return the calibration of N plans.

    Args:
        log_probs: (N, 20), in the order of ``ALL_META_ACTIONS``, up to a constant per row.
        truth: (N,).

    Returns:
        - ``ece``: expected calibration error (Guo et al. 2017, arXiv 1706.04599): the mean distance between confidence
          (the top probability after softmax over the twenty) and accuracy, over ten bins of equal width that include
          their upper edge.
        - ``log_loss``: mean of -ln of the true meta-action's probability after that softmax.
        - ``log_loss_frequencies``: the log loss of a constant prediction, the frequencies of these ground truths;
          probabilities that carry information are below it.
        - ``bins``: [{"low", "high", "count", "confidence", "accuracy"}]; the last two are None in an empty bin.
    """
    scores = log_softmax(np.asarray(log_probs, dtype=np.float64), axis=-1)  # (N, 20)
    true_codes = np.array(codes(truth))
    confidence = np.exp(scores.max(axis=1))
    correct = scores.argmax(axis=1) == true_codes
    # Rounding keeps a confidence of 0.7000000000000001 in the bin that ends at 0.7.
    bin_of = np.clip(np.ceil(np.round(confidence * BINS, 9)) - 1, 0, BINS - 1).astype(int)
    bins = []
    for number in range(BINS):
        inside = bin_of == number
        bins.append(
            {
                "low": number / BINS,
                "high": (number + 1) / BINS,
                "count": int(inside.sum()),
                "confidence": float(confidence[inside].mean()) if inside.any() else None,
                "accuracy": float(correct[inside].mean()) if inside.any() else None,
            }
        )
    gaps = [row["count"] * abs(row["confidence"] - row["accuracy"]) for row in bins if row["count"]]
    frequencies = np.bincount(true_codes, minlength=len(ALL_META_ACTIONS)) / len(true_codes)
    frequencies = frequencies[frequencies > 0]
    return {
        "ece": float(sum(gaps) / len(true_codes)),
        "log_loss": plain(-scores[np.arange(len(true_codes)), true_codes].mean()),
        "log_loss_frequencies": float(-(frequencies * np.log(frequencies)).sum()),
        "bins": bins,
    }


def outside(log_probs: ArrayLike) -> float:
    """Return the mean probability of answers other than the twenty, from log-probabilities (N, 20)."""
    inside = np.exp(np.asarray(log_probs, dtype=np.float64)).sum(axis=1)
    return float(np.clip(1.0 - inside, 0.0, 1.0).mean())
