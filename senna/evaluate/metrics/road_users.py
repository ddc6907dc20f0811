"""Vulnerable road users in the text of an answer, and how well an answer finds them and their positions.

Two phrasings are parsed: ours ("a pedestrian 12 m ahead and 3 m to the left") and the published one ("a pedestrian located
12 meters ahead of me and 3 meters to the left"; the second part is missing for a user straight ahead).
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
    """A person on foot or on two wheels, x metres to the right of the ego vehicle and y metres ahead."""

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
    """Return the users that an answer names, [] if it denies that there are any, None if it does neither."""
    users = [
        User(
            " ".join(name.lower().split()),
            float(lateral or 0.0) * (-1 if side.lower() == "left" else 1),
            float(forward) * (-1 if direction.lower() == "behind" else 1),
        )
        for name, forward, direction, lateral, side in _USER.findall(text)
    ]
    return users if users or _NOBODY.search(text) else None


def match(true: Sequence[User], predicted: Sequence[User]) -> list[tuple[User, User]]:
    """Return as many (true, predicted) pairs of equal names as possible, with the least sum of distances between them."""
    from scipy.optimize import linear_sum_assignment

    by_name: dict[str, tuple[list[User], list[User]]] = defaultdict(lambda: ([], []))
    for side, users in enumerate((true, predicted)):
        for user in users:
            by_name[user.name][side].append(user)
    pairs = []
    for true_users, predicted_users in by_name.values():
        if true_users and predicted_users:
            costs = [[math.hypot(a.x - b.x, a.y - b.y) for b in predicted_users] for a in true_users]
            rows, columns = linear_sum_assignment(costs)
            pairs += [(true_users[i], predicted_users[j]) for i, j in zip(rows, columns, strict=True)]
    return pairs


def score_users(truth: Sequence[list[User]], predicted: Sequence[list[User] | None], scenes: Scenes) -> dict[str, Any]:
    """Return how well road users are found in N answers; None is an answer that cannot be parsed and finds nobody.

    Returns:
        - ``found_...``: whether there is anybody at all; precision, recall and F1 are those of the class "someone";
          ``found_majority_class`` is the accuracy of always answering the more frequent class; ``found`` is the table.
        - ``users``: counts, precision, recall and F1 of the users, matched by name.
        - ``distance_error``: error of the distance from the ego vehicle, ``place_error``: error of the position, both in
          metres, means over matched users.
        - ``count_error``: difference of the number of users in the answer and in the truth, mean of absolute values.
        - ``invalid``: fraction of answers that cannot be parsed.
    """
    true_codes = [0 if users else 1 for users in truth]
    predicted_codes = [INVALID if users is None else (0 if users else 1) for users in predicted]
    found = classify(true_codes, predicted_codes, FOUND, scenes)
    answers = [users or [] for users in predicted]
    pairs = [match(true, answer) for true, answer in zip(truth, answers, strict=True)]
    names = ("matched", "true", "predicted", "distance", "place")
    sums = scenes.sums([_sums(*row) for row in zip(truth, answers, pairs, strict=True)])
    total = dict(zip(names, sums.T, strict=True))  # each (1 + R,)
    return {
        "invalid": found.invalid,
        "found_accuracy": found.accuracy,
        **_score_someone(true_codes, predicted_codes, scenes),
        "found_majority_class": float(np.mean(np.array(true_codes) == majority(true_codes))),
        "found": found.table,
        "users": {
            **{name: int(total[name][0]) for name in ("true", "predicted", "matched")},
            "precision": plain(ratio(total["matched"], total["predicted"])[0]),
            "recall": plain(ratio(total["matched"], total["true"])[0]),
            "f1": interval(ratio(2 * total["matched"], total["true"] + total["predicted"])),
        },
        "distance_error": interval(ratio(total["distance"], total["matched"])),
        "place_error": interval(ratio(total["place"], total["matched"])),
        "count_error": mean_interval(
            scenes, [abs(len(true) - len(answer)) for true, answer in zip(truth, answers, strict=True)]
        ),
    }


def _sums(true: Sequence[User], predicted: Sequence[User], pairs: Sequence[tuple[User, User]]) -> list[float]:
    """Return the numbers of matched, true and predicted users, and the sums of distance and position errors."""
    distance = sum(abs(math.hypot(a.x, a.y) - math.hypot(b.x, b.y)) for a, b in pairs)
    position = sum(math.hypot(a.x - b.x, a.y - b.y) for a, b in pairs)
    return [len(pairs), len(true), len(predicted), distance, position]


def _score_someone(truth: Sequence[int], predicted: Sequence[int], scenes: Scenes) -> dict[str, Any]:
    """Return precision, recall and F1 of the class "someone", code 0."""
    rows = [[true == code == 0, true == 0, code == 0] for true, code in zip(truth, predicted, strict=True)]
    matched, true, named = scenes.sums(rows).T
    return {
        "found_precision": interval(ratio(matched, named)),
        "found_recall": interval(ratio(matched, true)),
        "found_f1": interval(ratio(2 * matched, true + named)),
    }
