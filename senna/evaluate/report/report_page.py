"""report.html: a self-contained page, with plots beside it, from the metrics and predictions of an evaluation."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from senna.evaluate.predictions import Prediction
from senna.evaluate.report import frame_cards, html
from senna.evaluate.report.charts import calibration_svg, draw_charts
from senna.evaluate.report.frame_cards import ImageFinder
from senna.evaluate.report.html import Row, card, grid, number, percent
from senna.evaluate.report.html_tables import nested
from senna.evaluate.report.trajectories import trajectory_section
from senna.futures import Futures
from senna.kinds import kind_named

ERRORS, CORRECT, TEXT_FRAMES = 8, 4, 3  # cards on the page
MEASURES = (("Macro F1", "macro_f1", number), ("Accuracy", "accuracy", percent))
RULES = {
    "sum": ("most probable", "sum: the most probable of the twenty"),
    "balanced": ("balanced decision", "balanced: corrected for the frequencies of the training plans"),
    "greedy": ("greedy decoding", "greedy: token by token"),
    "text": ("text", "text, parsed strictly"),
}
"""Key of ``decisions`` -> a short name of the decision rule, and its description."""
BLACK = "all images black"  # key in ``gains``
Metrics = Mapping[str, Any]

FUTURE = (
    "<b>Note.</b> The navigation command in a plan's question is derived from the recorded trajectory up to 6 s ahead. The "
    "model and two of the baselines read it, so they are comparable with each other, but not with a planner without it."
)
MACRO_F1 = (
    "<b>Macro F1</b> is the mean F1 of the classes that occur in the ground truth, with equal weights: a rare turn counts as "
    "much as driving straight, and a constant answer scores low. <b>Joint</b>: SPEED and PATH are both right."
)
INTERVALS = (
    "Intervals are 95 % bootstrap intervals over scenes, because the frames of a scene are similar; those of macro F1 are the "
    "wider of basic and percentile bounds over a fixed set of classes. "
    "The model's interval is shaded."
)
CALIBRATION = (
    "<b>ECE</b>, the expected calibration error: the distance between the probability of an answer and the share of right "
    "answers, averaged over the bins, weighted by their counts; 0 is best. <b>Log loss</b>: the mean of minus the logarithm of "
    "the ground truth's probability. Below the diagonal the model is overconfident."
)
BARS = (
    "At most two per scene, as long as there are others. Bars: the most probable of the twenty meta-actions; blue is the "
    "ground truth, vermilion the answer, grey any other."
)


def write_report(
    out: Path,
    metrics: Metrics,
    predictions: Sequence[Prediction],
    find_images: ImageFinder,
    futures: Mapping[str, Futures] | None = None,
) -> Path:
    """Write ``report.html`` and the PNG plots into the folder ``out``.

    Args:
        metrics: the return value of ``evaluate_predictions``.
        predictions: lines of predictions.jsonl; those with an ``error`` are ignored.
        futures: token -> what is recorded around a frame, for the view from above.

    Returns:
        The page's path.

    Raises:
        SennaError: a file cannot be written.
    """
    usable = [prediction for prediction in predictions if "error" not in prediction]
    page = html.fill(
        "report.html",
        title=escape(str((metrics.get("run") or {}).get("model", "a model"))),
        facts=_facts(metrics),
        sections="\n".join(_sections(metrics, usable, find_images, futures or {})),
    )
    draw_charts(metrics["plan"], out)
    path = out / "report.html"
    html.write_file(path, page.encode("utf-8"))
    return path


def _facts(metrics: Metrics) -> str:
    run, kinds, plan = dict(metrics.get("run") or {}), metrics["kinds"], metrics["plan"]
    pairs = [(name, run.pop(name)) for name in ("model", "data") if name in run]
    pairs += [("records", f"{metrics['records']:,}"), ("scenes", f"{metrics['scenes']:,}")]
    pairs.append(("kinds", ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in kinds.items())))
    if plan and plan.get("unreadable_truths"):
        pairs.append(("plans without a valid ground truth, left out", f"{plan['unreadable_truths']:,}"))
    mode = run.pop("mode", None)
    pairs += [("mode", plan["mode"] if plan else mode), *run.items()]
    return html.facts((name.replace("_", " "), value) for name, value in pairs if value not in (None, ""))


def _sections(
    metrics: Metrics, predictions: Sequence[Prediction], find_images: ImageFinder, futures: Mapping[str, Futures]
) -> Iterator[str]:
    if metrics["plan"]:
        yield from _headline(metrics["plan"])
        yield from _by_class(metrics["plan"])
        yield f"<h2>Calibration and decision rules</h2>{_calibration_and_decisions(metrics['plan'], predictions)}"
    if metrics.get("trajectory"):
        yield from trajectory_section(metrics["trajectory"], predictions, futures)
    if metrics["text"]:
        cards = (
            card(escape(kind.replace("_", " ")), nested(figures), _metric_note(kind))
            for kind, figures in metrics["text"].items()
        )
        yield f"<h2>Text answers</h2>{grid(*cards, kind='flow')}"
    if not metrics["plan"] and not metrics["text"] and not metrics.get("trajectory"):
        yield "<p class=warn>There is nothing to evaluate: no plan, and no question of a kind that has metrics.</p>"
    yield from _frames(predictions, find_images)


def _metric_note(name: str) -> str:
    kind = kind_named(name)
    return "" if kind is None else escape(kind.metric_note, quote=False)


def _headline(plan: Metrics) -> Iterator[str]:
    rows, charts = _rows(plan), []
    for title, measure, show in MEASURES:
        dots = [Row(name, found[measure]["both"], role) for name, found, role in rows]
        charts.append(html.interval_chart(f"{title}, joint meta-action", dots, show))
    yield "<h2>The plan, compared with baselines that see no image</h2>"
    yield f'<ul class="verdict card">{"".join(f"<li>{line}</li>" for line in verdicts(plan))}</ul>'
    yield grid(*charts)
    if not html.has_interval(html.headline_of(plan)["macro_f1"]["both"]):
        yield "<p class=warn>All plans are from one scene: there are no intervals, and no difference is certain.</p>"
    if warning := html.few_scenes(plan["scenes"]):
        yield f"<p class=warn>{warning}</p>"
    fitted = f"The baselines are fitted on {escape(plan['baselines_fitted_on'])}."
    yield "".join(f'<p class="soft">{line}</p>' for line in (MACRO_F1, f"{INTERVALS} {fitted}", FUTURE))
    yield grid(*_measure_tables(plan, rows))


def _measure_tables(plan: Metrics, rows: Sequence[tuple[str, Metrics, str]]) -> list[str]:
    """Return tables of macro F1 and of accuracy: joint, SPEED and PATH, and the model's lead over each row."""
    cards = []
    for title, measure, show in MEASURES:
        head, note = ["", "joint", "SPEED", "PATH"], ""
        body = [
            [escape(name), *(html.with_bounds(found[measure][part], show) for part in ("both", "speed", "path"))]
            for name, found, _ in rows
        ]
        if plan.get("gains"):
            head.append("lead, joint")
            note = (
                "Lead: model minus this row, paired bootstrap over scenes, which detects smaller differences than the "
                "comparison of two intervals."
            )
            for cells, (name, _, role) in zip(body, rows, strict=True):
                gain = _gain(plan, BLACK if role == "blackout" else name, measure)
                cells.append(html.with_bounds(gain, html.signed) if gain else "")
        cards.append(card(title, html.table(head, body), note))
    return cards


def _rows(plan: Metrics) -> list[tuple[str, Metrics, str]]:
    """Return (name, decisions, role) of everything that is compared, the headline first."""
    rows = [("the model", html.headline_of(plan), "model")]
    others = {name: found for name, found in plan["decisions"].items() if found is not html.headline_of(plan)}
    rows += [(f"the model, {RULES[name][0]}", others[name], "also") for name in RULES if name in others]
    rows += [(name, found, "baseline") for name, found in plan["baselines"].items()]
    if plan["blackout"]:
        rows.append(("the model, images black", plan["blackout"], "blackout"))
    return rows


def verdicts(plan: Metrics) -> list[str]:
    """Return sentences (HTML) that compare the model with each baseline and with itself on black images."""
    model, lines = html.headline_of(plan), []
    for name, measure, show in MEASURES:
        figure = model[measure]["both"]
        by_outcome: dict[str, list[str]] = {}
        for baseline, found in plan["baselines"].items():
            outcome = against(figure, found[measure]["both"], _gain(plan, baseline, measure))
            value = show(found[measure]["both"]["value"])
            by_outcome.setdefault(outcome, []).append(f"{escape(baseline)} ({value})")
        clauses = "; ".join(f"{outcome} {_join_names(names)}" for outcome, names in by_outcome.items())
        lines.append(f"<b>{name} {show(figure['value'])}</b>{': ' if clauses else ''}{clauses}.")
    return [*lines, uses_images(model, plan["blackout"], _gain(plan, BLACK, "macro_f1"))]


def _gain(plan: Metrics, name: str, measure: str) -> html.Interval | None:
    return plan["gains"][name][measure]["both"] if name in (plan.get("gains") or {}) else None


def uses_images(model: Metrics, blackout: Metrics | None, gain: html.Interval | None = None) -> str:
    """Return a sentence (HTML) on whether the model does worse with black images.

    Args:
        gain: the paired difference in macro F1, if known.
    """
    if blackout is None:
        return "<b>Does the model use its images?</b> Not tested; <code>--blackout</code> tests it with black images."
    seeing, blind = model["macro_f1"]["both"], blackout["macro_f1"]["both"]
    figures = f"macro F1 is {number(blind['value'])} with black images and {number(seeing['value'])} with its images"
    if not html.has_interval(seeing) or not html.has_interval(blind):
        return f"<b>Whether the model uses its images</b> is unknown without intervals: {figures}."
    outcome = against(seeing, blind, gain)
    if outcome == APART.format("above"):
        return f"<b>The model uses its images</b>: {figures}; the intervals do not overlap."
    if outcome == PAIRED.format("above"):
        return f"<b>The model uses its images</b>: {figures}; the intervals overlap, the paired difference is above 0."
    if seeing["value"] > blind["value"]:
        return f"<b>The model may use its images</b>: {figures}, but the intervals overlap."
    return f"<b>The model does not seem to use its images</b>: {figures}."


APART = "<b>{}</b> (the intervals do not overlap)"
PAIRED = "{} (by the paired difference; the intervals overlap)"
OVERLAP = "{} (may be chance)"


def against(figure: html.Interval, other: html.Interval, gain: html.Interval | None = None) -> str:
    """Return how a figure compares with another, in words that precede the other's name.

    Args:
        gain: the paired difference of the two, if known.
    """
    if figure["value"] is None or other["value"] is None:
        return "not comparable with"
    order = "above" if figure["value"] > other["value"] else "below" if figure["value"] < other["value"] else "equal to"
    if not html.has_interval(figure) or not html.has_interval(other):
        return f"{order} (no intervals)"
    if order == "equal to":
        return order
    if figure["low"] > other["high"] or figure["high"] < other["low"]:
        return APART.format(order)
    if gain and html.has_interval(gain) and (gain["low"] > 0 or gain["high"] < 0):
        return PAIRED.format(order)
    return OVERLAP.format(order)


def _join_names(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _by_class(plan: Metrics) -> Iterator[str]:
    found = html.headline_of(plan)
    bars = {
        part: html.class_bars("", found[part]["classes"], found[part]["labels"]) for part in ("speed", "path", "both")
    }
    confusions = (
        card(f"{part.upper()}: {html.SHARE_TITLE}", html.confusion_table("", found[part])) for part in ("speed", "path")
    )
    yield "<h2>Errors by class</h2>"
    yield grid(*confusions)
    yield grid(card("SPEED by class", bars["speed"]), card("PATH by class", bars["path"]))
    yield grid(card("Joint meta-actions that occur", bars["both"]))


def _calibration_and_decisions(plan: Metrics, predictions: Sequence[Prediction]) -> str:
    cards = [_calibration(plan), _decisions(plan, predictions)]
    if plan.get("published"):
        note = "Only to compare with published figures."
        cards.append(card("By the published code's definitions", nested(plan["published"]), note))
    return grid(*cards, kind="flow")


def _calibration(plan: Metrics) -> str:
    found = plan["calibration"]
    if not found:
        generated = "Generated text has no probability; --mode score computes one."
        return card("Calibration", "", generated if plan["mode"] == "generate" else "Not measured.")
    note = CALIBRATION
    if found.get("log_loss_frequencies") is not None:
        constant = number(found["log_loss_frequencies"])
        note += f" The log loss of always predicting the frequencies of these ground truths is {constant}."
    if not (after := plan.get("calibrated")):
        return card(f"Calibration: {_calibration_figures(found)}", calibration_svg(found), note)
    fitted = f"With temperature {number(plan['correction']['temperature'])}"
    charts = "".join(
        f"<h4>{title}: {_calibration_figures(figures)}</h4>{calibration_svg(figures)}"
        for title, figures in (("Without temperature", found), (fitted, after))
    )
    return card("Calibration", charts, note)


def _calibration_figures(found: Metrics) -> str:
    return f"ECE {number(found['ece'])}, log loss {number(found['log_loss'])} nats"


def _decisions(plan: Metrics, predictions: Sequence[Prediction]) -> str:
    decisions = {name: plan["decisions"][name] for name in RULES if name in plan["decisions"]}
    rows = [
        [
            RULES[name][1],
            number(found["macro_f1"]["both"]["value"]),
            percent(found["accuracy"]["both"]["value"]),
            percent(found["invalid"]),
        ]
        for name, found in decisions.items()
    ]
    if plan["mode"] == "score":
        both = [row for row in frame_cards.plans(predictions) if "sum" in row and "greedy" in row]
        same = sum(row["sum"] == row["greedy"] for row in both)
        note = f"sum and greedy agree on {same:,} of {len(both):,} plans. " if both else ""
        if correction := plan.get("correction"):
            note += (
                f"<b>balanced</b> takes the largest of log p / T − τ log prior; `senna calibrate` fitted T = "
                f"{number(correction['temperature'])} and τ = {number(correction['tau'])} on other scenes. "
            ).replace("`senna calibrate`", "<code>senna calibrate</code>")
        note += (
            f"<b>left_tree {percent(plan['left_tree'])}</b>: plans for which unrestricted greedy text would begin none of the "
            "twenty answers; the decisions are still among the twenty. "
            f"<b>Outside {percent(plan['outside'])}</b>: the mean probability of texts that are none of the twenty."
        )
    else:
        note = "<b>Invalid</b> answers are not exactly one meta-action; they count as wrong everywhere."
    return card("Decision rules", html.table(("", "macro F1", "accuracy", "invalid"), rows), note)


def _frames(predictions: Sequence[Prediction], find_images: ImageFinder) -> Iterator[str]:
    errors = [frame_cards.plan_card(row, find_images) for row in frame_cards.pick_errors(predictions, ERRORS)]
    correct = [frame_cards.plan_card(row, find_images) for row in frame_cards.pick_correct(predictions, CORRECT)]
    frames = frame_cards.pick_text_frames(predictions, TEXT_FRAMES)
    texts = [frame_cards.text_card(frame, find_images) for frame in frames]
    if errors:
        scored = any("sum" in row for row in predictions)
        title, note = ("The most confident errors", BARS) if scored else ("Errors", "At most two per scene.")
        yield f'<h2>{title}</h2><p class="soft">{note}</p>{"".join(errors)}'
    elif frame_cards.plans(predictions):
        yield "<h2>Errors</h2><p>None: every plan is right.</p>"
    if correct:
        note = "One of each meta-action that the model predicts correctly, the rarest first."
        yield f'<h2>Examples of right plans</h2><p class="soft">{note}</p>{"".join(correct)}'
    if texts:
        yield f'<h2>Text answers by frame</h2><p class="soft">Frames spread over the file.</p>{"".join(texts)}'
