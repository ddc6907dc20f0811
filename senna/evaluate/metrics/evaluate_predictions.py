"""The contents of metrics.json, computed from predictions by pure functions.

A figure I is {"value", "low", "high"}: the value with its 95 % interval by scene (senna.evaluate.metrics.bootstrap); the
bounds are None with a single scene, and those of macro F1 are rough with less than 50. Decisions D are {"accuracy":
{"both", "speed", "path": I}, "macro_f1": the same, "invalid": fraction, and for both, speed and path {"labels", "classes":
{NAME: precision, recall, f1, support}, "confusion"}}. The rows of a confusion matrix are the ground truth, its columns the
answers, with a last column for invalid answers if there are any.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from senna.errors import DataError, UsageError
from senna.evaluate.decisions import DEFAULT_RULES, FIELDS, Rules
from senna.evaluate.metrics.baselines import baselines
from senna.evaluate.metrics.bootstrap import Scenes
from senna.evaluate.metrics.calibration import calibration, outside
from senna.evaluate.metrics.meta_actions import Action, decide, parse_all
from senna.evaluate.metrics.plan_prompt import Situation, situation_of
from senna.evaluate.metrics.published import published_scores
from senna.evaluate.metrics.text import text_metrics
from senna.kinds import PLAN
from senna.meta_actions import MetaAction, parse_meta_action

Row = Mapping[str, Any]
"""A prediction, or a training plan {"question", "truth", "command"?, "speed"?}."""

ON_ITSELF = "the evaluated records themselves (favours the baselines)"


def evaluate_predictions(
    predictions: Sequence[Row],
    blackout: Sequence[Row] | None = None,
    train_plans: Sequence[Row] | None = None,
    compat: str | None = None,
    run: Mapping[str, Any] | None = None,
    train_name: str = "the training records",
    rules: Rules = DEFAULT_RULES,
) -> dict[str, Any]:
    """Compute metrics.json from the lines of predictions.jsonl.

    Args:
        predictions: `senna.evaluate.predictions.Prediction` without ``error``.
        blackout: predictions of the same records with black images.
        train_plans: the plans that the baselines are fitted on; default: the evaluated plans.
        compat: "original" for the published metrics as well.
        run: facts to store beside the figures.
        train_name: the name of the training plans in ``baselines_fitted_on``.
        rules: the decision rules.

    Raises:
        UsageError: ``compat`` is unknown.
        DataError: some plans are scored and others generated, or a blackout prediction is missing.
    """
    if compat not in (None, "original"):
        raise UsageError(f"--compat {compat} is unknown", remedy="use --compat original, or leave it out")
    return {
        "records": len(predictions),
        "scenes": len({row["scene"] for row in predictions}),
        "kinds": dict(sorted(Counter(row["kind"] for row in predictions).items())),
        "run": dict(run or {}),
        "plan": plan_metrics(predictions, blackout, train_plans, compat, train_name, rules),
        "text": text_metrics(predictions),
    }


def plan_metrics(
    predictions: Sequence[Row],
    blackout: Sequence[Row] | None = None,
    train_plans: Sequence[Row] | None = None,
    compat: str | None = None,
    train_name: str = "the training records",
    rules: Rules = DEFAULT_RULES,
) -> dict[str, Any] | None:
    """Return ``plan`` of metrics.json; None if no prediction is a plan whose ground truth is a meta-action.

    Plans with another ground truth are left out and counted in ``unreadable_truths``. ``headline`` names one of ``decisions``:
    ``blackout``, ``published`` and ``gains`` (its paired differences to each baseline) refer to it.
    """
    all_plans = [row for row in rules.decide(predictions) if row["kind"] == PLAN]
    plans, truth = _with_readable_truth(all_plans)
    if not plans:
        return None
    scored = _is_scored(plans)
    scenes = Scenes([row["scene"] for row in plans])
    decisions = {name: decide(truth, actions, scenes) for name, actions in _predicted(plans, scored).items()}
    headline = FIELDS[rules.headline] if scored else "text"
    fitted = train_plans or plans
    train, train_truth = _with_readable_truth(fitted)
    if not train:
        fitted, train, train_truth = plans, plans, truth
    answers = baselines(_situations(train), train_truth, _situations(plans))
    compared = {name: decide(truth, actions, scenes) for name, actions in answers.items()}
    black = (
        None
        if blackout is None
        else decide(truth, _predicted_blackout(rules.decide(blackout), plans, headline), scenes)
    )
    against = {**compared, **({"all images black": black} if black else {})}
    log_probs = [row["log_probs"] for row in plans] if scored else []
    corrected = rules.calibration if scored else None
    return {
        "mode": "score" if scored else "generate",
        "records": len(plans),
        "scenes": scenes.count,
        "unreadable_truths": len(all_plans) - len(plans),
        "decisions": {name: found.as_json() for name, found in decisions.items()},
        "left_tree": sum(row.get("left_tree") is not None for row in plans) / len(plans) if scored else None,
        "outside": outside(log_probs) if scored else None,
        "baselines": {name: found.as_json() for name, found in compared.items()},
        "baselines_fitted_on": ON_ITSELF if fitted is plans else f"{train_name}, {len(train)} plans",
        "blackout": black.as_json() if black else None,
        "gains": {name: decisions[headline].gain(found) for name, found in against.items()},
        "calibration": calibration(log_probs, truth) if scored else None,
        "calibrated": calibration(corrected.calibrated(log_probs), truth) if corrected else None,
        "headline": headline,
        "correction": corrected.as_correction() if corrected else None,
        "published": published_scores([row[headline] for row in plans], truth) if compat else None,
    }


def _with_readable_truth(plans: Sequence[Row]) -> tuple[list[Row], list[MetaAction]]:
    """Return the plans whose ground truth is a meta-action, and these meta-actions."""
    pairs = [(plan, action) for plan in plans if (action := parse_meta_action(plan["truth"])) is not None]
    return [plan for plan, _ in pairs], [action for _, action in pairs]


def _is_scored(plans: Sequence[Row]) -> bool:
    scored = [plan.get("log_probs") is not None for plan in plans]
    if any(scored) and not all(scored):
        odd = plans[scored.index(not scored[0])]
        raise DataError(
            "some plans are scored and others generated; this one differs from the first",
            file="predictions",
            record=f"{odd['index']} ({odd['id']})",
            remedy="predict all of them in one --mode",
        )
    return all(scored)


def _predicted(plans: Sequence[Row], scored: bool) -> dict[str, list[Action]]:
    """Return the name of each decision rule -> predicted meta-actions."""
    names = [name for name in FIELDS.values() if name in plans[0]] if scored else ["text"]
    return {name: parse_all([plan[name] for plan in plans]) for name in names}


def _predicted_blackout(blackout: Sequence[Row], plans: Sequence[Row], name: str) -> list[Action]:
    """Return the headline decisions for the same records with black images."""
    found = {row["index"]: row for row in blackout}
    for plan in plans:
        if name not in found.get(plan["index"], {}):
            raise DataError(
                f"there is no {name!r}, although the predictions with images have it",
                file="predictions_blackout",
                record=f"{plan['index']} ({plan['id']})",
                remedy="predict both again in one run with --blackout",
            )
    return parse_all([found[plan["index"]][name] for plan in plans])


def _situations(plans: Sequence[Row]) -> list[Situation]:
    return [situation_of(plan, plan["question"]) for plan in plans]
