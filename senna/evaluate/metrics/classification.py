"""How well classes are told: accuracy, macro F1, precision, recall, F1 and confusion, with intervals by scene.

An answer that is none of the classes is invalid: wrong whatever the truth, in a column of its own. It lowers accuracy
and the recall of the true class, and no class's precision.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from senna.evaluate.metrics.bootstrap import Interval, Scenes, interval, ratio

INVALID = -1


@dataclass(frozen=True)
class Classified:
    """Classes told. The draws are figures in all scenes, then in each resample, (1 + R,)."""

    accuracies: NDArray[np.float64]
    macro_f1s: NDArray[np.float64]
    table: dict[str, Any]  # labels, classes, confusion
    invalid: float

    @property
    def accuracy(self) -> Interval:
        return interval(self.accuracies)

    @property
    def macro_f1(self) -> Interval:
        return interval(self.macro_f1s)


def classify(truth: ArrayLike, told: ArrayLike, labels: Sequence[str], scenes: Scenes) -> Classified:
    """Compare classes told with true ones, codes (N,) into ``labels``; ``INVALID`` is an answer that is none. N >= 1.

    A class that is never told has precision 0, one that never occurs recall 0, as scikit-learn has it (zero_division=0).
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    truth, told, count = np.asarray(truth), np.asarray(told), len(labels)
    columns = np.where(told == INVALID, count, told)
    confusions = scenes.counts(truth * (count + 1) + columns, count * (count + 1)).reshape(-1, count, count + 1)
    known = list(range(count))
    measures = precision_recall_fscore_support(truth, columns, labels=known, zero_division=0)
    confusion = confusion_matrix(truth, columns, labels=[*known, count])[:count]
    invalid = float(np.mean(told == INVALID))
    return Classified(
        accuracies=accuracy(confusions),
        macro_f1s=macro_f1(confusions),
        table={
            "labels": list(labels),
            "classes": {
                label: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(s)}
                for label, p, r, f, s in zip(labels, *measures, strict=True)
            },
            "confusion": (confusion if invalid else confusion[:, :count]).tolist(),
        },
        invalid=invalid,
    )


def accuracy(confusions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of right answers: (..., C, C + 1) -> (...). Rows truth, columns answers, the last invalid ones."""
    return ratio(_right(confusions).sum(axis=-1), confusions.sum(axis=(-2, -1)))


def macro_f1(confusions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean F1 over the classes that occur in the truth, (..., C, C + 1) -> (...); in a resample, those that occur there."""
    right, true = _right(confusions), confusions.sum(axis=-1)  # (..., C)
    told = confusions[..., :-1].sum(axis=-2)
    f1 = ratio(2 * right, true + told, empty=0.0)
    return ratio((f1 * (true > 0)).sum(axis=-1), (true > 0).sum(axis=-1))


def _right(confusions: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.diagonal(confusions[..., :-1], axis1=-2, axis2=-1)


def majority(codes: ArrayLike) -> int:
    """The most frequent code; of several the smallest."""
    return int(np.bincount(np.asarray(codes)).argmax())
