"""The results of an evaluation, and of a comparison of evaluations, as lines of text."""

from collections.abc import Mapping, Sequence
from typing import Any

from senna.evaluate.report.comparison import MEASURES, PARTS, Difference, Run, top_figures
from senna.evaluate.report.html import bounds, few_scenes, headline_of, number
from senna.evaluate.report.trajectories import figures_by_name, rows_of


def headline(metrics: Mapping[str, Any]) -> str:
    """Return macro F1 and accuracy with their intervals: each decision rule, black images and the baselines."""
    plan = metrics.get("plan")
    lines = [f"{metrics['records']} records of {metrics['scenes']} scenes"]
    if plan:
        rows = [("", "macro F1", "accuracy", "invalid")]
        names = sorted(plan["decisions"], key=lambda name: name != plan.get("headline"))  # the headline first
        rows += [_headline_row(f"model ({name})", plan["decisions"][name]) for name in names]
        if plan.get("blackout"):
            rows.append(_headline_row("images black", plan["blackout"]))
        rows += [_headline_row(name, found) for name, found in plan["baselines"].items()]
        lines += [
            "",
            *_table(rows),
            *_calibration_lines(plan),
            "",
            f"baselines fitted on {plan['baselines_fitted_on']}",
        ]
        lines += [f"WARNING {warning}"] if (warning := few_scenes(plan["scenes"])) else []
    if trajectory := metrics.get("trajectory"):
        lines += ["", *_trajectory_lines(trajectory)]
    for kind, figures in metrics.get("text", {}).items():
        listed = ", ".join(_figure(name, value) for name, value in figures.items() if _is_figure(value))
        lines.append(f"{kind}: {listed}")
    return "\n".join(lines)


def _calibration_lines(plan: Mapping[str, Any]) -> list[str]:
    """Return the calibration before and after the temperature; nothing without a temperature."""
    before, after, correction = plan.get("calibration"), plan.get("calibrated"), plan.get("correction")
    if not before or not after or not correction:
        return []
    values = f"temperature {correction['temperature']:.2f}, prior correction {correction['tau']:.2f}"
    ece = f"ECE {before['ece']:.3f} -> {after['ece']:.3f}"
    return ["", f"{values}: {ece}, log loss {number(before['log_loss'])} -> {number(after['log_loss'])}"]


def _trajectory_lines(figures: Mapping[str, Any]) -> list[str]:
    rows = [("trajectory", "L2 at 1 s", "at 2 s", "at 3 s", "mean to 3 s", "collisions at 3 s")]
    for name, found in rows_of(figures):
        cells = [found["l2"]["at"][second] for second in "123"] + [found["l2"]["mean"]["3"]]
        rate = found["collisions"]["at"]["3"]["value"] if found["collisions"] else None
        rows.append((name, *map(_in_brackets, cells), "-" if rate is None else f"{rate:.2%}"))
    consistency = figures["consistency"]
    share = f"consistent with the plan {_in_brackets(consistency['accuracy']['both'])}, " if consistency else ""
    if figures.get("drawn_again"):
        share += f"drawn again {figures['drawn_again']:.1%}, "
    stated = f", plans by --decision {figures['decision']}" if figures.get("decision") else ""
    return [*_table(rows), "", f"{share}invalid {figures['invalid']:.1%}{stated}"]


def comparison_text(runs: Sequence[Run], differences: Sequence[Difference]) -> str:
    """Return the headline of each run, then each run's difference from the first.

    Args:
        differences: of every run but the first.
    """
    rows = [("", *(name for name, _ in MEASURES), "records", "scenes")]
    for run in runs:
        plan = run.metrics["plan"]
        cells = [_with_bounds(headline_of(plan)[measure]["both"]) if plan else "-" for _, measure in MEASURES]
        rows.append((run.name, *cells, f"{run.metrics['records']:,}", f"{run.metrics['scenes']:,}"))
    lines = _table(rows)
    if warning := few_scenes(min(run.metrics["scenes"] for run in runs)):
        lines += [f"WARNING {warning}"]
    for run, difference in zip(runs[1:], differences, strict=True):
        lines += ["", *_difference_lines(runs[0], run, difference)]
    lines += _compared_trajectories([run for run in runs if run.metrics.get("trajectory")])
    names = list(dict.fromkeys(name for run in runs for name in top_figures(run.metrics)))
    if names:
        table = [("text answers", *(run.name for run in runs))]
        for name in names:
            values = [top_figures(run.metrics).get(name) for run in runs]
            cells = [_with_bounds(value) if isinstance(value, Mapping) else number(value) for value in values]
            table.append((f"{name[0]} {name[1]}".replace("_", " "), *cells))
        lines += ["", *_table(table)]
    return "\n".join(lines)


def _compared_trajectories(runs: Sequence[Run]) -> list[str]:
    """Return the figures of each run's trajectories side by side; nothing unless at least two runs have any."""
    if len(runs) < 2:
        return []
    columns = [figures_by_name(run.metrics["trajectory"]) for run in runs]
    table = [("trajectory", *(run.name for run in runs))]
    for name in columns[0]:
        table.append((name, *(_with_bounds(column[name]) if column[name] else "-" for column in columns)))
    return ["", *_table(table)]


def _difference_lines(first: Run, run: Run, difference: Difference) -> list[str]:
    lines = [f"{run.name} against {first.name}, {difference.shared:,} shared plans"]
    if difference.gain:
        table = [("", *(name for name, _ in PARTS))]
        for name, measure in MEASURES:
            table.append((name, *(_with_bounds(difference.gain[measure][part], "+") for _, part in PARTS)))
        lines += _table(table)
        only_first, only_other = difference.outcomes[True, False], difference.outcomes[False, True]
        lines.append(f"only {first.name} right {only_first:,}, only {run.name} right {only_other:,}")
    if difference.trajectory_gain:
        gains = figures_by_name(difference.trajectory_gain)
        rows = [(name, _with_bounds(gain, "+")) for name, gain in gains.items() if gain]
        lines += ["", f"{difference.trajectories:,} shared trajectories, {run.name} minus {first.name}", *_table(rows)]
    return lines + [f"note: {warning}" for warning in difference.warnings]


def _headline_row(name: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    both = (found["macro_f1"]["both"], found["accuracy"]["both"])
    return name, *map(_in_brackets, both), f"{found['invalid']:.1%}" if found["invalid"] else ""


def _in_brackets(found: Mapping[str, float | None]) -> str:
    if found["value"] is None:
        return "-"
    if found["low"] is None or found["high"] is None:
        return f"{found['value']:.3f}"
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def _with_bounds(interval: Mapping[str, Any], sign: str = "") -> str:
    def show(value: float | None) -> str:
        return "-" if value is None else f"{value:{sign}.3f}"

    return f"{show(interval['value'])} ({bounds(interval, show)})"


def _is_figure(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, Mapping) and "value" in value)


def _figure(name: str, value: Any) -> str:
    words = name.replace("_", " ")
    if isinstance(value, Mapping):
        return f"{words} {_in_brackets(value)}"
    return f"{words} {value}" if isinstance(value, int) else f"{words} {value:.3f}"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
