"""The picture of a run: its losses by step, and the held-out macro F1 of plans."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from senna.files import atomic_write

MACRO_F1, MAJORITY = "eval_plan_macro_f1", "eval_plan_majority_macro_f1"
MOST_POINTS = 4000  # of a line: several for each pixel column
_ENDS = (np.argmin, np.argmax)
PALE, BLUE, ORANGE, GREY = "#9ecae1", "#08519c", "#d94801", "#737373"


def plot_losses(history: list[dict], path: Path, title: str) -> bool:
    """Draw a log history (entries with "step" and "loss", and those of validations) to a PNG file.

    Returns:
        False if there are fewer than two losses; no file is written then.

    Raises:
        SennaError: the file cannot be written.
    """
    steps, losses = _points(history, "loss")
    if len(steps) < 2:
        return False
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    has_plans = bool(_points(history, MACRO_F1)[0])
    figure, axes = plt.subplots(
        2 if has_plans else 1, figsize=(8, 6.5 if has_plans else 4.5), dpi=120, sharex=True, squeeze=False,
        gridspec_kw={"height_ratios": [3, 2]} if has_plans else None,
    )  # fmt: skip
    top, bottom = axes[0, 0], axes[-1, 0]
    top.plot(*_thinned(steps, losses), color=PALE, linewidth=1, label="each log step")
    top.plot(*_thinned(steps, _smoothed(losses)), color=BLUE, linewidth=2, label="smoothed (0.9)")
    _plot_held_out(top, *_points(history, "eval_loss"), label="held out")
    top.set(ylabel="loss (nats per target token)", title=title)
    if has_plans:
        _plot_held_out(bottom, *_points(history, MACRO_F1), label="held out")
        level = [entry[MAJORITY] for entry in history if MAJORITY in entry][-1]
        bottom.axhline(level, color=GREY, linestyle="--", linewidth=1, label=f"majority class ({level:.3f})")
        bottom.set(ylabel="macro F1 of plans")
    bottom.set(xlabel="step")
    for panel in axes[:, 0]:
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
        panel.legend()
    figure.tight_layout()
    with atomic_write(path) as partial:
        figure.savefig(partial, format="png")
    plt.close(figure)
    return True


def _points(history: Sequence[dict[str, Any]], key: str) -> tuple[list[int], list[float]]:
    """Return the steps of the entries that have a figure, and the figures."""
    found = [entry for entry in history if key in entry]
    return [entry["step"] for entry in found], [entry[key] for entry in found]


def _smoothed(losses: Sequence[float]) -> list[float]:
    smoothed, average = [], losses[0]
    for loss in losses:
        average = 0.9 * average + 0.1 * loss
        smoothed.append(average)
    return smoothed


def _thinned(steps: Sequence[int], values: Sequence[float]) -> tuple[Sequence[int], Sequence[float]]:
    """Return at most `MOST_POINTS` points of a line: the lowest and the highest of each group of neighbours.

    A group is narrower than a pixel, so the picture hardly changes.
    """
    if len(steps) <= MOST_POINTS:
        return steps, values
    groups = np.array_split(np.asarray(values), MOST_POINTS // 2)
    starts = np.cumsum([0, *map(len, groups[:-1])])
    kept = np.unique([start + index(group) for start, group in zip(starts, groups, strict=True) for index in _ENDS])
    return np.asarray(steps)[kept].tolist(), np.asarray(values)[kept].tolist()


def _plot_held_out(axes: Any, steps: Sequence[int], values: Sequence[float], label: str) -> None:
    if steps:
        axes.plot(*_thinned(steps, values), color=ORANGE, linewidth=1.5, marker="o", markersize=4, label=label)
