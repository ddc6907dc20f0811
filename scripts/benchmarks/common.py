"""Functions that all benchmarks share: time methods, summarize, print and draw."""

import random
import statistics
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EMBEDDED = Path(__file__).resolve().parents[2] / "outputs" / "embedded"

BASELINE = "baseline"
COLOURS = {BASELINE: "#999999", "": "#0072B2", "fp32": "#0072B2", "bf16": "#E69F00"}
"""Colour of each group of bars, from the palette of Okabe and Ito, which colour-blind readers can distinguish."""


def time_methods(
    methods: dict[str, Callable[[Any], Any]], items: Sequence[Any], repeats: int, warm_up: bool = True
) -> dict[str, dict[str, list[float]]]:
    """Time each method on each item, after one round of warm-up.

    Returns:
        {method: {str(item): [seconds] * repeats}}
    """
    seconds = {name: {str(item): [] for item in items} for name in methods}
    # In a fixed order each method would always follow the same other one and inherit the cache that it leaves.
    rng = random.Random(0)
    for round_number in range(repeats + warm_up):
        for item in items:
            for name in rng.sample(list(methods), len(methods)):
                start = time.perf_counter()
                methods[name](item)
                elapsed = time.perf_counter() - start
                if round_number >= warm_up:
                    seconds[name][str(item)].append(elapsed)
    return seconds


def summarize(seconds: dict[str, dict[str, list[float]]], original: str) -> dict[str, dict[str, float]]:
    """Summarize the result of `time_methods`.

    Args:
        original: the method to which the others are compared.

    Returns:
        {method: {"ms": ..., "per_second": ..., "ratio": ...}}. The time is the median over the items of each item's median.
        The ratio is the speed relative to the original: the median over the items of the ratio of the two medians.
    """
    medians = {
        method: {item: statistics.median(times) for item, times in items.items()} for method, items in seconds.items()
    }
    summary = {}
    for method, by_item in medians.items():
        typical = statistics.median(by_item.values())
        ratio = statistics.median(medians[original][item] / median for item, median in by_item.items())
        summary[method] = {"ms": typical * 1e3, "per_second": 1 / typical, "ratio": ratio}
    return summary


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table whose first column is aligned to the left, the others to the right."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    for first, *rest in [header, *rows]:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        print("  ".join([first.ljust(widths[0]), *cells]))


def embedded_world() -> Path:
    """Return the folder of ten scenes of the driving world. The first call draws them, in a minute on two cores."""
    from senna.synthetic import write_world

    write_world(str(EMBEDDED / "mini"), 10, 0, True)
    return EMBEDDED / "mini"


@dataclass(frozen=True)
class Bar:
    """The speed of a method.

    Attributes:
        ratio: speed relative to the baseline.
        figure: text beside the bar, for example the time of the method.
        group: a key of COLOURS.
    """

    method: str
    ratio: float
    figure: str
    group: str = ""


@dataclass(frozen=True)
class Chart:
    """The content of a chart.

    Attributes:
        title: what was measured.
        baseline: the method with ratio 1, including its precision.
    """

    title: str
    baseline: str
    bars: Sequence[Bar]


def draw(chart: Chart, path: Path) -> None:
    """Draw a PNG of horizontal bars from top to bottom, with their values at their ends."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    bars = list(chart.bars)
    figure = Figure(figsize=(9, 1.5 + 0.42 * len(bars)), layout="constrained")
    FigureCanvasAgg(figure)
    title = f"{textwrap.fill(chart.title, 95)}\nSpeed as a multiple of {chart.baseline}"
    figure.suptitle(title, fontsize=12, x=0.01, horizontalalignment="left")
    axes = figure.add_subplot()
    ratios, colours = [bar.ratio for bar in bars], [COLOURS[bar.group] for bar in bars]
    drawn = axes.barh(range(len(bars)), ratios, height=0.72, color=colours)
    axes.bar_label(drawn, [f"{bar.ratio:.1f}x   {bar.figure}" for bar in bars], padding=5, fontsize=10)
    axes.set_yticks(range(len(bars)), [bar.method for bar in bars], fontsize=11)
    axes.invert_yaxis()
    longest = max(len(bar.figure) for bar in bars)
    axes.set_xlim(0, (1.2 + 0.019 * longest) * max(ratios))  # leaves space for the values
    axes.xaxis.set_visible(False)  # the values are at the bars
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, format="png")
