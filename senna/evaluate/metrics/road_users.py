"""Vulnerable road users in an answer's text, and how well an answer finds them: who, and where.

Read are our form ("a pedestrian 12 m ahead and 3 m to the left") and the published one ("a pedestrian located 12 meters
ahead of me and 3 meters to the left", whose second part is left out for who is straight ahead).
"""

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from senna.evaluate.metrics.bootstrap import Scenes, interval, mean_interval, plain, ratio
from senna.evaluate.metrics.classification import INVALID, classify, majority


class User(NamedTuple):
    """Somebody on foot or on two wheels: x metres to the right of the car, y ahead."""

    name: str
    x: float
    y: float


_METRES = r"(\d+(?:\.\d+)?)\s*m(?:et(?:er|re)s?)?"
_USER = re.compile(
    rf"\ban?\s+([a-z]+(?:\s+[a-z]+){{0,2}}?)\s+(?:located\s+)?{_METRES}\s+(ahead|behind)(?:\s+of\s+(?:me|the\s+car|us))?"
    rf"(?:\s*(?:,|\band\b)\s*{_METRES}\s+to\s+the\s+(left|right))?",
    re.IGNORECASE,
)
_NOBODY = re.compile(r"\b(?:no|none|nobody|not|don['’]t)\b", re.IGNORECASE)
FOUND = ("someone", "no one")


def parse_users(text: str) -> list[User] | None:
    """The users that an answer names, none where it says that there are none, None where it says neither."""
    users = [
        User(
            " ".join(name.lower().split()),
            float(aside or 0.0) * (-1 if side.lower() == "left" else 1),
            float(ahead) * (-1 if way.lower() == "behind" else 1),
        )
        for name, ahead, way, aside, side in _USER.findall(text)
    ]
    return users if users or _NOBODY.search(text) else None


def match(true: Sequence[User], told: Sequence[User]) -> list[tuple[User, User]]:
    """Pairs of users of one name, as many as there can be, such that the distances between places are least in all."""
    from scipy.optimize import linear_sum_assignment

    by_name: dict[str, tuple[list[User], list[User]]] = defaultdict(lambda: ([], []))
    for side, users in enumerate((true, told)):
        for user in users:
            by_name[user.name][side].append(user)
    pairs = []
    for ours, theirs in by_name.values():
        if ours and theirs:
            costs = [[math.hypot(a.x - b.x, a.y - b.y) for b in theirs] for a in ours]
            pairs += [(ours[i], theirs[j]) for i, j in zip(*linear_sum_assignment(costs), strict=True)]
    return pairs


def score_users(truth: Sequence[list[User]], told: Sequence[list[User] | None], scenes: Scenes) -> dict[str, Any]:
    """How well road users are found in N answers; None is an answer that cannot be read, which finds nobody.

    - ``found_...``: whether somebody is there at all; precision, recall and F1 are of "someone"; ``majority_class`` is the
      accuracy of always giving the more frequent of the two.
    - ``users``: those named, matched by name; ``distance_error`` is how far off their distance from the car is, and
      ``place_error`` how far off their place, both in metres, means over matched users.
    - ``count_error``: how many users too many or too few an answer names, the mean over answers.
    """
    true_codes = [0 if users else 1 for users in truth]
    told_codes = [INVALID if users is None else (0 if users else 1) for users in told]
    found = classify(true_codes, told_codes, FOUND, scenes)
    pairs = [match(true, answer or []) for true, answer in zip(truth, told, strict=True)]
    names = ("right", "true", "told", "distance", "place")
    sums = scenes.sums([_sums(*row) for row in zip(truth, told, pairs, strict=True)])
    total = dict(zip(names, sums.T, strict=True))  # each (1 + R,)
    return {
        "invalid": found.invalid,
        "found_accuracy": found.accuracy,
        **_someone(true_codes, told_codes, scenes),
        "found_majority_class": float(np.mean(np.array(true_codes) == majority(true_codes))),
        "found": found.table,
        "users": {
            **{name: int(total[name][0]) for name in ("true", "told")},
            "matched": int(total["right"][0]),
            "precision": plain(ratio(total["right"], total["told"])[0]),
            "recall": plain(ratio(total["right"], total["true"])[0]),
            "f1": interval(ratio(2 * total["right"], total["true"] + total["told"])),
        },
        "distance_error": interval(ratio(total["distance"], total["right"])),
        "place_error": interval(ratio(total["place"], total["right"])),
        "count_error": mean_interval(
            scenes, [abs(len(true) - len(answer or [])) for true, answer in zip(truth, told, strict=True)]
        ),
    }


def _sums(true: Sequence[User], told: Sequence[User] | None, pairs: Sequence[tuple[User, User]]) -> list[float]:
    distance = sum(abs(math.hypot(a.x, a.y) - math.hypot(b.x, b.y)) for a, b in pairs)
    place = sum(math.hypot(a.x - b.x, a.y - b.y) for a, b in pairs)
    return [len(pairs), len(true), len(told or []), distance, place]


def _someone(truth: Sequence[int], told: Sequence[int], scenes: Scenes) -> dict[str, Any]:
    """Precision, recall and F1 of "someone"."""
    rows = [[t == a == 0, t == 0, a == 0] for t, a in zip(truth, told, strict=True)]
    right, true, said = scenes.sums(rows).T
    return {
        "found_precision": interval(ratio(right, said)),
        "found_recall": interval(ratio(right, true)),
        "found_f1": interval(ratio(2 * right, true + said)),
    }
