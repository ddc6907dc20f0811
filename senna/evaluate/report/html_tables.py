"""Tables for nested figures of metrics.json: those of text answers, and the published metrics."""

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from senna.evaluate.report import html
from senna.evaluate.report.html import number, percent

NAMES = {
    "bleu4": "BLEU-4",
    "rouge_l": "ROUGE-L",
    "cider": "CIDEr (0 to 10)",
    "macro_f1": "macro F1",
    "f1": "F1",
    "distance_error": "distance error, m",
    "place_error": "place error, m",
    "all_right": "all objects right",
    "missing": "missing objects",
    "surplus": "surplus objects",
    "words": "words per answer",
    "words_true": "words per ground truth",
    "decisions": "the model",
    "several": "answers that name several",
}
_MODEL = "decisions"
_HIDDEN_AT_0 = ("unreadable_truths",)
Figures = Mapping[str, Any]


def words(key: object) -> str:
    """Return the displayed name of a figure, as HTML."""
    return escape(NAMES.get(str(key), str(key).replace("_", " ").replace(" f1", " F1")))


def cell(key: object, value: Any) -> str:
    """Format a number or an interval for a table cell."""
    if _is_interval(value):
        return f'<span class="line">{html.with_bounds(value)}</span>'
    return number(value, 1 if str(key).startswith("words") else 3)


def nested(figures: Figures, title: str = "") -> str:
    """Return figures of any depth as HTML.

    Numbers and intervals have a row each, classes are shown as bars, decisions side by side, and groups of figures below
    with their names as headings.
    """
    rows, texts, below = [], "", ""
    decisions = {key: figures[key] for key in sorted(figures, key=_MODEL.__ne__) if _is_decision(figures[key])}
    for key, value in figures.items():
        if key in _HIDDEN_AT_0 and not value:
            continue
        if isinstance(value, str):
            texts += f'<p class="soft">{words(key)}: {escape(value)}</p>'
        elif not isinstance(value, Mapping | list) or _is_interval(value):
            rows.append([words(key), cell(key, value)])
        elif isinstance(value, Mapping) and value and key not in decisions and not _is_shown_as_bars(key, figures):
            below += _group(f"{title}{words(key)}", value)
    head = f"<h3>{title.removesuffix(', ')}</h3>" if title and rows else ""
    body = texts + head + (html.table(("", ""), rows) if rows else "") + _side_by_side(decisions)
    return body + _classes(figures, title) + below


def _group(title: str, figures: Figures) -> str:
    values = list(figures.values())
    is_table = all(
        isinstance(value, Mapping) and not any(isinstance(inner, Mapping | list) for inner in value.values())
        for value in values
    )
    if is_table and not all(map(_is_interval, values)):
        return _columns(title, figures)
    return nested(figures, f"{title}, ")


def _is_shown_as_bars(key: str, figures: Figures) -> bool:
    return key == "classes" and "confusion" in figures


def _is_interval(value: Any) -> bool:
    return isinstance(value, Mapping) and {"value", "low", "high"} <= value.keys()


def _is_decision(value: Any) -> bool:
    """Return whether a value has the form of decisions: accuracy, and macro F1 of both, SPEED and PATH."""
    found = value.get("macro_f1") if isinstance(value, Mapping) else None
    return isinstance(found, Mapping) and "both" in found and "accuracy" in value


def _classes(figures: Figures, title: str) -> str:
    """Return confusion matrix and bars of a classification; empty if the figures are none."""
    if not {"labels", "classes", "confusion"} <= figures.keys():
        return ""
    bars = html.class_bars("", figures["classes"], figures["labels"])
    return html.confusion_table(f"{title}{html.SHARE_TITLE}", figures) + bars


def _side_by_side(decisions: Mapping[str, Figures]) -> str:
    """Return macro F1 and accuracy of several decisions, joint, SPEED and PATH, and the classes of the first."""
    if not decisions:
        return ""
    body = ""
    for name, measure, show in (("macro F1", "macro_f1", number), ("accuracy", "accuracy", percent)):
        rows = [
            [words(who), *(html.with_bounds(found[measure][part], show) for part in ("both", "speed", "path"))]
            for who, found in decisions.items()
        ]
        body += html.table((name, "joint", "SPEED", "PATH"), rows)
    first = next(iter(decisions.values()))
    parts = [first[part] for part in ("speed", "path") if part in first]
    return body + "".join(html.class_bars("", part["classes"], part["labels"]) for part in parts)


def _columns(title: str, figures: Mapping[str, Figures]) -> str:
    """Return a table with a row for each entry and a column for each figure."""
    names = _distinct(name for entry in figures.values() for name in entry)
    rows = [
        [html.breakable(str(name)), *(number(entry.get(column)) for column in names)] for name, entry in figures.items()
    ]
    return f"<h3>{title}</h3>" + html.table(("", *map(words, names)), rows)


def _distinct(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
