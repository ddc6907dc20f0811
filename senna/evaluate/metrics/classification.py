"""Accuracy, macro F1, precision, recall, F1 and confusion matrix of predicted classes, with intervals by scene.

An answer that is none of the classes is invalid: it is wrong whatever the ground truth, and has a column of its own in the
confusion matrix. It lowers accuracy and the recall of the true class, and the precision of no class.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from senna.evaluate.metrics.bootstrap import Interval, Scenes, interval, macro_interval, ratio

INVALID = -1


@dataclass(frozen=True)
class ClassificationResult:
    """The figures of predicted classes.

    Attributes:
        accuracies, macro_f1s: (1 + R,), the figure in all scenes, then in each resample.
        table: {"labels", "classes", "confusion"}, as in metrics.json.
        invalid: fraction of invalid answers.
        scenes: number of scenes.
    """

    accuracies: NDArray[np.float64]
    macro_f1s: NDArray[np.float64]
    table: dict[str, Any]
    invalid: float
    scenes: int

    @property
    def accuracy(self) -> Interval:
        return interval(self.accuracies)

    @property
    def macro_f1(self) -> Interval:
        return macro_interval(self.macro_f1s, self.scenes, 0.0, 1.0)


def classify(truth: ArrayLike, predicted: ArrayLike, labels: Sequence[str], scenes: Scenes) -> ClassificationResult:
    """Compare predicted classes with the true ones.

    A class that is never predicted has precision 0 and one that never occurs has recall 0, as in scikit-learn with
    ``zero_division=0``.

    Args:
        truth, predicted: (N,), indices into ``labels``, N >= 1; ``INVALID`` is a prediction that is none of them.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    truth, predicted, count = np.asarray(truth), np.asarray(predicted), len(labels)
    columns = np.where(predicted == INVALID, count, predicted)
    confusions = scenes.counts(truth * (count + 1) + columns, count * (count + 1)).reshape(-1, count, count + 1)
    known = list(range(count))
    measures: Any = precision_recall_fscore_support(truth, columns, labels=known, zero_division=0)
    confusion = confusion_matrix(truth, columns, labels=[*known, count])[:count]
    invalid = float(np.mean(predicted == INVALID))
    return ClassificationResult(
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
        scenes=scenes.count,
    )


def accuracy(confusions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the fraction of correct answers, (..., C, C + 1) -> (...).

    Rows are the ground truth, columns the answers; the last column counts invalid answers.
    """
    return ratio(_correct(confusions).sum(axis=-1), confusions.sum(axis=(-2, -1)))


def macro_f1(confusions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean F1 over the classes that occur in the ground truth of all scenes, (1 + R, C, C + 1) -> (1 + R,).

    The set of classes is that of row 0, all scenes: F1 is 0 for a class that a resample lacks. If each resample had its own
    classes, those without the rare ones, which are the hardest, would score too high.
    """
    correct, true = _correct(confusions), confusions.sum(axis=-1)  # (..., C)
    predicted = confusions[..., :-1].sum(axis=-2)
    f1 = ratio(2 * correct, true + predicted, empty=0.0)
    occurs = true[0] > 0  # (C,)
    return ratio((f1 * occurs).sum(axis=-1), occurs.sum())


def _correct(confusions: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.diagonal(confusions[..., :-1], axis1=-2, axis2=-1)


def majority(codes: ArrayLike) -> int:
    """Return the most frequent code, the smallest one of a tie."""
    return int(np.bincount(np.asarray(codes)).argmax())
