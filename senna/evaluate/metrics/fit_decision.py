"""Fit the temperature and the prior correction of `senna.decision` to scored plans. Pure functions.

Letters: N plans, C meta-actions that count.

- T minimizes the log loss of ``log p / T``.
- tau, from `TAUS`, maximizes the expected macro F1 of the largest ``log p / T - tau * log prior``: that of a ground truth that
  is distributed as the calibrated probabilities. Few scenes have few rare plans, so that the macro F1 of their labels is
  noisy, and its maximum over-fits.
- Figures afterwards are measured on left-out scenes: each scene with T and tau of the other scenes. T is 1, or tau 0, if it
  does not improve log loss, or lowers macro F1, there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from senna.decision import log_softmax
from senna.evaluate.metrics.bootstrap import Scenes
from senna.evaluate.metrics.calibration import calibration
from senna.evaluate.metrics.meta_actions import codes, decide
from senna.meta_actions import ALL_META_ACTIONS, MetaAction

TAUS = np.linspace(0.0, 1.0, 21)
"""The values of tau that are tried."""

_COLDEST, _HOTTEST = 0.05, 20.0  # range of T
_LEAST_PLANS = 0.5  # expected number of plans of a class that counts; the classes of few scenes are not known
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Fit:
    """The fitted values, and figures {"ece", "log_loss", "macro_f1", "accuracy"} before and after (on left-out scenes)."""

    temperature: float
    tau: float
    before: dict[str, Any]
    after: dict[str, Any]


def fit_decision(log_probs: Floats, truth: Sequence[MetaAction], scenes: Sequence[str], prior: Floats) -> Fit:
    """Fit T and tau to N plans.

    Args:
        log_probs: (N, 20), in the order of ``ALL_META_ACTIONS``.
        truth, scenes: (N,), of at least two scenes.
        prior: (20,), the distribution of the training plans.
    """
    true, scene = np.array(codes(truth)), np.unique(scenes, return_inverse=True)[1]
    log_prior = np.log(prior)
    left_out, corrected = np.empty_like(log_probs), np.empty_like(log_probs)
    for number in range(scene.max() + 1):
        others, own = scene != number, scene == number
        temperature = fit_temperature(log_probs[others], true[others])
        left_out[own] = log_probs[own] / temperature
        corrected[own] = left_out[own] - fit_tau(log_probs[others] / temperature, log_prior) * log_prior
    before, after = figures(log_probs, log_probs, truth), figures(left_out, corrected, truth)
    temperature = fit_temperature(log_probs, true)
    tau = fit_tau(log_probs / temperature, log_prior) if after["macro_f1"] >= before["macro_f1"] else 0.0
    if after["log_loss"] >= before["log_loss"]:
        temperature, left_out = 1.0, log_probs
    return Fit(temperature, tau, before, figures(left_out, corrected if tau else left_out, truth))


def fit_temperature(log_probs: Floats, true: NDArray[np.integer]) -> float:
    """Return the T that minimizes the log loss of ``log_probs`` (N, 20) at the codes ``true`` (N,)."""

    def log_loss(log_temperature: float) -> float:
        scores = log_softmax(log_probs / np.exp(log_temperature))
        return -float(scores[np.arange(len(true)), true].mean())

    found: Any = minimize_scalar(log_loss, bounds=(np.log(_COLDEST), np.log(_HOTTEST)), method="bounded")
    return float(np.exp(found.x))


def fit_tau(scores: Floats, log_prior: Floats) -> float:
    """Return the value of `TAUS` with the highest expected macro F1, the smallest one of a tie; see the module.

    Args:
        scores: (N, 20), calibrated log-probabilities up to a constant per row.
        log_prior: (20,).
    """
    probabilities = np.exp(log_softmax(scores))  # (N, 20)
    counts = probabilities.sum(axis=0) >= _LEAST_PLANS  # (20,)
    probabilities, expected = probabilities[:, counts], probabilities.sum(axis=0)[counts]  # (N, C), (C,)
    found = []
    for tau in TAUS:
        is_decided = np.eye(len(log_prior))[(scores - tau * log_prior).argmax(axis=1)][:, counts]  # (N, C)
        f1 = 2 * (is_decided * probabilities).sum(axis=0) / (is_decided.sum(axis=0) + expected)  # (C,)
        found.append(f1.mean())
    return float(TAUS[int(np.argmax(found))])


def figures(calibrated: Floats, scores: Floats, truth: Sequence[MetaAction]) -> dict[str, Any]:
    """Return ECE and log loss of calibrated log-probabilities (N, 20), and macro F1 and accuracy of the largest scores."""
    probabilities = calibration(calibrated, truth)
    actions = [ALL_META_ACTIONS[code] for code in scores.argmax(axis=1)]
    found = decide(truth, actions, Scenes([""] * len(truth))).parts["both"]
    return {
        "ece": probabilities["ece"],
        "log_loss": probabilities["log_loss"],
        "macro_f1": float(found.macro_f1s[0]),
        "accuracy": float(found.accuracies[0]),
    }
