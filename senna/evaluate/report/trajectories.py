"""The report's section on trajectories: figures beside baselines, and the largest errors from above."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from senna.evaluate.metrics.trajectory import SECONDS, distances
from senna.evaluate.predictions import RECORDED, Prediction
from senna.evaluate.report import html
from senna.evaluate.report.birds_eye import birds_eye_svg
from senna.evaluate.report.frame_cards import spread_over_scenes
from senna.evaluate.report.html import card, grid, number, percent
from senna.futures import Futures
from senna.kinds import TRAJECTORY
from senna.trajectory import parse_trajectory

CARDS = 6
Metrics = Mapping[str, Any]

CONVENTIONS = (
    "<b>L2</b>: the distance from the recorded position. <b>At</b> a time: as UniAD reports it. <b>Mean</b>: of all steps up "
    "to the time, as ST-P3 and VAD do. Only figures of one convention can be compared. <b>ADE</b> is the mean of the six "
    "steps (mean to 3 s), <b>FDE</b> the last one (at 3 s). Intervals are 95 % bootstrap intervals over scenes."
)
STATUS = (
    "<b>The ego status alone is known to do well in nuScenes' open loop</b>, about as well as planners that see (“Is Ego "
    "Status All You Need for Open-Loop End-to-End Autonomous Driving?”, arXiv 2312.03031): most scenes go straight on. A low "
    "L2 shows that a model drives only if it lies clearly below the baselines, and a closed loop shows it better."
)
COLLISIONS = (
    "<b>Collisions</b>: the share of trajectories whose box, 4.084 x 1.85 m in the direction of motion, overlaps the annotated "
    "box of a vehicle, cyclist or pedestrian. Steps at which the recorded drive itself overlaps one do not count, as in "
    "ST-P3, UniAD and VAD. The others do not react, as in every open-loop metric."
)
CONSISTENCY = (
    "<b>Consistency</b>: the rule that labels recorded trajectories, applied to the predicted one, gives the plan that the "
    "question states. An answer that is no trajectory is not consistent."
)
ABOVE = (
    "Straight ahead is up; a square is 10 m. Blue: the recorded path with the car after 3 s; vermilion: the predicted one. "
    "Grey: other road users in the next 3 s, later ones darker; those that the predicted path hits have a vermilion edge."
)


def trajectory_section(
    figures: Metrics, predictions: Sequence[Prediction], futures: Mapping[str, Futures]
) -> Iterator[str]:
    """Yield the parts of the section (HTML) from ``trajectory`` of metrics.json."""
    yield "<h2>The trajectory of the next 3 s</h2>"
    yield f'<ul class="verdict card">{"".join(f"<li>{line}</li>" for line in verdicts(figures))}</ul>'
    fitted = f"The model on the ego status is fitted on {escape(figures['baselines_fitted_on'])}."
    yield "".join(f'<p class="soft">{line}</p>' for line in (CONVENTIONS, f"{STATUS} {fitted}"))
    yield grid(card("L2 in metres", _table(figures, "l2", number, 2)), kind="wide")
    if figures["collisions"]:
        yield grid(card("Collisions", _table(figures, "collisions", percent), COLLISIONS), kind="wide")
    else:
        yield '<p class="warn">No collisions: the file of futures is missing beside the data. Convert the data again.</p>'
    if found := figures["consistency"]:
        rows = [
            [name, *(html.with_bounds(found[measure][part], show) for part in ("both", "speed", "path"))]
            for name, measure, show in (("share", "accuracy", percent), ("macro F1", "macro_f1", number))
        ]
        yield grid(card("Consistency with the plan", html.table(("", "joint", "SPEED", "PATH"), rows), CONSISTENCY))
    if cards := list(_largest_errors(predictions, futures)):
        yield f'<h3>The largest errors</h3><p class="soft">{ABOVE}</p><div class="tiles">{"".join(cards)}</div>'


def verdicts(figures: Metrics) -> list[str]:
    """Return sentences (HTML) on the L2 at 3 s, on consistency and on what the figures leave out."""
    clauses = []
    for name, gain in figures["gains"].items():
        row = figures["blackout"] if name not in figures["baselines"] else figures["baselines"][name]
        if gain["value"] is None:
            continue
        is_sure = html.has_interval(gain) and (gain["low"] > 0 or gain["high"] < 0)
        order = "below" if gain["value"] < 0 else "above"
        sure = f"<b>{order}</b>" if is_sure else f"{order} (may be chance)"
        clauses.append(f"{sure} {escape(name)} ({number(row['fde']['value'], 2)})")
    lines = [f"<b>L2 at 3 s {number(figures['fde']['value'], 2)} m</b>: {'; '.join(clauses)}."]
    if decision := figures.get("decision"):
        lines.append(f"The questions state the predicted plan by <code>--decision {escape(decision)}</code>.")
    if figures["consistency"]:
        share = percent(figures["consistency"]["accuracy"]["both"]["value"])
        lines.append(f"<b>Consistent with its plan: {share}</b> of {figures['records']:,} trajectories.")
    if again := figures.get("drawn_again"):
        lines.append(f"The first answer did not follow its plan in {percent(again)}, and was drawn again.")
    if figures["invalid"]:
        lines.append(f"{percent(figures['invalid'])} of the answers are no trajectory; they have no distance.")
    if figures["recorded_plans"]:
        lines.append(
            f"{figures['recorded_plans']:,} questions state the <b>recorded</b> plan, because there is no predicted one; "
            "<code>--kinds plan,trajectory</code> predicts both."
        )
    if figures["recorded_collisions"]:
        lines.append(f"The recorded drive itself overlaps a box in {percent(figures['recorded_collisions'])}.")
    return lines


def figures_by_name(figures: Metrics) -> dict[str, Any]:
    """Return name -> interval, or None, of the figures that a comparison shows: those of a run, or a paired difference."""
    hits, consistency = figures["collisions"], figures["consistency"]
    if consistency and "accuracy" in consistency:
        consistency = consistency["accuracy"]["both"]
    return {
        **{f"L2 at {second} s": figures["l2"]["at"][str(second)] for second in SECONDS},
        "L2, mean to 3 s": figures["l2"]["mean"]["3"],
        **{f"collisions at {second} s": hits and hits["at"][str(second)] for second in SECONDS},
        "collisions, mean to 3 s": hits and hits["mean"]["3"],
        "consistent with the plan": consistency,
    }


def rows_of(figures: Metrics) -> list[tuple[str, Metrics]]:
    """Return (name, figures) of everything that is compared, the model first."""
    rows = [("the model", figures), *figures["baselines"].items()]
    return [*rows, ("the model, images black", figures["blackout"])] if figures["blackout"] else rows


def _table(figures: Metrics, name: str, show: Any, digits: int | None = None) -> str:
    def shown(value: Any) -> str:
        return show(value) if digits is None else show(value, digits)

    head = ["", *(f"at {second} s" for second in SECONDS), *(f"mean to {second} s" for second in SECONDS)]
    columns = [(way, str(second)) for way in ("at", "mean") for second in SECONDS]
    body = [
        [escape(who), *(html.with_bounds(row[name][way][second], shown) for way, second in columns)]
        for who, row in rows_of(figures)
        if row[name]
    ]
    return html.table(head, body)


def _largest_errors(predictions: Sequence[Prediction], futures: Mapping[str, Futures]) -> Iterator[str]:
    """Yield cards of the trajectories with the largest L2 at 3 s, at most two of a scene as long as there are others."""
    found = []
    for row in predictions:
        if row["kind"] == TRAJECTORY and "text" in row:
            truth, predicted = parse_trajectory(row["truth"]), parse_trajectory(row["text"])
            if truth is not None and predicted is not None:
                found.append((float(distances(predicted, truth)[-1]), row, truth, predicted))
    found.sort(key=lambda entry: (-entry[0], entry[1]["index"]))
    by_index = {row["index"]: (error, truth, predicted) for error, row, truth, predicted in found}
    for row in spread_over_scenes([row for _, row, _, _ in found])[:CARDS]:
        error, truth, predicted = by_index[row["index"]]
        source = "recorded" if row.get("plan_source") == RECORDED else "predicted"
        stated = f"{row['speed']:g} m/s, " if "speed" in row else ""
        note = (
            f"{stated}{row.get('command', '')}; {source} plan {row.get('plan', 'unknown')}; {row['id'] or row['index']}"
        )
        view = birds_eye_svg(truth, predicted, futures.get(row["token"]))
        yield card(f"{error:.1f} m off after 3 s", view, escape(note))
