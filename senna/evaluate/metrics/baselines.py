"""What can be said without looking: the most frequent plan, the most frequent for each command, and a small tree.

A model that looks must beat them. They see a question's navigation command and present speed, and the plans they are
fitted on.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from senna.evaluate.metrics.classification import majority
from senna.evaluate.metrics.meta_actions import codes
from senna.evaluate.metrics.plan_prompt import COMMANDS, Situation
from senna.meta_actions import ALL_META_ACTIONS, MetaAction

MAJORITY, BY_COMMAND, BY_SITUATION = (
    "majority class",
    "best constant per navigation command",
    "navigation command and speed",
)
TREE_DEPTH = 3


def baselines(
    known: Sequence[Situation], truth: Sequence[MetaAction], asked: Sequence[Situation]
) -> dict[str, list[MetaAction]]:
    """The answers of each baseline to ``asked``, fitted on the plans ``truth`` in the situations ``known`` (one or more).

    Ties go to the meta-action that comes first in ``ALL_META_ACTIONS``; a command never seen gets the majority's.
    """
    true_codes = np.array(codes(truth))
    most = majority(true_codes)
    by_command: dict[str | None, list[int]] = defaultdict(list)
    for situation, code in zip(known, true_codes.tolist(), strict=True):
        by_command[situation.command].append(code)
    best = {command: majority(found) for command, found in by_command.items()}
    answers = {
        MAJORITY: [most] * len(asked),
        BY_COMMAND: [best.get(situation.command, most) for situation in asked],
        BY_SITUATION: _tree(_features(known), true_codes, _features(asked)),
    }
    return {name: [ALL_META_ACTIONS[code] for code in found] for name, found in answers.items()}


def _tree(known: NDArray[np.float64], truth: NDArray[np.int64], asked: NDArray[np.float64]) -> list[int]:
    from sklearn.tree import DecisionTreeClassifier

    tree = DecisionTreeClassifier(max_depth=TREE_DEPTH, random_state=0)
    return tree.fit(known, truth).predict(asked).tolist() if len(asked) else []


def _features(situations: Sequence[Situation]) -> NDArray[np.float64]:
    """(N, 7): the command one-hot (nothing where there is none), the speed in m/s, whether it is known."""
    rows = [
        [*(float(one.command == command) for command in COMMANDS), one.speed or 0.0, float(one.speed is not None)]
        for one in situations
    ]
    return np.array(rows).reshape(len(rows), len(COMMANDS) + 2)
