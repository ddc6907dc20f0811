"""Building blocks of the pages of an evaluation: formatted figures, tables, bars, interval charts, confusion matrices.

The functions return HTML and escape everything that comes from a model or a record, except for arguments that are documented
as HTML. Blue means right or true on all pages, vermilion wrong; text on a coloured cell is black or white.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from senna.evaluate.metrics.bootstrap import FEW_SCENES
from senna.files import atomic_write

RIGHT, WRONG = "#0072B2", "#D55E00"
_SPACE = "\u202f"  # a narrow space that does not break the line
MEASURES = ("precision", "recall", "f1")
SHARE_TITLE = "records, and share of the row"
Interval = Mapping[str, Any]
"""{"value", "low", "high"}; low and high are None if there is no interval."""


@dataclass(frozen=True)
class Row:
    """A row of ``interval_chart``. ``role`` sets the colour: model, also, baseline or blackout."""

    name: str
    interval: Interval
    role: str = "baseline"


def headline_of(plan: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the headline decisions of ``plan`` in metrics.json."""
    decisions = plan["decisions"]
    return decisions.get(plan.get("headline")) or decisions.get("sum") or decisions["text"]


def number(value: Any, digits: int = 3) -> str:
    """Format a figure; a dash if it is missing."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}f}"


def percent(value: Any) -> str:
    """Format a fraction as a percentage; a dash if it is missing."""
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.1f}{_SPACE}%"


def signed(value: Any) -> str:
    """Format a difference; a dash if it is missing."""
    return number(value) if value is None else f"{value:+.3f}".replace("-", "−")


def has_interval(interval: Interval) -> bool:
    """Return whether both bounds are known."""
    bounds = (interval.get("low"), interval.get("high"))
    return all(bound is not None and math.isfinite(bound) for bound in bounds)


def few_scenes(scenes: int) -> str:
    """Return a sentence on intervals from few scenes; "" if there are enough, or only one and thus no intervals."""
    if not 1 < scenes < FEW_SCENES:
        return ""
    return (
        f"Only {scenes} scenes: the intervals are rough below {FEW_SCENES} scenes, and classes that do not occur in these "
        "scenes are not part of macro F1. Evaluate more scenes before you rely on a difference."
    )


def bounds(interval: Interval, show: Any = number) -> str:
    """Format the bounds as ``0.35 to 0.47``, or "no interval"."""
    if not has_interval(interval):
        return "no interval"
    return f"{show(interval['low']).removesuffix(f'{_SPACE}%')} to {show(interval['high'])}"


def card(title: str, body: str, note: str = "") -> str:
    """Return a framed section with a heading and an explanation below; all are HTML."""
    explanation = f'<p class="soft">{note}</p>' if note else ""
    heading = f"<h3>{title}</h3>" if title else ""
    return f'<section class="card">{heading}{body}{explanation}</section>'


def grid(*cards: str, kind: str = "grid") -> str:
    """Arrange cards side by side if there is room. ``kind`` "flow" fills columns with cards of different height."""
    return f'<div class="{kind}">{"".join(cards)}</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table with text in the first column and figures in the others. Cells are HTML."""
    titles = "".join(f"<th{' class=n' if column else ''}>{title}</th>" for column, title in enumerate(head))
    body = ""
    for row in rows:
        first, *others = row
        body += f"<tr><th scope=row>{first}</th>" + "".join(f"<td class=n>{cell}</td>" for cell in others) + "</tr>"
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>"


def with_bounds(interval: Interval, show: Any = number) -> str:
    """Return a table cell with the value and, below it, the bounds."""
    low, *high = bounds(interval, show).split(" to ")
    joined = f"{low}&nbsp;to {high[0]}" if high else low
    return f"{show(interval['value'])}<small>{joined}</small>"


def interval_chart(title: str, rows: Sequence[Row], show: Any = number) -> str:
    """Return a card of dots with intervals on an axis from 0 to 1. The interval of the first row is shaded in all rows."""
    first = rows[0].interval
    band = f'<i class="band" style="{_span(first)}"></i>' if has_interval(first) else ""
    lines = ""
    for row in rows:
        bar = f'<i class="bar" style="{_span(row.interval)}"></i>' if has_interval(row.interval) else ""
        dot = f'<i class="dot" style="left:{_css_percent(row.interval["value"])}"></i>'
        lines += (
            f'<div class="dots {row.role}"><span class="name">{escape(row.name)}</span>'
            f'<span class="track">{band}{bar}{dot}</span>'
            f'<span class="value"><b>{show(row.interval["value"])}</b> <small>{bounds(row.interval, show)}</small></span></div>'
        )
    ticks = "".join(f'<i style="left:{100 * at:g}%">{at:g}</i>' for at in (0, 0.25, 0.5, 0.75, 1))
    if show is percent:
        ticks = "".join(f'<i style="left:{at}%">{at}&#8239;%</i>' for at in (0, 25, 50, 75, 100))
    return card(title, f'{lines}<div class="dots axis" aria-hidden="true"><span class="track">{ticks}</span></div>')


def _css_percent(value: Any) -> str:
    return f"{100 * min(max(value or 0.0, 0.0), 1.0):.2f}%"


def _span(interval: Interval) -> str:
    low, high = (min(max(interval[side], 0.0), 1.0) for side in ("low", "high"))
    return f"left:{100 * low:.2f}%;width:{100 * (high - low):.2f}%"


def cell_colours(share: float, is_right: bool) -> tuple[str, str]:
    """Return background and text colour of a confusion matrix's cell.

    The background goes from white to blue on the diagonal (``is_right``), to vermilion elsewhere. The text is black or
    white, whichever has the greater contrast (WCAG 2's relative luminance), which is at least 4.5 to 1.
    """
    full = RIGHT if is_right else WRONG
    channels = [int(full[start : start + 2], 16) for start in (1, 3, 5)]
    share = min(max(share, 0.0), 1.0)
    colour = "#" + "".join(f"{round(255 + (channel - 255) * share):02x}" for channel in channels)
    light = luminance(colour)
    return colour, "#000000" if (light + 0.05) / 0.05 >= 1.05 / (light + 0.05) else "#ffffff"


def luminance(colour: str) -> float:
    """Return WCAG 2's relative luminance of ``#rrggbb``."""
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4 for channel in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def confusion_columns(part: Mapping[str, Any]) -> list[str]:
    """Return the column names of a confusion matrix: the labels, and "invalid" if there is one column more."""
    labels = list(part["labels"])
    width = max((len(row) for row in part["confusion"]), default=len(labels))
    return labels + ["invalid"] * (width > len(labels))


def confusion_table(title: str, part: Mapping[str, Any]) -> str:
    """Return a confusion matrix with the count and the share of the row in each cell; the share is also its colour."""
    names = confusion_columns(part)
    head = "".join(f'<th scope=col><span class="turn">{breakable(name)}</span></th>' for name in names)
    body = ""
    for row, (label, counts) in enumerate(zip(part["labels"], part["confusion"], strict=True)):
        total = sum(counts)
        cells = ""
        for column, count in enumerate(counts):
            back, ink = cell_colours(count / total if total else 0.0, column == row)
            share = f"<small>{100 * count / total:.0f}&#8239;%</small>" if total else ""
            filled = f'<td style="background:{back};color:{ink}"><b>{count:,}</b>{share}</td>'
            cells += filled if count else '<td class="none">0</td>'
        body += f"<tr><th scope=row>{breakable(label)}</th>{cells}</tr>"
    corner = '<th class="soft">truth ↓<br>answer →</th>'
    heading = f"<h3>{title}</h3>" if title else ""
    return f'{heading}<table class="heat"><thead><tr>{corner}{head}</tr></thead><tbody>{body}</tbody></table>'


def breakable(name: str) -> str:
    """Return a class name, escaped, that can wrap after an underscore or a comma."""
    return escape(name).replace("_", "_<wbr>").replace(", ", ", <wbr>")


def class_bars(title: str, classes: Mapping[str, Mapping[str, Any]], labels: Sequence[str] | None = None) -> str:
    """Return a table of support, precision, recall and F1 of each class, in the order of ``labels``."""
    rows = []
    for name in labels or classes:
        figures = classes[name]
        support = figures["support"]
        cells = [bar_cell(figures[measure], measure) if support or figures[measure] else "–" for measure in MEASURES]
        rows.append([breakable(name), number(support), *cells])
    heading = f"<h3>{title}</h3>" if title else ""
    return f'<div class="classes">{heading}{table(("class", "records", "precision", "recall", "F1"), rows)}</div>'


def bar_cell(value: Any, measure: str) -> str:
    """Return a figure from 0 to 1 on a bar of the colour of ``measure``, one of ``MEASURES``."""
    if value is None or not math.isfinite(value):
        return "–"
    return (
        f'<span class="barred"><i class="{measure}" style="width:{_css_percent(value)}"></i>'
        f"<span>{number(value, 2)}</span></span>"
    )


def facts(pairs: Iterable[tuple[str, Any]]) -> str:
    """Return the entries of a description list; values may be long (paths)."""
    return "".join(f"<div><dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd></div>" for name, value in pairs)


def fill(template: str, **slots: str) -> str:
    """Return a page from a template of this package; ``$style`` is the style sheet."""
    folder = files("senna.evaluate.report")
    style = (folder / "page.css").read_text(encoding="utf-8")
    return Template((folder / template).read_text(encoding="utf-8")).substitute(style=style, **slots)


def write_file(path: Path, content: bytes) -> None:
    """Write a file and its parent folders; the file appears only when complete. Raises SennaError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        partial.write_bytes(content)
