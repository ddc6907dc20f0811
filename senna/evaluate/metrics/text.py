"""Metrics of the question kinds that are answered with text: traffic lights, road users, motion, descriptions, explanations.

A record whose ground truth cannot be parsed (one of another file of templates, for example) is left out and counted in
``unreadable_truths``. Figures {"value", "low", "high"} have bounds by scene.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from senna.evaluate.metrics.bootstrap import Scenes, mean_interval
from senna.evaluate.metrics.classification import INVALID, classify, majority
from senna.evaluate.metrics.meta_actions import Action, codes, decide
from senna.kinds import TRAFFIC_LIGHTS, QuestionKind, Reference, all_kinds, resolve
from senna.meta_actions import ALL_META_ACTIONS


def text_metrics(predictions: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return ``text`` of metrics.json: kind -> figures, for each registered kind with a scorer and with generated answers."""
    figures = {}
    for kind in all_kinds():
        answered = [row for row in predictions if row["kind"] == kind.name and "text" in row]
        if answered and kind.score is not None:
            figures[kind.name] = _score_kind(answered, kind, kind.score)
    return figures


def _score_kind(predictions: Sequence[Mapping[str, Any]], kind: QuestionKind, score: Reference) -> dict[str, Any]:
    parse = resolve(kind.parse)
    parsed = [(row, parse(row["truth"])) for row in predictions]
    readable = [(row, true) for row, true in parsed if true is not None]
    scenes = Scenes([row["scene"] for row, _ in readable])
    counts = {
        "records": len(readable),
        "scenes": scenes.count,
        "unreadable_truths": len(predictions) - len(readable),
    }
    if not readable:
        return {**counts, "skipped": "no recorded answer has a form that can be read"}
    predicted = [parse(row["text"]) for row, _ in readable]
    return {**counts, **resolve(score)([true for _, true in readable], predicted, scenes)}


def score_traffic_lights(truth: Sequence[int], predicted: Sequence[int | None], scenes: Scenes) -> dict[str, Any]:
    """Return the figures of N traffic-light answers, indices into ``TRAFFIC_LIGHTS``; None is an invalid answer.

    Returns:
        ``accuracy``; ``macro_f1`` over the lights that occur; ``invalid``; ``majority_class``, the figures of always
        answering the most frequent light; ``lights``, the figures of each.
    """
    found = classify(truth, [INVALID if light is None else light for light in predicted], TRAFFIC_LIGHTS, scenes)
    constant = classify(truth, [majority(truth)] * len(truth), TRAFFIC_LIGHTS, scenes)
    return {
        "accuracy": found.accuracy,
        "macro_f1": found.macro_f1,
        "invalid": found.invalid,
        "majority_class": {"accuracy": constant.accuracy, "macro_f1": constant.macro_f1},
        "lights": found.table,
    }


def score_motion(
    truth: Sequence[dict[int, Action]], predicted: Sequence[dict[int, Action] | None], scenes: Scenes
) -> dict[str, Any]:
    """Return the figures of N motion answers. Objects are matched by number; a missing object counts as invalid.

    Args:
        truth, predicted: object number -> meta-action, None for a line without one; ``predicted`` has None for an answer
            without any valid line.

    Returns:
        - ``accuracy``, of SPEED and PATH jointly, ``speed_macro_f1`` and ``path_macro_f1``, over objects; ``decisions``
          has all figures, in the form of a plan's; ``majority_class`` always predicts the most frequent meta-action.
        - ``objects``; ``missing``, true objects that are left out; ``surplus``, numbers that the ground truth lacks;
          ``invalid``, the fraction of answers without a valid line.
        - ``all_right``: the fraction of answers that are correct for every object and name no other.
    """
    record_of, true_actions, actions = [], [], []
    for record, (true, answer) in enumerate(zip(truth, predicted, strict=True)):
        for number, action in true.items():
            if action is not None:
                record_of.append(record)
                true_actions.append(action)
                actions.append((answer or {}).get(number))
    if not record_of:
        return {"skipped": "no recorded object has a meta-action"}
    by_object = scenes.select(record_of)
    most_frequent = ALL_META_ACTIONS[majority(codes(true_actions))]
    found = decide(true_actions, actions, by_object).as_json()
    constant = decide(true_actions, [most_frequent] * len(record_of), by_object).as_json()
    pairs = list(zip(truth, predicted, strict=True))
    return {
        "objects": len(record_of),
        "missing": sum(len(true.keys() - (answer or {}).keys()) for true, answer in pairs),
        "surplus": sum(len((answer or {}).keys() - true.keys()) for true, answer in pairs),
        "invalid": float(np.mean([answer is None for answer in predicted])),
        "all_right": mean_interval(scenes, [true == answer for true, answer in pairs]),
        "accuracy": found["accuracy"]["both"],
        "speed_macro_f1": found["macro_f1"]["speed"],
        "path_macro_f1": found["macro_f1"]["path"],
        "majority_class": {name: constant[name] for name in ("accuracy", "macro_f1")},
        "decisions": found,
    }
