"""report.html: one page that needs nothing else, and the plots beside it, from the metrics and predictions of a run."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from senna.evaluate.report import frame_cards, html
from senna.evaluate.report.charts import calibration_svg, draw_charts
from senna.evaluate.report.frame_cards import Pictures, Prediction
from senna.evaluate.report.html import Row, card, grid, number, percent
from senna.evaluate.report.html_tables import NOTES, nested

ERRORS, CORRECT, TEXT_FRAMES = 8, 4, 3  # frames on the page
MEASURES = (("Macro F1", "macro_f1", number), ("Accuracy", "accuracy", percent))
DECISIONS = {"sum": "the model", "greedy": "the model, greedy walk", "text": "the model"}
BLACK = "all images black"  # its name among the gains
Metrics = Mapping[str, Any]

FUTURE = (
    "<b>Note.</b> The navigation command in a plan's question looks 6 s ahead into the recorded drive. The model reads it, and "
    "so do the baselines that use it: they compare with each other, not with a planner that is not told."
)
MACRO_F1 = (
    "<b>Macro F1</b> is the F1 of each class that occurs in the truth, averaged with equal weights: a rare turn counts as "
    "much as driving straight on, and always saying the commonest gains little. <b>Joint</b>: SPEED and PATH both right."
)
INTERVALS = (
    "Intervals are 95 % bootstrap intervals over whole scenes, since the frames of a scene are much alike; the model's is "
    "shaded."
)
CALIBRATION = (
    "<b>ECE</b>, the expected calibration error: how far an answer's probability and the share of such answers that are right "
    "lie apart, averaged over the bins by their counts; 0 is best. <b>Log loss</b>: minus the logarithm of the truth's "
    "probability, on average. Under the diagonal the model is too sure."
)
BARS = (
    "At most two of a scene, as long as there are others. Bars: the likeliest of the twenty meta-actions; blue is the truth, "
    "vermillion the answer, grey is neither."
)


def write_report(out: Path, metrics: Metrics, predictions: Sequence[Prediction], pictures: Pictures) -> Path:
    """Write ``report.html`` and the PNG plots into the folder ``out``.

    Args:
        metrics: what ``evaluate_predictions`` gives.
        predictions: lines of predictions.jsonl; those with an ``error`` are left aside.
        pictures: image files of a prediction, in the order of its ``images``, None for one that is not there.

    Returns:
        The page's path.

    Raises:
        SennaError: a file cannot be written.
    """
    usable = [one for one in predictions if "error" not in one]
    page = html.fill(
        "report.html",
        title=escape(str((metrics.get("run") or {}).get("model", "a model"))),
        facts=_facts(metrics),
        sections="\n".join(_sections(metrics, usable, pictures)),
    )
    draw_charts(metrics["plan"], out)
    path = out / "report.html"
    html.write_whole(path, page.encode("utf-8"))
    return path


def _facts(metrics: Metrics) -> str:
    run, kinds, plan = dict(metrics.get("run") or {}), metrics["kinds"], metrics["plan"]
    pairs = [(name, run.pop(name)) for name in ("model", "data") if name in run]
    pairs += [("records", f"{metrics['records']:,}"), ("scenes", f"{metrics['scenes']:,}")]
    pairs.append(("kinds", ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in kinds.items())))
    if plan and plan.get("unreadable_truths"):
        pairs.append(("plans left out, whose truth is no meta-action", f"{plan['unreadable_truths']:,}"))
    mode = run.pop("mode", None)
    pairs += [("mode", plan["mode"] if plan else mode), *run.items()]
    return html.facts((name.replace("_", " "), value) for name, value in pairs if value not in (None, ""))


def _sections(metrics: Metrics, predictions: Sequence[Prediction], pictures: Pictures) -> Iterator[str]:
    if metrics["plan"]:
        yield from _headline(metrics["plan"])
        yield from _by_class(metrics["plan"])
        yield f"<h2>How sure it is, and how it decides</h2>{_certainty(metrics['plan'], predictions)}"
    if metrics["text"]:
        cards = (
            card(escape(kind.replace("_", " ")), nested(figures), NOTES.get(kind, ""))
            for kind, figures in metrics["text"].items()
        )
        yield f"<h2>Answers in text</h2>{grid(*cards, kind='flow')}"
    if not metrics["plan"] and not metrics["text"]:
        yield "<p class=warn>Nothing here can be judged: no plan, and no question of a kind that has metrics.</p>"
    yield from _frames(predictions, pictures)


def _headline(plan: Metrics) -> Iterator[str]:
    rows, charts = _rows(plan), []
    for title, measure, show in MEASURES:
        dots = [Row(name, found[measure]["both"], role) for name, found, role in rows]
        charts.append(html.interval_chart(f"{title}, joint meta-action", dots, show))
    yield "<h2>The plan, beside what needs no model</h2>"
    yield f'<ul class="verdict card">{"".join(f"<li>{line}</li>" for line in verdicts(plan))}</ul>'
    yield grid(*charts)
    if not html.has_interval(html.headline_of(plan)["macro_f1"]["both"]):
        yield "<p class=warn>All plans are of one scene: no interval can be given, and no difference is certain.</p>"
    fitted = f"Baselines are fitted on {escape(plan['baselines_fitted_on'])}."
    yield "".join(f'<p class="soft">{line}</p>' for line in (MACRO_F1, f"{INTERVALS} {fitted}", FUTURE))
    yield grid(*_apart(plan, rows))


def _apart(plan: Metrics, rows: Sequence[tuple[str, Metrics, str]]) -> list[str]:
    """Tables of macro F1 and of accuracy: joint, SPEED and PATH by themselves, and the model's lead over each rival."""
    cards = []
    for title, measure, show in MEASURES:
        head, note = ["", "joint", "SPEED", "PATH"], ""
        body = [
            [escape(name), *(html.with_bounds(found[measure][part], show) for part in ("both", "speed", "path"))]
            for name, found, _ in rows
        ]
        if plan.get("gains"):
            head.append("lead, joint")
            note = "Lead: what the model has more than this, scenes resampled in pairs, which is sharper than two intervals."
            for cells, (name, _, role) in zip(body, rows, strict=True):
                gain = _gain(plan, BLACK if role == "blackout" else name, measure)
                cells.append(html.with_bounds(gain, html.signed) if gain else "")
        cards.append(card(title, html.table(head, body), note))
    return cards


def _rows(plan: Metrics) -> list[tuple[str, Metrics, str]]:
    """(name, D, role) of all that is compared, the headline first."""
    rows = [(DECISIONS[name], found, "also") for name, found in plan["decisions"].items() if name == "greedy"]
    rows += [(name, found, "baseline") for name, found in plan["baselines"].items()]
    rows += [("the model, images black", plan["blackout"], "blackout")] if plan["blackout"] else []
    return [("the model", html.headline_of(plan), "model"), *rows]


def verdicts(plan: Metrics) -> list[str]:
    """Sentences (HTML): how the model stands to each baseline, interval against interval, and whether it looks."""
    model, lines = html.headline_of(plan), []
    for name, measure, show in MEASURES:
        mine = model[measure]["both"]
        outcomes: dict[str, list[str]] = {}
        for baseline, found in plan["baselines"].items():
            theirs, gain = found[measure]["both"], _gain(plan, baseline, measure)
            outcomes.setdefault(against(mine, theirs, gain), []).append(f"{escape(baseline)} ({show(theirs['value'])})")
        clauses = "; ".join(f"{outcome} {_listed(names)}" for outcome, names in outcomes.items())
        lines.append(f"<b>{name} {show(mine['value'])}</b>{': ' if clauses else ''}{clauses}.")
    return [*lines, looks(model, plan["blackout"], _gain(plan, BLACK, "macro_f1"))]


def _gain(plan: Metrics, rival: str, measure: str) -> html.Interval | None:
    return plan["gains"][rival][measure]["both"] if rival in (plan.get("gains") or {}) else None


def looks(model: Metrics, blackout: Metrics | None, gain: html.Interval | None = None) -> str:
    """A sentence (HTML): whether black images cost anything."""
    if blackout is None:
        return "<b>Does it look?</b> Not tested: <code>--blackout</code> evaluates with every image black as well."
    seeing, blind = model["macro_f1"]["both"], blackout["macro_f1"]["both"]
    told = f"with every image black macro F1 is {number(blind['value'])} in place of {number(seeing['value'])}"
    if not html.has_interval(seeing) or not html.has_interval(blind):
        return f"<b>Whether it looks</b> cannot be said without intervals: {told}."
    outcome = against(seeing, blind, gain)
    if outcome == ABOVE:
        return f"<b>It looks</b>: {told}; the intervals do not overlap."
    if outcome == PAIRED.format("above"):
        return f"<b>It looks</b>: {told}; the intervals overlap, the paired difference is above 0."
    if seeing["value"] > blind["value"]:
        return f"<b>It may look</b>: {told}, but the intervals overlap."
    return f"<b>It does not seem to look</b>: {told}."


APART, PAIRED, OVERLAP = "<b>{}</b> (intervals apart)", "{} (in pairs; the intervals overlap)", "{} (may be chance)"
ABOVE = APART.format("above")


def against(mine: html.Interval, other: html.Interval, gain: html.Interval | None = None) -> str:
    """How a figure stands to another, in words that go before the other's name.

    Args:
        gain: the difference of the two, resampled in pairs, where it is known.
    """
    if mine["value"] is None or other["value"] is None:
        return "not comparable with"
    order = "above" if mine["value"] > other["value"] else "below" if mine["value"] < other["value"] else "equal to"
    if not html.has_interval(mine) or not html.has_interval(other):
        return f"{order} (no intervals)"
    if order == "equal to":
        return order
    if mine["low"] > other["high"] or mine["high"] < other["low"]:
        return APART.format(order)
    if gain and html.has_interval(gain) and (gain["low"] > 0 or gain["high"] < 0):
        return PAIRED.format(order)
    return OVERLAP.format(order)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _by_class(plan: Metrics) -> Iterator[str]:
    found = html.headline_of(plan)
    bars = {
        part: html.class_bars("", found[part]["classes"], found[part]["labels"]) for part in ("speed", "path", "both")
    }
    yield "<h2>Where it errs</h2>"
    title = "records, and their share of the row"
    yield grid(*(card(f"{part.upper()}: {title}", html.heat_map("", found[part])) for part in ("speed", "path")))
    yield grid(card("SPEED by class", bars["speed"]), card("PATH by class", bars["path"]))
    yield grid(card("Joint meta-actions that occur", bars["both"]))


def _certainty(plan: Metrics, predictions: Sequence[Prediction]) -> str:
    cards = [_calibration(plan), _decisions(plan, predictions)]
    if plan.get("published"):
        note = "For comparing with published figures only."
        cards.append(card("By the published code's definitions", nested(plan["published"]), note))
    return grid(*cards, kind="flow")


def _calibration(plan: Metrics) -> str:
    found = plan["calibration"]
    if not found:
        why = "Text has no probability; --mode score gives one." if plan["mode"] == "generate" else "Not measured."
        return card("Calibration", "", why)
    note = CALIBRATION
    if found.get("log_loss_frequencies") is not None:
        note += f" Who always gives the frequencies of these truths has {number(found['log_loss_frequencies'])}."
    title = f"Calibration: ECE {number(found['ece'])}, log loss {number(found['log_loss'])} nats"
    return card(title, calibration_svg(found), note)


def _decisions(plan: Metrics, predictions: Sequence[Prediction]) -> str:
    names = {
        "sum": "sum: the likeliest of the twenty",
        "greedy": "greedy: token by token",
        "text": "text, parsed strictly",
    }
    rows = [
        [
            names[name],
            number(plan["decisions"][name]["macro_f1"]["both"]["value"]),
            percent(plan["decisions"][name]["accuracy"]["both"]["value"]),
            percent(plan["decisions"][name]["invalid"]),
        ]
        for name in names
        if name in plan["decisions"]
    ]
    if plan["mode"] == "score":
        both = [one for one in frame_cards.plans(predictions) if "sum" in one and "greedy" in one]
        same = sum(one["sum"] == one["greedy"] for one in both)
        note = f"The two agree on {same:,} of {len(both):,} plans. " if both else ""
        note += (
            f"<b>left_tree {percent(plan['left_tree'])}</b>: plans where greedy text, left free, would have written something "
            "that begins none of the twenty answers; both decisions are among the twenty all the same. "
            f"<b>Outside {percent(plan['outside'])}</b>: the probability that goes, on average, to texts that are none of them."
        )
    else:
        note = "<b>Invalid</b> answers are no meta-action, or name two; they count as wrong everywhere."
    return card("Decisions", html.table(("", "macro F1", "accuracy", "invalid"), rows), note)


def _frames(predictions: Sequence[Prediction], pictures: Pictures) -> Iterator[str]:
    errors = [frame_cards.plan_card(one, pictures) for one in frame_cards.pick_errors(predictions, ERRORS)]
    right = [frame_cards.plan_card(one, pictures) for one in frame_cards.pick_correct(predictions, CORRECT)]
    texts = [frame_cards.text_card(frame, pictures) for frame in frame_cards.pick_text_frames(predictions, TEXT_FRAMES)]
    scored = any("sum" in one for one in predictions)
    if errors:
        title, note = ("The most confident errors", BARS) if scored else ("Errors", "At most two of a scene.")
        yield f'<h2>{title}</h2><p class="soft">{note}</p>{"".join(errors)}'
    elif frame_cards.plans(predictions):
        yield "<h2>Errors</h2><p>None: every plan is right.</p>"
    if right:
        note = "One of each meta-action that it gets right, the rarest first."
        yield f'<h2>And some that are right</h2><p class="soft">{note}</p>{"".join(right)}'
    if texts:
        yield f'<h2>Answers in text, by frame</h2><p class="soft">Frames from all over the file.</p>{"".join(texts)}'
