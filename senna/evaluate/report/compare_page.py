"""comparison.html: runs side by side, their paired differences from the first, and frames on which they disagree."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from senna.evaluate.report import frame_cards, html
from senna.evaluate.report.comparison import MEASURES, PARTS, Difference, Pair, Run, settings_of, top_figures
from senna.evaluate.report.frame_cards import ImageFinder, is_correct
from senna.evaluate.report.html import Row, card, grid, number, percent, signed
from senna.evaluate.report.html_tables import cell, words
from senna.evaluate.report.trajectories import figures_by_name

FRAMES, PER_SCENE = 4, 2  # frames of each sort for each run, and of one scene among them
PAIRED = (
    "Differences are over the records that both runs have, with 95 % intervals of paired differences over resampled scenes. A "
    "difference whose interval excludes 0 is unlikely to be chance; among many differences, some exclude 0 by chance."
)
FUTURE = (
    "<b>Note.</b> The navigation command in a plan's question is derived from the recorded trajectory up to 6 s ahead."
)


def comparison_page(runs: Sequence[Run], differences: Sequence[Difference]) -> str:
    """Return the page's HTML. ``differences`` are those of every run but the first, from the first."""
    return html.fill(
        "compare.html",
        title=escape(" and ".join(run.name for run in runs)),
        runs="".join(_run_card(run) for run in runs),
        sections="\n".join(_sections(runs, differences)),
    )


def _run_card(run: Run) -> str:
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
    if warning := html.few_scenes(min(run.metrics["scenes"] for run in runs)):
        yield f'<p class="warn">{warning}</p>'
    with_plans = [run for run in runs if run.metrics["plan"]]
    if with_plans:
        yield f"<h2>The plan</h2>{_headline(with_plans)}"
    if any(difference.gain for difference in differences):
        yield f'<h2>Paired differences from {escape(runs[0].name)}</h2><p class="soft">{PAIRED} {FUTURE}</p>'
        for run, difference in zip(runs[1:], differences, strict=True):
            yield grid(*_difference(runs[0], run, difference))
    if with_plans:
        yield f"<h2>F1 by class</h2>{grid(*(_classes(with_plans, part) for part in ('speed', 'path')))}"
    yield from _trajectories(runs, differences)
    yield _text_answers(runs)
    for run, difference in zip(runs[1:], differences, strict=True):
        yield from _frames(runs[0], run, difference)


def _headline(runs: Sequence[Run]) -> str:
    """Return charts of every run's figures over its own records, with the baselines of the first run."""
    cards = []
    for (name, measure), show in zip(MEASURES, (number, percent), strict=True):
        rows = [
            Row(run.name, html.headline_of(run.metrics["plan"])[measure]["both"], "also" if position else "model")
            for position, run in enumerate(runs)
        ]
        baselines = runs[0].metrics["plan"]["baselines"]
        rows += [Row(baseline, found[measure]["both"]) for baseline, found in baselines.items()]
        cards.append(html.interval_chart(f"{name[0].upper()}{name[1:]}, joint meta-action", rows, show))
    first = escape(runs[0].name)
    return grid(*cards) + f'<p class="soft">The baselines and the shaded interval are those of {first}.</p>'


def _difference(first: Run, run: Run, found: Difference) -> list[str]:
    title = f"{escape(run.name)} minus {escape(first.name)}: {found.shared:,} plans"
    if not found.gain:
        return [card(title, "", "The runs have no plan in common.")]
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
        card("Agreement", html.table(("", "plans"), [(escape(name), number(count)) for name, count in counts])),
    ]


def _verdict(gain: Mapping[str, Any]) -> str:
    if not html.has_interval(gain):
        return "All shared plans are from one scene: there is no interval, and no difference is certain."
    if gain["low"] > 0 or gain["high"] < 0:
        better = "better" if gain["low"] > 0 else "worse"
        return f"Joint macro F1 is <b>{better}</b>: the interval excludes 0."
    return "The interval of joint macro F1 includes 0: the difference may be chance."


def _classes(runs: Sequence[Run], part: str) -> str:
    """Return a table of the F1 of each class, with a column for each run and the class's records in the first run."""
    tables = [html.headline_of(run.metrics["plan"])[part] for run in runs]
    rows = []
    for label in tables[0]["labels"]:
        figures = [table["classes"].get(label, {}) for table in tables]
        cells = [html.bar_cell(figure["f1"], "f1") if figure.get("support") else "–" for figure in figures]
        rows.append([html.breakable(label), number(figures[0].get("support")), *cells])
    head = ("class", "records", *(escape(run.name) for run in runs))
    return card(part.upper(), f'<div class="classes">{html.table(head, rows)}</div>')


def _trajectories(runs: Sequence[Run], differences: Sequence[Difference]) -> Iterator[str]:
    """Yield the figures of every run with trajectories over its own records, and the paired differences from the first."""
    with_paths = [run for run in runs if run.metrics.get("trajectory")]
    if len(with_paths) < 2:
        return
    figures = [run.metrics["trajectory"] for run in with_paths]
    rows = [
        ["records", *(number(found["records"]) for found in figures)],
        ["plans stated, by --decision", *(escape(found.get("decision") or "–") for found in figures)],
        ["invalid answers", *(percent(found["invalid"]) for found in figures)],
    ]
    columns = [figures_by_name(found) for found in figures]
    for name in columns[0]:
        show = metres if name.startswith("L2") else percent
        rows.append([name, *(html.with_bounds(column[name], show) if column[name] else "–" for column in columns)])
    yield "<h2>The trajectory of the next 3 s</h2>"
    head = ("", *(escape(run.name) for run in with_paths))
    yield grid(card("Each run over all its trajectories; L2 in metres", html.table(head, rows)), kind="wide")
    for run, difference in zip(runs[1:], differences, strict=True):
        if difference.trajectory_gain:
            gains = figures_by_name(difference.trajectory_gain)
            rows = [[name, html.with_bounds(gain, html.signed)] for name, gain in gains.items() if gain]
            title = f"{escape(run.name)} minus {escape(runs[0].name)}: {difference.trajectories:,} trajectories"
            yield grid(card(title, html.table(("", "difference"), rows), PAIRED))


def metres(value: Any) -> str:
    """Format a distance."""
    return number(value, 2)


def _text_answers(runs: Sequence[Run]) -> str:
    figures = [top_figures(run.metrics) for run in runs]
    by_kind: dict[str, list[list[str]]] = {}
    for kind, name in dict.fromkeys(key for found in figures for key in found):
        cells = [cell(name, found.get((kind, name))) for found in figures]
        by_kind.setdefault(kind, []).append([words(name), *cells])
    head = ("", *(escape(run.name) for run in runs))
    cards = (card(escape(kind.replace("_", " ")), html.table(head, rows)) for kind, rows in by_kind.items())
    return f"<h2>Text answers</h2>{grid(*cards, kind='flow')}" if by_kind else ""


def _frames(first: Run, run: Run, difference: Difference) -> Iterator[str]:
    settings = settings_of(first)
    find_images = frame_cards.image_finder(settings.get("image_folder"), settings.get("data"))
    for first_is_correct, title in (
        (True, f"{run.name} wrong, {first.name} right"),
        (False, f"{run.name} right, {first.name} wrong"),
    ):
        pairs = [pair for pair in difference.disagreements if is_correct(pair[0]) == first_is_correct]
        if pairs:
            cards = (_pair_card(first, run, pair, find_images) for pair in _spread_over_scenes(pairs))
            note = (
                f"{len(pairs):,} plans. Shown are those whose probabilities of the ground truth differ most, at most two per "
                "scene."
            )
            yield f'<h2>{escape(title)}</h2><p class="soft">{note}</p>{"".join(cards)}'


def _spread_over_scenes(pairs: Sequence[Pair]) -> list[Pair]:
    seen: Counter[str] = Counter()
    chosen = []
    for pair in pairs:
        scene = pair[0].get("scene", "")
        seen[scene] += 1
        if seen[scene] <= PER_SCENE:
            chosen.append(pair)
    return chosen[:FRAMES]


def _pair_card(first: Run, run: Run, pair: Pair, find_images: ImageFinder) -> str:
    answers = "".join(
        f"<div><h4>{escape(side.name)}</h4>{frame_cards.answer_line(prediction)}"
        f"{frame_cards.probability_bars(prediction, 3)}</div>"
        for side, prediction in zip((first, run), pair, strict=True)
    )
    return frame_cards.frame_card(pair[0], find_images, answers)
