"""comparison.html: runs side by side, what each has over the first, and frames on which one is right and the other is not."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from senna.evaluate.report import frame_cards, html
from senna.evaluate.report.compare import MEASURES, PARTS, Difference, Run, settings_of, top_figures
from senna.evaluate.report.frame_cards import Pictures
from senna.evaluate.report.html import Row, card, grid, number, percent, signed
from senna.evaluate.report.html_tables import cell, words

FRAMES = 4  # of each sort, against each run
PAIRED = (
    "Differences are over the records that both runs have, with 95 % intervals of scenes resampled in pairs. One that does "
    "not hold 0 is more than chance, as far as so many scenes can tell; picked out of many, it is less sure than it looks."
)
FUTURE = "<b>Note.</b> The navigation command in a plan's question looks 6 s ahead into the recorded drive."


def comparison_page(runs: Sequence[Run], differences: Sequence[Difference]) -> str:
    """The page's HTML. ``differences`` are of every run but the first, against the first."""
    return html.fill(
        "compare.html",
        title=escape(" and ".join(run.name for run in runs)),
        runs="".join(_run(run) for run in runs),
        sections="\n".join(_sections(runs, differences)),
    )


def _run(run: Run) -> str:
    facts = dict(run.metrics.get("run") or {})
    pairs = [(name, facts.pop(name)) for name in ("model", "data") if name in facts]
    pairs += [
        ("folder", run.folder),
        ("records", f"{run.metrics['records']:,}"),
        ("scenes", f"{run.metrics['scenes']:,}"),
    ]
    pairs += facts.items()
    listed = html.facts((str(name).replace("_", " "), value) for name, value in pairs if value not in (None, ""))
    return f'<section class="card"><h3>{escape(run.name)}</h3><dl class="facts">{listed}</dl></section>'


def _sections(runs: Sequence[Run], differences: Sequence[Difference]) -> Iterator[str]:
    for run, difference in zip(runs[1:], differences, strict=True):
        for warning in difference.warnings:
            yield f'<p class="warn"><b>{escape(run.name)} against {escape(runs[0].name)}:</b> {escape(warning)}</p>'
    planned = [run for run in runs if run.metrics["plan"]]
    if planned:
        yield f"<h2>The plan</h2>{_headline(planned)}"
    if any(difference.gain for difference in differences):
        yield f'<h2>Against {escape(runs[0].name)}, in pairs</h2><p class="soft">{PAIRED} {FUTURE}</p>'
        for run, found in zip(runs[1:], differences, strict=True):
            yield grid(*_difference(runs[0], run, found))
    if planned:
        yield f"<h2>F1 by class</h2>{grid(*(_classes(planned, part) for part in ('speed', 'path')))}"
    yield _text(runs)
    for run, difference in zip(runs[1:], differences, strict=True):
        yield from _frames(runs[0], run, difference)


def _headline(runs: Sequence[Run]) -> str:
    """Every run's figures over its own records, with the first run's baselines."""
    cards = []
    for (name, measure), show in zip(MEASURES, (number, percent), strict=True):
        rows = [
            Row(run.name, html.headline_of(run.metrics["plan"])[measure]["both"], "also" if place else "model")
            for place, run in enumerate(runs)
        ]
        rows += [Row(rival, found[measure]["both"]) for rival, found in runs[0].metrics["plan"]["baselines"].items()]
        cards.append(html.interval_chart(f"{name[0].upper()}{name[1:]}, joint meta-action", rows, show))
    return (
        grid(*cards) + f'<p class="soft">Baselines are those of {escape(runs[0].name)}, whose interval is shaded.</p>'
    )


def _difference(first: Run, run: Run, found: Difference) -> list[str]:
    title = f"{escape(run.name)} less {escape(first.name)}: {found.shared:,} plans"
    if not found.gain:
        return [card(title, "", "No plan is in both.")]
    rows = [
        [name, *(html.with_bounds(found.gain[measure][part], signed) for _, part in PARTS)]
        for name, measure in MEASURES
    ]
    counts = [
        ("both right", found.outcomes[True, True]),
        (f"only {first.name} right", found.outcomes[True, False]),
        (f"only {run.name} right", found.outcomes[False, True]),
        ("both wrong", found.outcomes[False, False]),
    ]
    return [
        card(title, html.table(("", *(name for name, _ in PARTS)), rows), _verdict(found.gain["macro_f1"]["both"])),
        card(
            "The same, plan by plan",
            html.table(("", "plans"), [(escape(name), number(count)) for name, count in counts]),
        ),
    ]


def _verdict(gain: Mapping[str, Any]) -> str:
    if not html.has_interval(gain):
        return "The shared plans are of one scene: no interval can be given, and no difference is certain."
    if gain["low"] > 0 or gain["high"] < 0:
        return (
            f"In joint macro F1 it is <b>{'better' if gain['low'] > 0 else 'worse'}</b>: the interval does not hold 0."
        )
    return "In joint macro F1 the interval holds 0: the difference may be chance."


def _classes(runs: Sequence[Run], part: str) -> str:
    """F1 of each class, a column a run, with how many records it has in the first."""
    tables = [html.headline_of(run.metrics["plan"])[part] for run in runs]
    rows = []
    for label in tables[0]["labels"]:
        found = [table["classes"].get(label, {}) for table in tables]
        cells = [html.barred(one["f1"], "f1") if one.get("support") else "–" for one in found]
        rows.append([html.breakable(label), number(found[0].get("support")), *cells])
    head = ("class", "records", *(escape(run.name) for run in runs))
    return card(part.upper(), f'<div class="classes">{html.table(head, rows)}</div>')


def _text(runs: Sequence[Run]) -> str:
    figures = [top_figures(run.metrics) for run in runs]
    by_kind: dict[str, list[list[str]]] = {}
    for kind, name in dict.fromkeys(name for found in figures for name in found):
        cells = [cell(name, found.get((kind, name))) for found in figures]
        by_kind.setdefault(kind, []).append([words(name), *cells])
    head = ("", *(escape(run.name) for run in runs))
    cards = (card(escape(kind.replace("_", " ")), html.table(head, rows)) for kind, rows in by_kind.items())
    return f"<h2>Answers in text</h2>{grid(*cards, kind='flow')}" if by_kind else ""


def _frames(first: Run, run: Run, difference: Difference) -> Iterator[str]:
    settings = settings_of(first)
    pictures = frame_cards.picture_finder(settings.get("image_folder"), settings.get("data"))
    for wanted, title in (
        (True, f"{run.name} wrong, {first.name} right"),
        (False, f"{run.name} right, {first.name} wrong"),
    ):
        pairs = [
            pair for pair in difference.apart if (frame_cards.decision(pair[0]) == frame_cards.truth(pair[0])) == wanted
        ]
        if pairs:
            cards = (_card(first, run, pair, pictures) for pair in _spread(pairs))
            note = f"{len(pairs):,} plans; shown are those on whose truth they differ most, at most two of a scene."
            yield f'<h2>{escape(title)}</h2><p class="soft">{note}</p>{"".join(cards)}'


def _spread(
    pairs: Sequence[tuple[frame_cards.Prediction, frame_cards.Prediction]],
) -> list[tuple[frame_cards.Prediction, frame_cards.Prediction]]:
    seen: Counter[str] = Counter()
    chosen = []
    for pair in pairs:
        scene = pair[0].get("scene", "")
        seen[scene] += 1
        if seen[scene] <= 2:
            chosen.append(pair)
    return chosen[:FRAMES]


def _card(first: Run, run: Run, pair: tuple[frame_cards.Prediction, frame_cards.Prediction], pictures: Pictures) -> str:
    sides = "".join(
        f"<div><h4>{escape(run.name)}</h4>{frame_cards.answer_line(prediction)}"
        f"{frame_cards.probability_bars(prediction, 3)}</div>"
        for run, prediction in zip((first, run), pair, strict=True)
    )
    return frame_cards.frame_card(pair[0], pictures, sides)
