"""The headline of an evaluation as lines of text."""

from collections.abc import Mapping, Sequence
from typing import Any


def headline(metrics: Mapping[str, Any]) -> str:
    """Macro F1 and accuracy with their intervals: the model, its other decision, black images, the baselines."""
    plan = metrics.get("plan")
    lines = [f"{metrics['records']} records of {metrics['scenes']} scenes"]
    if plan:
        rows = [("", "macro F1", "accuracy", "invalid")]
        rows += [_row(f"model ({name})", found) for name, found in plan["decisions"].items()]
        if plan.get("blackout"):
            rows.append(_row("images black", plan["blackout"]))
        rows += [_row(name, found) for name, found in plan["baselines"].items()]
        lines += ["", *_table(rows), "", f"baselines fitted on {plan['baselines_fitted_on']}"]
    for kind, figures in metrics.get("text", {}).items():
        shown = ", ".join(_figure(name, value) for name, value in figures.items() if _is_figure(value))
        lines.append(f"{kind}: {shown}")
    return "\n".join(lines)


def _row(name: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    both = (found["macro_f1"]["both"], found["accuracy"]["both"])
    return name, *map(_interval, both), f"{found['invalid']:.1%}" if found["invalid"] else ""


def _interval(found: Mapping[str, float | None]) -> str:
    if found["value"] is None:
        return "-"
    if found["low"] is None or found["high"] is None:
        return f"{found['value']:.3f}"
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def _is_figure(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, Mapping) and "value" in value)


def _figure(name: str, value: Any) -> str:
    words = name.replace("_", " ")
    if isinstance(value, Mapping):
        return f"{words} {_interval(value)}"
    return f"{words} {value}" if isinstance(value, int) else f"{words} {value:.3f}"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
