"""Two runs or more side by side: on the records they share, how much one has over the other, and where they differ.

``compare`` is values in, values out; ``comparison_text`` says it in lines, ``write_comparison`` on a page too.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from senna.errors import UsageError
from senna.evaluate.metrics.bootstrap import Interval, Scenes
from senna.evaluate.metrics.meta_actions import decide
from senna.evaluate.predictions import RUN, read_predictions
from senna.evaluate.report import frame_cards
from senna.evaluate.report.frame_cards import Prediction
from senna.evaluate.report.html import bounds, headline_of, number

MEASURES = (("macro F1", "macro_f1"), ("accuracy", "accuracy"))
PARTS = (("joint", "both"), ("SPEED", "speed"), ("PATH", "path"))
Key = tuple[str, str, int]
_ABOUT = ("records", "scenes", "unreadable_truths")  # of a kind's records rather than of the answers


@dataclass(frozen=True)
class Run:
    """An evaluation on disk. ``name`` tells it from the others it is compared with."""

    name: str
    folder: Path
    metrics: Mapping[str, Any]
    predictions: Sequence[Prediction]


@dataclass(frozen=True)
class Difference:
    """A run against the first, over the plans that both have with the same truth.

    Attributes:
        gain: {"accuracy", "macro_f1"} of {"both", "speed", "path"}: intervals of other minus first, scenes resampled in
            pairs; None without a shared plan.
        outcomes: plans by (first right, other right).
        apart: (first's, other's) predictions of one record of which one is right, those first that they differ most on.
        warnings: in what the records are not the same, sentences.
    """

    shared: int
    gain: Mapping[str, Mapping[str, Interval]] | None
    outcomes: Mapping[tuple[bool, bool], int]
    apart: Sequence[tuple[Prediction, Prediction]]
    warnings: Sequence[str]


def open_runs(folders: Sequence[Path]) -> list[Run]:
    """The evaluations in these folders. Raises UsageError for fewer than two, or a folder that is none."""
    folders = [Path(folder) for folder in folders]
    if len({folder.resolve() for folder in folders}) < 2:
        raise UsageError(
            "comparing takes the folders of two evaluations or more, each another: senna evaluate --compare A B"
        )
    times = Counter(folder.resolve().name for folder in folders)
    return [
        Run(
            str(folder) if times[folder.resolve().name] > 1 else folder.resolve().name,
            folder,
            _read_metrics(folder),
            [one for one in read_predictions(folder / "predictions.jsonl") if "error" not in one],
        )
        for folder in folders
    ]


def _read_metrics(folder: Path) -> dict[str, Any]:
    path = folder / "metrics.json"
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{folder} has no metrics.json: `senna evaluate --out {folder}` makes it") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}); run `senna evaluate` again") from None
    if not isinstance(metrics, dict) or not {"records", "scenes", "plan", "text"} <= metrics.keys():
        raise UsageError(f"{path} is not of `senna evaluate`; run it again")
    return metrics


def settings_of(run: Run) -> dict[str, Any]:
    """What the run was made with, as far as its folder says so."""
    try:
        kept = json.loads((run.folder / RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        kept = {}
    return {**(kept if isinstance(kept, dict) else {}), **(run.metrics.get("run") or {})}


def compare(first: Sequence[Prediction], other: Sequence[Prediction]) -> Difference:
    """``other`` against ``first``: their predictions, matched by record id (or token) and kind."""
    ours, theirs = _by_record(first), _by_record(other)
    both = [key for key in ours if key in theirs]
    moved = [key for key in both if ours[key]["truth"].strip() != theirs[key]["truth"].strip()]
    pairs = [(ours[key], theirs[key]) for key in both if key not in set(moved)]
    plans = [(mine, its) for mine, its in pairs if mine["kind"] == "plan" and frame_cards.truth(mine)]
    outcomes = Counter((_is_right(mine), _is_right(its)) for mine, its in plans)
    apart = [(mine, its) for mine, its in plans if _is_right(mine) != _is_right(its)]
    return Difference(
        shared=len(plans),
        gain=_gain(plans) if plans else None,
        outcomes={(a, b): outcomes[a, b] for a in (True, False) for b in (True, False)},
        apart=sorted(apart, key=lambda pair: (-_distance(*pair), pair[0]["index"])),
        warnings=_warnings(len(ours), len(theirs), len(both), len(moved), pairs),
    )


def _by_record(predictions: Sequence[Prediction]) -> dict[Key, Prediction]:
    """By id and kind; a number tells records apart that share both."""
    times: Counter[tuple[str, str]] = Counter()
    found = {}
    for one in predictions:
        name = (str(one.get("id") or one.get("token") or one["index"]), str(one["kind"]))
        found[(*name, times[name])] = one
        times[name] += 1
    return found


def _is_right(prediction: Prediction) -> bool:
    return frame_cards.decision(prediction) == frame_cards.truth(prediction)


def _distance(mine: Prediction, its: Prediction) -> float:
    """How differently sure of the truth two are; 1 where there are no probabilities."""
    sure = [frame_cards.truth_probability(one) for one in (mine, its)]
    return 1.0 if None in sure else abs(sure[0] - sure[1])


def _gain(plans: Sequence[tuple[Prediction, Prediction]]) -> dict[str, dict[str, Interval]]:
    truth, scenes = [frame_cards.truth(mine) for mine, _ in plans], Scenes([mine.get("scene", "") for mine, _ in plans])
    mine, its = (decide(truth, [frame_cards.decision(pair[side]) for pair in plans], scenes) for side in (0, 1))
    return its.gain(mine)


def _warnings(
    ours: int, theirs: int, both: int, moved: int, pairs: Sequence[tuple[Prediction, Prediction]]
) -> list[str]:
    found = []
    if both < max(ours, theirs):
        found.append(
            f"Not the same records: {both:,} are in both, {ours - both:,} only in the first, {theirs - both:,} only in the "
            "other; differences are over the shared ones, the figures of each run over all of its own."
        )
    if moved:
        found.append(f"{moved:,} shared records have another truth in each and are left out of the differences.")
    other_questions = sum(mine["question"] != its["question"] for mine, its in pairs)
    if other_questions:
        found.append(f"{other_questions:,} shared records were asked in other words.")
    return found


def top_figures(metrics: Mapping[str, Any]) -> dict[tuple[str, str], Any]:
    """(kind, figure) -> number or interval: those of the text answers that are not inside a table."""
    return {
        (kind, name): value
        for kind, figures in metrics["text"].items()
        for name, value in figures.items()
        if (isinstance(value, Mapping) and "low" in value) or (isinstance(value, int | float) and name not in _ABOUT)
    }


def comparison_text(runs: Sequence[Run], differences: Sequence[Difference]) -> str:
    """The comparison as lines: each run's headline, then each difference from the first."""
    rows = [("", *(name for name, _ in MEASURES), "records", "scenes")]
    for run in runs:
        plan = run.metrics["plan"]
        cells = [_told(headline_of(plan)[measure]["both"]) if plan else "-" for _, measure in MEASURES]
        rows.append((run.name, *cells, f"{run.metrics['records']:,}", f"{run.metrics['scenes']:,}"))
    lines = _columns(rows)
    for run, difference in zip(runs[1:], differences, strict=True):
        lines += ["", f"{run.name} against {runs[0].name}, {difference.shared:,} shared plans"]
        if difference.gain:
            table = [("", *(name for name, _ in PARTS))]
            table += [
                (name, *(_told(difference.gain[measure][part], "+") for _, part in PARTS)) for name, measure in MEASURES
            ]
            lines += _columns(table)
            only_first, only_other = difference.outcomes[True, False], difference.outcomes[False, True]
            lines.append(f"only {runs[0].name} right {only_first:,}, only {run.name} right {only_other:,}")
        lines += [f"note: {warning}" for warning in difference.warnings]
    names = list(dict.fromkeys(name for run in runs for name in top_figures(run.metrics)))
    if names:
        table = [("text answers", *(run.name for run in runs))]
        for name in names:
            values = [top_figures(run.metrics).get(name) for run in runs]
            cells = [_told(value) if isinstance(value, Mapping) else number(value) for value in values]
            table.append((f"{name[0]} {name[1]}".replace("_", " "), *cells))
        lines += ["", *_columns(table)]
    return "\n".join(lines)


def _told(interval: Mapping[str, Any], sign: str = "") -> str:
    def show(value: Any) -> str:
        return "-" if value is None else f"{value:{sign}.3f}"

    return f"{show(interval['value'])} ({bounds(interval, show)})"


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def write_comparison(folders: Sequence[Path], out: Path) -> Path:
    """Compare the evaluations in ``folders`` with the first: print it, and write ``comparison.html`` into ``out``.

    Returns:
        The page's path.

    Raises:
        UsageError: fewer than two folders, or one without metrics.json and predictions.jsonl.
        SennaError: the page cannot be written.
    """
    from senna.evaluate.report.compare_page import comparison_page
    from senna.evaluate.report.html import write_whole

    runs = open_runs(folders)
    differences = [compare(runs[0].predictions, run.predictions) for run in runs[1:]]
    print(comparison_text(runs, differences))
    path = Path(out) / "comparison.html"
    write_whole(path, comparison_page(runs, differences).encode("utf-8"))
    return path
