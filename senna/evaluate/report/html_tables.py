"""Figures of any form (of the text answers, of the published counts) as tables of a page."""

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
    "missing": "objects left out",
    "surplus": "objects made up",
    "words": "words of an answer",
    "words_true": "words of a truth",
    "decisions": "the model",
    "several": "answers that name several",
}
_OVERLAP = (
    "Overlap with the recorded text, as COCO's caption evaluation has it: it says little of whether an answer is true."
)
NOTES = {
    "traffic_light": "Invalid answers are none of the four words; they count as wrong.",
    "vru": "People on foot or on two wheels: is someone there at all, and are those who are named there, matched by name. The "
    "distance error is that of their distance from the car, the place error that of their place; both over matched users.",
    "motion": "Figures over objects, matched by their number; an object that is left out is wrong.",
    "description": _OVERLAP,
    "explanation": _OVERLAP,
}
_MODEL_FIRST = "decisions"
_SILENT_AT_0 = ("unreadable_truths",)
Figures = Mapping[str, Any]


def words(key: object) -> str:
    """The name of a figure, as HTML."""
    return escape(NAMES.get(str(key), str(key).replace("_", " ").replace(" f1", " F1")))


def cell(key: object, value: Any) -> str:
    """A number or an interval, on one line where there is room."""
    if _is_interval(value):
        return f'<span class="line">{html.with_bounds(value)}</span>'
    return number(value, 1 if str(key).startswith("words") else 3)


def nested(figures: Figures, title: str = "") -> str:
    """Figures of any depth: numbers and intervals a row each, classes as bars, decisions side by side, the rest below."""
    rows, said, below = [], "", ""
    decisions = {key: figures[key] for key in sorted(figures, key=_MODEL_FIRST.__ne__) if _is_decision(figures[key])}
    for key, value in figures.items():
        if key in _SILENT_AT_0 and not value:
            continue
        if isinstance(value, str):
            said += f'<p class="soft">{words(key)}: {escape(value)}</p>'
        elif not isinstance(value, Mapping | list) or _is_interval(value):
            rows.append([words(key), cell(key, value)])
        elif isinstance(value, Mapping) and value and key not in decisions and not _is_shown_as_classes(key, figures):
            below += _group(f"{title}{words(key)}", value)
    head = f"<h3>{title.removesuffix(', ')}</h3>" if title and rows else ""
    body = said + head + (html.table(("", ""), rows) if rows else "") + _side_by_side(decisions)
    return body + _classes(figures, title) + below


def _group(title: str, figures: Figures) -> str:
    inner = list(figures.values())
    if all(isinstance(one, Mapping) and not any(isinstance(v, Mapping | list) for v in one.values()) for one in inner):
        intervals = all(map(_is_interval, inner))
        return nested(figures, f"{title}, ") if intervals else _columns(title, figures)
    return nested(figures, f"{title}, ")


def _is_shown_as_classes(key: str, figures: Figures) -> bool:
    return key == "classes" and "confusion" in figures


def _is_interval(value: Any) -> bool:
    return isinstance(value, Mapping) and {"value", "low", "high"} <= value.keys()


def _is_decision(value: Any) -> bool:
    """Whether it has macro F1 and accuracy of both, SPEED and PATH."""
    found = value.get("macro_f1") if isinstance(value, Mapping) else None
    return isinstance(found, Mapping) and "both" in found and "accuracy" in value


def _classes(figures: Figures, title: str) -> str:
    """Confusion and bars of classes told."""
    if not {"labels", "classes", "confusion"} <= figures.keys():
        return ""
    bars = html.class_bars("", figures["classes"], figures["labels"])
    return html.heat_map(f"{title}records, and their share of the row", figures) + bars


def _side_by_side(decisions: Mapping[str, Figures]) -> str:
    """Macro F1 and accuracy of several decisions, joint and of SPEED and PATH; then where the first errs."""
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
    told = [first[part] for part in ("speed", "path") if part in first]
    return body + "".join(html.class_bars("", one["classes"], one["labels"]) for one in told)


def _columns(title: str, figures: Mapping[str, Figures]) -> str:
    """Figures of several things, the same of each: a row a thing."""
    names = _in_order(name for one in figures.values() for name in one)
    rows = [[html.breakable(str(thing)), *(number(one.get(name)) for name in names)] for thing, one in figures.items()]
    return f"<h3>{title}</h3>" + html.table(("", *map(words, names)), rows)


def _in_order(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
