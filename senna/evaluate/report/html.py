"""What the pages of an evaluation are made of: figures as text, tables, bars, dots with intervals, heat maps.

Every function gives HTML, with whatever comes from a model or a record escaped. Colours stand for the same everywhere:
blue for right and true, vermillion for wrong; letters on a coloured cell are black or white, whichever can be read.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from senna.files import atomic_write

RIGHT, WRONG = "#0072B2", "#D55E00"
_SPACE = "\u202f"  # narrow, and no line breaks there
MEASURES = ("precision", "recall", "f1")
Interval = Mapping[str, Any]  # {"value", "low", "high"}; low and high are None where there is no interval


@dataclass(frozen=True)
class Row:
    """A row of ``interval_chart``. ``role`` is its colour: model, also, baseline or blackout."""

    name: str
    interval: Interval
    role: str = "baseline"


def headline_of(plan: Mapping[str, Any]) -> Mapping[str, Any]:
    """The decision that stands for a run: the likeliest of the twenty, or in generate mode the text."""
    return plan["decisions"].get("sum") or plan["decisions"]["text"]


def number(value: Any, digits: int = 3) -> str:
    """A figure as text; a dash where there is none."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}f}"


def percent(value: Any) -> str:
    """A share as a percentage; a dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.1f}{_SPACE}%"


def signed(value: Any) -> str:
    """A difference as text."""
    return number(value) if value is None else f"{value:+.3f}".replace("-", "−")


def has_interval(interval: Interval) -> bool:
    """Whether there are bounds."""
    bounds = (interval.get("low"), interval.get("high"))
    return all(bound is not None and math.isfinite(bound) for bound in bounds)


def bounds(interval: Interval, show: Any = number) -> str:
    """``0.35 to 0.47``, or that there is no interval."""
    if not has_interval(interval):
        return "no interval"
    return f"{show(interval['low']).removesuffix(f'{_SPACE}%')} to {show(interval['high'])}"


def card(title: str, body: str, note: str = "") -> str:
    """A framed part of a page; ``note`` explains it."""
    said = f'<p class="soft">{note}</p>' if note else ""
    heading = f"<h3>{title}</h3>" if title else ""
    return f'<section class="card">{heading}{body}{said}</section>'


def grid(*cards: str, kind: str = "grid") -> str:
    """Cards side by side where there is room; ``flow`` fills columns with cards of different height."""
    return f'<div class="{kind}">{"".join(cards)}</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column is words and whose others are figures. Cells are HTML."""
    titles = "".join(f"<th{' class=n' if place else ''}>{title}</th>" for place, title in enumerate(head))
    body = ""
    for row in rows:
        first, *others = row
        body += f"<tr><th scope=row>{first}</th>" + "".join(f"<td class=n>{cell}</td>" for cell in others) + "</tr>"
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>"


def with_bounds(interval: Interval, show: Any = number) -> str:
    """A cell: the value, its interval under it."""
    low, *high = bounds(interval, show).split(" to ")
    joined = f"{low}&nbsp;to {high[0]}" if high else low
    return f"{show(interval['value'])}<small>{joined}</small>"


def interval_chart(title: str, rows: Sequence[Row], show: Any = number) -> str:
    """Dots with intervals on one axis from 0 to 1. The first row's interval is a band behind all."""
    first = rows[0].interval
    band = f'<i class="band" style="{_span(first)}"></i>' if has_interval(first) else ""
    lines = ""
    for row in rows:
        bar = f'<i class="bar" style="{_span(row.interval)}"></i>' if has_interval(row.interval) else ""
        dot = f'<i class="dot" style="left:{_place(row.interval["value"])}"></i>'
        lines += (
            f'<div class="dots {row.role}"><span class="name">{escape(row.name)}</span>'
            f'<span class="track">{band}{bar}{dot}</span>'
            f'<span class="value"><b>{show(row.interval["value"])}</b> <small>{bounds(row.interval, show)}</small></span></div>'
        )
    ticks = "".join(f'<i style="left:{100 * at:g}%">{at:g}</i>' for at in (0, 0.25, 0.5, 0.75, 1))
    if show is percent:
        ticks = "".join(f'<i style="left:{at}%">{at}&#8239;%</i>' for at in (0, 25, 50, 75, 100))
    return card(title, f'{lines}<div class="dots axis" aria-hidden="true"><span class="track">{ticks}</span></div>')


def _place(value: Any) -> str:
    return f"{100 * min(max(value or 0.0, 0.0), 1.0):.2f}%"


def _span(interval: Interval) -> str:
    low, high = (min(max(interval[side], 0.0), 1.0) for side in ("low", "high"))
    return f"left:{100 * low:.2f}%;width:{100 * (high - low):.2f}%"


def shade(share: float, right: bool) -> tuple[str, str]:
    """Background and letters of a heat map's cell: white to blue where it is right, to vermillion where it is wrong.

    Letters are black or white, whichever has the greater contrast (WCAG 2's relative luminance): never under 4.5 to 1.
    """
    full = RIGHT if right else WRONG
    ends = [int(full[place : place + 2], 16) for place in (1, 3, 5)]
    share = min(max(share, 0.0), 1.0)
    colour = "#" + "".join(f"{round(255 + (end - 255) * share):02x}" for end in ends)
    light = luminance(colour)
    return colour, "#000000" if (light + 0.05) / 0.05 >= 1.05 / (light + 0.05) else "#ffffff"


def luminance(colour: str) -> float:
    """WCAG 2's relative luminance of ``#rrggbb``."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def columns_of(part: Mapping[str, Any]) -> list[str]:
    """Names of the columns of a confusion matrix: the labels, and "invalid" where there is one column more."""
    labels = list(part["labels"])
    width = max((len(row) for row in part["confusion"]), default=len(labels))
    return labels + ["invalid"] * (width > len(labels))


def heat_map(title: str, part: Mapping[str, Any]) -> str:
    """A confusion matrix: rows the truth, columns the answer; counts, and their share of the row as colour and text."""
    head = "".join(f'<th scope=col><span class="turn">{breakable(name)}</span></th>' for name in columns_of(part))
    body = ""
    for place, (label, counts) in enumerate(zip(part["labels"], part["confusion"], strict=True)):
        total = sum(counts)
        cells = ""
        for column, count in enumerate(counts):
            back, ink = shade(count / total if total else 0.0, column == place)
            share = f"<small>{100 * count / total:.0f}&#8239;%</small>" if total else ""
            filled = f'<td style="background:{back};color:{ink}"><b>{count:,}</b>{share}</td>'
            cells += filled if count else '<td class="none">0</td>'
        body += f"<tr><th scope=row>{breakable(label)}</th>{cells}</tr>"
    corner = '<th class="soft">truth ↓<br>answer →</th>'
    heading = f"<h3>{title}</h3>" if title else ""
    return f'{heading}<table class="heat"><thead><tr>{corner}{head}</tr></thead><tbody>{body}</tbody></table>'


def breakable(name: str) -> str:
    """A class name that may break after an underscore or a comma."""
    return escape(name).replace("_", "_<wbr>").replace(", ", ", <wbr>")


def class_bars(title: str, classes: Mapping[str, Mapping[str, Any]], labels: Sequence[str] | None = None) -> str:
    """Support, precision, recall and F1 of each class (in the order of ``labels``); the figures lie on bars."""
    rows = []
    for name in labels or classes:
        figures = classes[name]
        support = figures["support"]
        cells = [barred(figures[measure], measure) if support or figures[measure] else "–" for measure in MEASURES]
        rows.append([breakable(name), number(support), *cells])
    heading = f"<h3>{title}</h3>" if title else ""
    return f'<div class="classes">{heading}{table(("class", "records", "precision", "recall", "F1"), rows)}</div>'


def barred(value: Any, measure: str) -> str:
    """A figure from 0 to 1 on its bar; ``measure`` is the bar's colour."""
    if value is None or not math.isfinite(value):
        return "–"
    return f'<span class="barred"><i class="{measure}" style="width:{_place(value)}"></i><span>{number(value, 2)}</span></span>'


def facts(pairs: Iterable[tuple[str, Any]]) -> str:
    """A list of names and values, which may be long (paths)."""
    return "".join(f"<div><dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd></div>" for name, value in pairs)


def fill(template: str, **slots: str) -> str:
    """A page from a template of this package; ``$style`` is filled in."""
    folder = files("senna.evaluate.report")
    style = (folder / "page.css").read_text(encoding="utf-8")
    return Template((folder / template).read_text(encoding="utf-8")).substitute(style=style, **slots)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, and the folders it is in, whole or not at all. Raises SennaError where it cannot."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        partial.write_bytes(content)
