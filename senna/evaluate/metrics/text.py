"""How good answers to the other kinds of questions are: traffic lights, road users, motion, descriptions, explanations.

Each takes (truth, answer) texts of N records. A truth that cannot be read (another file of prompts, say) leaves its
record out, which ``unreadable_truths`` counts. Figures {"value", "low", "high"} have bounds by scene.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from senna.evaluate.metrics.bootstrap import Scenes, mean_interval
from senna.evaluate.metrics.captions import score_captions
from senna.evaluate.metrics.classification import INVALID, classify, majority
from senna.evaluate.metrics.meta_actions import Action, codes, decide
from senna.evaluate.metrics.road_users import parse_users, score_users
from senna.meta_actions import ALL_META_ACTIONS, parse_meta_action

LIGHTS = ("Red", "Yellow", "Green", "None")
_LIGHT = re.compile(rf"\W*({'|'.join(LIGHTS)})\W*", re.IGNORECASE)
_OBJECT = re.compile(r"\s*object\s+(\d+)\s*:(.*)", re.IGNORECASE)

Parse = Callable[[str], Any]
Score = Callable[[Sequence[Any], Sequence[Any], Scenes], dict[str, Any]]


def text_metrics(predictions: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """``text`` of metrics.json: the figures of each kind that occurs among predictions with a text, kind by kind."""
    found = {}
    for kind, (parse, score) in KINDS.items():
        answers = [one for one in predictions if one["kind"] == kind and "text" in one]
        if answers:
            found[kind] = _score_kind(answers, parse, score)
    return found


def _score_kind(predictions: Sequence[Mapping[str, Any]], parse: Parse, score: Score) -> dict[str, Any]:
    truth = [parse(one["truth"]) for one in predictions]
    readable = [one for one, true in zip(predictions, truth, strict=True) if true is not None]
    scenes = Scenes([one["scene"] for one in readable])
    about = {
        "records": len(readable),
        "scenes": scenes.count,
        "unreadable_truths": len(predictions) - len(readable),
    }
    if not readable:
        return {**about, "skipped": "no recorded answer has a form that can be read"}
    told = [parse(one["text"]) for one in readable]
    return {**about, **score([true for true in truth if true is not None], told, scenes)}


def parse_light(text: str) -> int | None:
    """The place in ``LIGHTS`` of a one-word answer; None where it is anything else."""
    found = _LIGHT.fullmatch(text)
    return LIGHTS.index(found[1].capitalize()) if found else None


def score_lights(truth: Sequence[int], told: Sequence[int | None], scenes: Scenes) -> dict[str, Any]:
    """Accuracy, macro F1 over the lights that occur, ``lights``: each; ``majority_class`` always gives the most frequent."""
    found = classify(truth, [INVALID if light is None else light for light in told], LIGHTS, scenes)
    always = classify(truth, [majority(truth)] * len(truth), LIGHTS, scenes)
    return {
        "accuracy": found.accuracy,
        "macro_f1": found.macro_f1,
        "invalid": found.invalid,
        "majority_class": {"accuracy": always.accuracy, "macro_f1": always.macro_f1},
        "lights": found.table,
    }


def parse_motion(text: str) -> dict[int, Action] | None:
    """Number -> meta-action of each line "Object 3: KEEP, STRAIGHT"; None where there is no such line.

    An object is None where its line says something else, or where it has two lines.
    """
    found = [line for line in map(_OBJECT.fullmatch, text.splitlines()) if line]
    times = Counter(int(line[1]) for line in found)
    objects = {int(line[1]): parse_meta_action(line[2]) for line in found}
    return {number: action if times[number] == 1 else None for number, action in objects.items()} or None


def score_motion(
    truth: Sequence[dict[int, Action]], told: Sequence[dict[int, Action] | None], scenes: Scenes
) -> dict[str, Any]:
    """What each object does, matched by number; an object left out is invalid, so wrong.

    - ``accuracy``, of SPEED and PATH together, and macro F1 of each, over objects; ``decisions`` has all figures, in the
      form of a plan's; ``majority_class`` always gives the most frequent meta-action.
    - ``objects``; ``missing``, true ones left out; ``surplus``, numbers that the truth does not have.
    - ``all_right``: share of answers that are right about every object and name no other.
    """
    places, true_actions, actions = [], [], []
    for place, (true, answer) in enumerate(zip(truth, told, strict=True)):
        for number, action in true.items():
            if action is not None:
                places.append(place)
                true_actions.append(action)
                actions.append((answer or {}).get(number))
    if not places:
        return {"skipped": "no recorded object has a meta-action"}
    by_object = scenes.select(places)
    most = ALL_META_ACTIONS[majority(codes(true_actions))]
    found = decide(true_actions, actions, by_object).as_json()
    always = decide(true_actions, [most] * len(places), by_object).as_json()
    return {
        "objects": len(places),
        "missing": sum(len(true.keys() - (answer or {}).keys()) for true, answer in zip(truth, told, strict=True)),
        "surplus": sum(len((answer or {}).keys() - true.keys()) for true, answer in zip(truth, told, strict=True)),
        "invalid": float(np.mean([answer is None for answer in told])),
        "all_right": mean_interval(scenes, [true == answer for true, answer in zip(truth, told, strict=True)]),
        "accuracy": found["accuracy"]["both"],
        "speed_macro_f1": found["macro_f1"]["speed"],
        "path_macro_f1": found["macro_f1"]["path"],
        "majority_class": {name: always[name] for name in ("accuracy", "macro_f1")},
        "decisions": found,
    }


def _text(text: str) -> str | None:
    return text.strip() or None


KINDS: dict[str, tuple[Parse, Score]] = {
    "traffic_light": (parse_light, score_lights),
    "vru": (parse_users, score_users),
    "motion": (parse_motion, score_motion),
    "description": (_text, lambda truth, told, scenes: score_captions(truth, [text or "" for text in told], scenes)),
    "explanation": (_text, lambda truth, told, scenes: score_captions(truth, [text or "" for text in told], scenes)),
}
