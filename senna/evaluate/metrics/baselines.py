"""Baselines that see no image: the most frequent plan, the most frequent plan per command, and a small decision tree.

A model that uses its images must beat them. They see a question's navigation command and the present speed, and the plans
on which they are fitted.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from senna.evaluate.metrics.classification import majority
from senna.evaluate.metrics.meta_actions import codes
from senna.evaluate.metrics.plan_prompt import Situation
from senna.meta_actions import ALL_META_ACTIONS, MetaAction
from senna.navigation import COMMANDS

MAJORITY, BY_COMMAND, BY_SITUATION = (
    "majority class",
    "best constant per navigation command",
    "navigation command and speed",
)
TREE_DEPTH = 3


def baselines(
    train_situations: Sequence[Situation], train_truth: Sequence[MetaAction], situations: Sequence[Situation]
) -> dict[str, list[MetaAction]]:
    """Return the predictions of each baseline for ``situations``.

    Ties go to the meta-action that comes first in ``ALL_META_ACTIONS``. A command without training plans gets the majority
    class.

    Args:
        train_situations: situations of the plans that the baselines are fitted on; one or more.
        train_truth: the true plans in these situations.
    """
    train_codes = np.array(codes(train_truth))
    most_frequent = majority(train_codes)
    codes_by_command: dict[str | None, list[int]] = defaultdict(list)
    for situation, code in zip(train_situations, train_codes.tolist(), strict=True):
        codes_by_command[situation.command].append(code)
    best = {command: majority(found) for command, found in codes_by_command.items()}
    predicted = {
        MAJORITY: [most_frequent] * len(situations),
        BY_COMMAND: [best.get(situation.command, most_frequent) for situation in situations],
    }
    chosen = {name: [ALL_META_ACTIONS[code] for code in found] for name, found in predicted.items()}
    return {**chosen, BY_SITUATION: fit_tree(train_situations, train_truth)(situations)}


def fit_tree(
    train_situations: Sequence[Situation], train_truth: Sequence[MetaAction]
) -> Callable[[Sequence[Situation]], list[MetaAction]]:
    """Return the decision tree on navigation command and speed as a function: situations -> their plans.

    Args:
        train_situations, train_truth: as for `baselines`.
    """
    from sklearn.tree import DecisionTreeClassifier

    tree = DecisionTreeClassifier(max_depth=TREE_DEPTH, random_state=0)
    tree.fit(_features(train_situations), codes(train_truth))

    def predict(situations: Sequence[Situation]) -> list[MetaAction]:
        found = tree.predict(_features(situations)).tolist() if situations else []
        return [ALL_META_ACTIONS[code] for code in found]

    return predict


def _features(situations: Sequence[Situation]) -> NDArray[np.float64]:
    """Return (N, 7): the command one-hot (all zeros if unknown), the speed in m/s, and whether the speed is known."""
    rows = [
        [
            *(float(situation.command == command) for command in COMMANDS),
            situation.speed or 0.0,
            float(situation.speed is not None),
        ]
        for situation in situations
    ]
    return np.array(rows).reshape(len(rows), len(COMMANDS) + 2)
