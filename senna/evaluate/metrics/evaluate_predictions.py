"""From predictions to metrics.json: pure functions, plain values in, plain values out, the same for the same input.

A figure I is {"value", "low", "high"}: with its 95 % interval by scene (senna.evaluate.metrics.bootstrap), None where there is
one scene only. Decisions D are {"accuracy": {"both", "speed", "path": I}, "macro_f1": the same, "invalid": share, and for
each of the three {"labels", "classes": {NAME: precision, recall, f1, support}, "confusion"}}; a confusion's rows are the
truth, its columns the answers, one more for invalid answers where there are some.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from senna.errors import DataError, UsageError
from senna.evaluate.metrics.baselines import baselines
from senna.evaluate.metrics.bootstrap import Scenes
from senna.evaluate.metrics.calibration import calibration, outside
from senna.evaluate.metrics.meta_actions import Action, decide, parse_all
from senna.evaluate.metrics.plan_prompt import parse_situation
from senna.evaluate.metrics.published import published_scores
from senna.evaluate.metrics.text import text_metrics
from senna.meta_actions import MetaAction, parse_meta_action

Prediction = Mapping[str, Any]
ON_ITSELF = "the evaluated records themselves (favours the baselines)"


def evaluate_predictions(
    predictions: Sequence[Prediction],
    blackout: Sequence[Prediction] | None = None,
    train_plans: Sequence[Mapping[str, str]] | None = None,
    compat: str | None = None,
    run: Mapping[str, Any] | None = None,
    train_name: str = "the training records",
) -> dict[str, Any]:
    """The metrics of predictions.jsonl's lines.

    Args:
        blackout: the same with every image black.
        train_plans: {"question", "truth"} of the plans that the baselines are fitted on; without, the evaluated ones.
        compat: "original" for the published definitions too.
        run: facts to keep with the figures.
        train_name: how to call the training plans.

    Raises:
        UsageError: another compat.
        DataError: plans partly scored and partly generated, or a blackout of other records.
    """
    if compat not in (None, "original"):
        raise UsageError(f"--compat {compat}: original, or nothing")
    return {
        "records": len(predictions),
        "scenes": len({one["scene"] for one in predictions}),
        "kinds": dict(sorted(Counter(one["kind"] for one in predictions).items())),
        "run": dict(run or {}),
        "plan": plan_metrics(predictions, blackout, train_plans, compat, train_name),
        "text": text_metrics(predictions),
    }


def plan_metrics(
    predictions: Sequence[Prediction],
    blackout: Sequence[Prediction] | None = None,
    train_plans: Sequence[Mapping[str, str]] | None = None,
    compat: str | None = None,
    train_name: str = "the training records",
) -> dict[str, Any] | None:
    """``plan`` of metrics.json; None where no prediction is a plan with a true meta-action.

    A record whose truth is none is left out and counted in ``unreadable_truths``. The first of ``decisions``, sum or
    text, is the headline: the one that ``blackout``, ``published`` and ``gains`` (its lead over each baseline, resampled in
    pairs) are about.
    """
    asked = [one for one in predictions if one["kind"] == "plan"]
    plans, truth = _readable(asked)
    if not plans:
        return None
    scored = _is_scored(plans)
    scenes = Scenes([one["scene"] for one in plans])
    decisions = {name: decide(truth, told, scenes) for name, told in _told(plans, scored).items()}
    first = next(iter(decisions))
    fitted = train_plans or plans
    known, known_truth = _readable(fitted)
    if not known:
        fitted, known, known_truth = plans, plans, truth
    answers = baselines(_situations(known), known_truth, _situations(plans))
    beside = {name: decide(truth, told, scenes) for name, told in answers.items()}
    black = None if blackout is None else decide(truth, _blackout_told(blackout, plans, first), scenes)
    rivals = {**beside, **({"all images black": black} if black else {})}
    log_probs = [one["log_probs"] for one in plans] if scored else []
    return {
        "mode": "score" if scored else "generate",
        "records": len(plans),
        "scenes": scenes.count,
        "unreadable_truths": len(asked) - len(plans),
        "decisions": {name: found.as_json() for name, found in decisions.items()},
        "left_tree": sum(one.get("left_tree") is not None for one in plans) / len(plans) if scored else None,
        "outside": outside(log_probs) if scored else None,
        "baselines": {name: found.as_json() for name, found in beside.items()},
        "baselines_fitted_on": ON_ITSELF if fitted is plans else f"{train_name}, {len(known)} plans",
        "blackout": black.as_json() if black else None,
        "gains": {name: decisions[first].gain(rival) for name, rival in rivals.items()},
        "calibration": calibration(log_probs, truth) if scored else None,
        "published": published_scores([one[first] for one in plans], truth) if compat else None,
    }


def _readable(plans: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[MetaAction]]:
    """Those whose truth is a meta-action, and that."""
    pairs = [(one, action) for one in plans if (action := parse_meta_action(one["truth"])) is not None]
    return [one for one, _ in pairs], [action for _, action in pairs]


def _is_scored(plans: Sequence[Prediction]) -> bool:
    scored = [one.get("log_probs") is not None for one in plans]
    if any(scored) and not all(scored):
        odd = plans[scored.index(not scored[0])]
        raise DataError(
            f"predictions: plans are partly scored and partly generated; record {odd['index']} ({odd['id']}) differs from the "
            "first: predict all of them in one --mode"
        )
    return all(scored)


def _told(plans: Sequence[Prediction], scored: bool) -> dict[str, list[Action]]:
    """The decisions of each sort; the first is the headline."""
    names = ("sum", "greedy") if scored else ("text",)
    return {name: parse_all([one[name] for one in plans]) for name in names}


def _blackout_told(blackout: Sequence[Prediction], plans: Sequence[Prediction], name: str) -> list[Action]:
    """The headline decision about the same records with black images."""
    found = {one["index"]: one for one in blackout}
    for plan in plans:
        if name not in found.get(plan["index"], {}):
            raise DataError(
                f"predictions_blackout: record {plan['index']} ({plan['id']}) has no {name!r} there, but it has in the "
                "predictions: predict both again in one run with --blackout"
            )
    return parse_all([found[plan["index"]][name] for plan in plans])


def _situations(plans: Sequence[Mapping[str, Any]]) -> list[Any]:
    return [parse_situation(one["question"]) for one in plans]
