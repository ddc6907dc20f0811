"""Confusion matrices and the calibration curve as PNG files (matplotlib), and the curve as an SVG for a page."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senna.evaluate.report.html import (
    RIGHT,
    SHARE_TITLE,
    WRONG,
    cell_colours,
    confusion_columns,
    headline_of,
    number,
    write_file,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHARTS = ("confusion_speed.png", "confusion_path.png", "calibration.png")
_DPI = 200
_SIDE, _LEFT, _TOP, _BARS = 250, 44, 8, 64  # pixels of the SVG: side of the square, margins, height of the count bars


def draw_charts(plan: Mapping[str, Any] | None, out: Path) -> list[Path]:
    """Write those of ``CHARTS`` for which the metrics have figures into ``out``, and delete older files of these names."""
    for name in CHARTS:
        (out / name).unlink(missing_ok=True)
    if plan is None:
        return []
    headline = headline_of(plan)
    figures = {
        "confusion_speed.png": draw_confusion("SPEED", headline["speed"]),
        "confusion_path.png": draw_confusion("PATH", headline["path"]),
    }
    if plan["calibration"]:
        figures["calibration.png"] = draw_calibration(plan["calibration"], plan.get("calibrated"))
    for name, figure in figures.items():
        content = io.BytesIO()
        figure.savefig(content, dpi=_DPI, format="png", facecolor="white")
        write_file(out / name, content.getvalue())
    return [out / name for name in figures]


def draw_confusion(title: str, part: Mapping[str, Any]) -> "Figure":
    """Draw a confusion matrix: each cell has its count and its share of the row, which is also its colour."""
    labels, columns = part["labels"], confusion_columns(part)
    figure = _figure(2.4 + 0.95 * len(columns), 1.5 + 0.72 * len(labels))
    axes = figure.add_subplot()
    for row, counts in enumerate(part["confusion"]):
        total = sum(counts)
        for column, count in enumerate(counts):
            share = count / total if total else 0.0
            back, ink = cell_colours(share, row == column)
            axes.fill_between([column - 0.5, column + 0.5], row - 0.5, row + 0.5, facecolor=back, edgecolor="#c8ced6")
            text, ink = (f"{count:,}\n{100 * share:.0f} %", ink) if count else ("0", "#666666")
            axes.text(column, row, text, color=ink, ha="center", va="center", fontsize=10)
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xticks(range(len(columns)), [name.replace("_", "_\n") for name in columns], fontsize=9)
    axes.set_yticks(range(len(labels)), labels, fontsize=9)
    axes.tick_params(length=0)
    axes.set(xlabel="answer", ylabel="truth")
    axes.set_title(f"{title}: {SHARE_TITLE}", fontsize=11, loc="left")
    axes.spines[:].set_visible(False)
    return figure


def draw_calibration(calibration: Mapping[str, Any], calibrated: Mapping[str, Any] | None = None) -> "Figure":
    """Draw the accuracy of the answers against their probability, and the number of answers in each bin.

    Args:
        calibrated: the calibration with a fitted temperature, which is drawn as a second curve.
    """
    bins = _filled_bins(calibration)
    figure = _figure(5.6, 5.6)
    curve, counts = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    curve.plot([0, 1], [0, 1], color="#777777", linestyle="--", linewidth=1, label="perfect")
    curve.plot(_column(bins, "confidence"), _column(bins, "accuracy"), color=RIGHT, marker="o", label="model")
    if calibrated is not None:
        after = _filled_bins(calibrated)
        label = f"with temperature: ECE {number(calibrated['ece'])}"
        curve.plot(_column(after, "confidence"), _column(after, "accuracy"), color=WRONG, marker="s", label=label)
    curve.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="share right")
    title = f"Calibration: ECE {number(calibration['ece'])}, log loss {number(calibration['log_loss'])} nats"
    curve.set_title(title, fontsize=11, loc="left")
    curve.legend(loc="upper left", frameon=False)
    widths = [row["high"] - row["low"] for row in bins]
    bars = counts.bar(_column(bins, "low"), _column(bins, "count"), widths, align="edge", color="#9fb6c9")
    counts.bar_label(bars, [f"{count:,}" for count in _column(bins, "count")], fontsize=8)
    counts.set(xlabel="probability of the answer", ylabel="answers")
    counts.margins(y=0.25)
    for axes in (curve, counts):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def calibration_svg(calibration: Mapping[str, Any]) -> str:
    """Return the chart of `draw_calibration` as SVG with the colours of the page."""
    bins, most = _filled_bins(calibration), max(_column(calibration["bins"], "count"), default=0) or 1
    base, middle = _TOP + _SIDE + 22 + _BARS, _LEFT + _SIDE / 2
    points = " ".join("{:.1f},{:.1f}".format(*_to_pixels(row["confidence"], row["accuracy"])) for row in bins)
    return (
        f'<svg class="calibration" viewBox="0 0 {_LEFT + _SIDE + 12} {base + 34}" role="img" '
        f'aria-label="share of right answers against their probability">{_grid(base)}'
        f'<path class="perfect" d="M{_LEFT} {_TOP + _SIDE}L{_LEFT + _SIDE} {_TOP}"/><polyline class="curve" points="{points}"/>'
        f'<path class="axis" d="M{_LEFT} {base}H{_LEFT + _SIDE}"/>{"".join(_svg_bin(row, most, base) for row in bins)}'
        f"{_vertical_text('share right', _TOP + _SIDE / 2)}{_vertical_text('answers', base - _BARS / 2)}"
        f'<text x="{middle}" y="{base + 30}" text-anchor="middle">probability of the answer</text></svg>'
    )


def _grid(base: float) -> str:
    lines = ""
    for at in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = _to_pixels(at, at)
        lines += f'<path class="grid" d="M{x:.1f} {_TOP}V{_TOP + _SIDE}M{_LEFT} {y:.1f}H{_LEFT + _SIDE}"/>'
        lines += f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{at:g}</text>'
        lines += f'<text x="{x:.1f}" y="{base + 14}" text-anchor="middle">{at:g}</text>'
    return lines


def _svg_bin(row: Mapping[str, Any], most: int, base: float) -> str:
    """Return the dot of a bin, and the bar of its count with the count above it."""
    x, y = _to_pixels(row["confidence"], row["accuracy"])
    left, width = _to_pixels(row["low"], 0)[0], _SIDE * (row["high"] - row["low"])
    height = max(1.0, (_BARS - 12) * row["count"] / most)
    tooltip = f"{row['count']:,} answers, mean probability {row['confidence']:.2f}, share right {row['accuracy']:.2f}"
    return (
        f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="4.5"><title>{tooltip}</title></circle>'
        f'<rect class="count" x="{left + 1:.1f}" y="{base - height:.1f}" width="{width - 2:.1f}" height="{height:.1f}"/>'
        f'<text class="small" x="{left + width / 2:.1f}" y="{base - height - 3:.1f}" text-anchor="middle">'
        f"{row['count']:,}</text>"
    )


def _vertical_text(words: str, y: float) -> str:
    return f'<text x="12" y="{y}" text-anchor="middle" transform="rotate(-90 12 {y})">{words}</text>'


def _filled_bins(calibration: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [row for row in calibration["bins"] if row["count"]]


def _column(bins: list[Mapping[str, Any]], name: str) -> list[Any]:
    return [row[name] for row in bins]


def _to_pixels(x: float, y: float) -> tuple[float, float]:
    return _LEFT + _SIDE * x, _TOP + _SIDE * (1 - y)


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
