"""Evaluations side by side: the records that they share, and the differences between their predictions."""

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from senna.errors import UsageError
from senna.evaluate.decisions import rules_of
from senna.evaluate.metrics.bootstrap import Interval, Scenes
from senna.evaluate.metrics.meta_actions import decide
from senna.evaluate.metrics.trajectory import trajectory_gain
from senna.evaluate.predictions import Prediction, read_predictions
from senna.evaluate.report.frame_cards import decision, is_correct, true_action, truth_probability
from senna.futures import Futures, futures_path, read_futures
from senna.kinds import PLAN, TRAJECTORY
from senna.run_folder import RUN_FILE, read_settings

MEASURES = (("macro F1", "macro_f1"), ("accuracy", "accuracy"))
PARTS = (("joint", "both"), ("SPEED", "speed"), ("PATH", "path"))
Pair = tuple[Prediction, Prediction]
"""The predictions of two runs for the same record."""

_Key = tuple[str, str, int]
_COUNTS = ("records", "scenes", "unreadable_truths")  # facts about the records of a kind, not about the answers


@dataclass(frozen=True)
class Run:
    """An evaluation on disk. ``name`` is unique among the compared runs."""

    name: str
    folder: Path
    metrics: Mapping[str, Any]
    predictions: Sequence[Prediction]


@dataclass(frozen=True)
class Difference:
    """A run compared with the first one, on the plans that both have with the same ground truth.

    Attributes:
        shared: number of these plans.
        gain: {"accuracy", "macro_f1"} of {"both", "speed", "path"}: other minus first, with intervals of the paired
            differences; None without a shared plan.
        outcomes: (first is correct, other is correct) -> number of plans.
        disagreements: (first, other) predictions of which exactly one is correct; those whose probabilities of the ground
            truth differ most come first.
        warnings: sentences about differences between the records of the two runs.
        trajectories: number of shared trajectories with the same ground truth.
        trajectory_gain: see `senna.evaluate.metrics.trajectory.trajectory_gain`, other minus first; None without any.
    """

    shared: int
    gain: Mapping[str, Mapping[str, Interval]] | None
    outcomes: Mapping[tuple[bool, bool], int]
    disagreements: Sequence[Pair]
    warnings: Sequence[str]
    trajectories: int = 0
    trajectory_gain: Mapping[str, Any] | None = None


def open_runs(folders: Sequence[Path]) -> list[Run]:
    """Read the evaluations in these folders.

    Raises:
        UsageError: there are fewer than two different folders, or one does not hold an evaluation.
    """
    folders = [Path(folder) for folder in folders]
    if len({folder.resolve() for folder in folders}) < 2:
        raise UsageError(
            f"{', '.join(map(str, folders)) or 'no folder'}: fewer than two evaluations to compare",
            remedy="give the folders of two or more different evaluations: senna compare A B",
        )
    times = Counter(folder.resolve().name for folder in folders)
    return [_open_run(folder, is_unique=times[folder.resolve().name] == 1) for folder in folders]


def _open_run(folder: Path, is_unique: bool) -> Run:
    metrics = _read_metrics(folder)
    usable = [row for row in read_predictions(folder / "predictions.jsonl") if "error" not in row]
    name = folder.resolve().name if is_unique else str(folder)
    return Run(name, folder, metrics, rules_of(metrics["plan"]).decide(usable))


def _read_metrics(folder: Path) -> dict[str, Any]:
    path, remedy = folder / "metrics.json", f"run `senna evaluate --out {shlex.quote(str(folder))}`, which writes it"
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{folder} has no metrics.json", remedy=remedy) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error})", remedy=remedy) from None
    if not isinstance(metrics, dict) or not {"records", "scenes", "plan", "text"} <= metrics.keys():
        raise UsageError(f"{path} was not written by `senna evaluate`", remedy=remedy)
    return metrics


def settings_of(run: Run) -> dict[str, Any]:
    """Return the settings of a run from its run.json and metrics.json; {} if there are none."""
    return {**(read_settings(run.folder / RUN_FILE) or {}), **(run.metrics.get("run") or {})}


def futures_of(run: Run) -> dict[str, Futures]:
    """Return token -> what is recorded around the frames of a run's trajectories; {} if the file beside its data is gone."""
    tokens = [row["token"] for row in run.predictions if row["kind"] == TRAJECTORY]
    data = (read_settings(run.folder / RUN_FILE) or settings_of(run)).get("data")  # run.json has the absolute path
    return read_futures(futures_path(data), tokens) if data and tokens else {}


def compare(
    first: Sequence[Prediction], other: Sequence[Prediction], futures: Mapping[str, Futures] | None = None
) -> Difference:
    """Compare the predictions of a run with those of the first run, matched by record id (or token) and kind.

    Args:
        futures: token -> what is recorded around the frame, for the collisions of trajectories.
    """
    by_record, by_record_other = _by_record(first), _by_record(other)
    shared = [key for key in by_record if key in by_record_other]
    pairs = [(by_record[key], by_record_other[key]) for key in shared]
    same_truth = [(a, b) for a, b in pairs if a["truth"].strip() == b["truth"].strip()]
    plans = [(a, b) for a, b in same_truth if a["kind"] == PLAN and true_action(a)]
    paths = [(a, b) for a, b in same_truth if a["kind"] == TRAJECTORY and "text" in a and "text" in b]
    outcomes = Counter((is_correct(a), is_correct(b)) for a, b in plans)
    disagreements = [(a, b) for a, b in plans if is_correct(a) != is_correct(b)]
    return Difference(
        shared=len(plans),
        gain=_gain(plans) if plans else None,
        outcomes={(a, b): outcomes[a, b] for a in (True, False) for b in (True, False)},
        disagreements=sorted(disagreements, key=lambda pair: (-_truth_distance(*pair), pair[0]["index"])),
        warnings=_warnings(len(by_record), len(by_record_other), len(shared), same_truth),
        trajectories=len(paths),
        trajectory_gain=trajectory_gain(paths, futures or {}),
    )


def _by_record(predictions: Sequence[Prediction]) -> dict[_Key, Prediction]:
    """Return the predictions by id and kind, and by number where several records share both."""
    times: Counter[tuple[str, str]] = Counter()
    found = {}
    for row in predictions:
        name = (str(row.get("id") or row.get("token") or row["index"]), str(row["kind"]))
        found[(*name, times[name])] = row
        times[name] += 1
    return found


def _truth_distance(first: Prediction, other: Prediction) -> float:
    """Return the distance between the two probabilities of the ground truth; 1 if one is unknown."""
    a, b = truth_probability(first), truth_probability(other)
    return 1.0 if a is None or b is None else abs(a - b)


def _gain(plans: Sequence[Pair]) -> dict[str, dict[str, Interval]]:
    truth = [true for first, _ in plans if (true := true_action(first))]
    scenes = Scenes([first.get("scene", "") for first, _ in plans])
    first, other = (decide(truth, [decision(pair[side]) for pair in plans], scenes) for side in (0, 1))
    return other.gain(first)


def _warnings(first: int, other: int, shared: int, same_truth: Sequence[Pair]) -> list[str]:
    """Return the warnings.

    Args:
        first, other, shared: numbers of records of each run, and of both.
        same_truth: the shared records with the same ground truth.
    """
    found = []
    if shared < max(first, other):
        found.append(
            f"Not the same records: {shared:,} are in both, {first - shared:,} only in the first, {other - shared:,} only in "
            "the other. Differences are over the shared records, the figures of each run over all its records."
        )
    if moved := shared - len(same_truth):
        found.append(f"{moved:,} shared records have different ground truths and are left out of the differences.")
    if reworded := sum(_wording(a) != _wording(b) for a, b in same_truth):
        found.append(f"{reworded:,} shared records have differently worded questions.")
    return found


def _wording(row: Prediction) -> str:
    """Return a question without the plan that it states, which is the run's own decision."""
    return row["question"].replace(row.get("plan") or "\0", "")


def top_figures(metrics: Mapping[str, Any]) -> dict[tuple[str, str], Any]:
    """Return (kind, figure) -> number or interval, for the figures of text answers that are not inside a table."""
    return {
        (kind, name): value
        for kind, figures in metrics["text"].items()
        for name, value in figures.items()
        if (isinstance(value, Mapping) and "low" in value) or (isinstance(value, int | float) and name not in _COUNTS)
    }
