"""What every benchmark does: time ways side by side, sum up, print, draw."""

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
"""Of a group of bars; from Okabe and Ito's palette, which colour-blind readers tell apart."""


def time_ways(
    ways: dict[str, Callable[[Any], Any]], items: Sequence[Any], repeats: int, warm_up: bool = True
) -> dict[str, dict[str, list[float]]]:
    """Seconds that each way took on each item: {way: {str(item): [seconds] * repeats}}, after one round of warm-up."""
    seconds = {name: {str(item): [] for item in items} for name in ways}
    # A fixed rotation would let one way always follow the same other, and inherit the state it leaves the memory in.
    order = random.Random(0)
    for round_number in range(repeats + warm_up):
        for item in items:
            for name in order.sample(list(ways), len(ways)):
                start = time.perf_counter()
                ways[name](item)
                took = time.perf_counter() - start
                if round_number >= warm_up:
                    seconds[name][str(item)].append(took)
    return seconds


def summarise(seconds: dict[str, dict[str, list[float]]], original: str) -> dict[str, dict[str, float]]:
    """{way: {"ms": ..., "per_second": ..., "ratio": ...}}: the median over items of each item's median, and how many
    times the original's speed (the median over items of the ratio of the two medians)."""
    medians = {way: {item: statistics.median(took) for item, took in items.items()} for way, items in seconds.items()}
    summary = {}
    for way, by_item in medians.items():
        typical = statistics.median(by_item.values())
        ratio = statistics.median(medians[original][item] / took for item, took in by_item.items())
        summary[way] = {"ms": typical * 1e3, "per_second": 1 / typical, "ratio": ratio}
    return summary


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    for row in [header, *rows]:
        print(
            "  ".join(
                cell.ljust(w) if not n else cell.rjust(w) for n, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
        )


def embedded_world() -> Path:
    """Ten scenes of the driving world, drawn where they are not there yet: a minute on two cores. The quickstart has others."""
    from senna.synthetic import write_world

    write_world(str(EMBEDDED / "mini"), 10, 0, True)
    return EMBEDDED / "mini"


@dataclass(frozen=True)
class Bar:
    """A way's speed: `ratio` times the baseline's, `figure` (its own time) beside it; `group` decides the colour."""

    way: str
    ratio: float
    figure: str
    group: str = ""


@dataclass(frozen=True)
class Chart:
    """What is drawn: `title` says what was measured, `baseline` what has the ratio 1, its precision included."""

    title: str
    baseline: str
    bars: Sequence[Bar]


def draw(chart: Chart, path: Path) -> None:
    """A PNG of horizontal bars, in order from above, with their values at their ends."""
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
    axes.set_yticks(range(len(bars)), [bar.way for bar in bars], fontsize=11)
    axes.invert_yaxis()
    longest = max(len(bar.figure) for bar in bars)
    axes.set_xlim(0, (1.2 + 0.019 * longest) * max(ratios))  # room for the values
    axes.xaxis.set_visible(False)  # the values say it
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, format="png")
