"""The published evaluation's own counts (`--compat original`), faults included, for comparing with published numbers.

Facts of the rule, which searches an answer for the class words (exact case) wherever they stand:

- an answer is right where it *contains* the true SPEED and the true PATH, whatever else it says;
- for each class: if the answer contains its word, that is a true positive where the answer contains *the true class's*
  word too, else a false positive. If it does not contain its word, it is a false negative where the class is the true
  one. So "KEEP or STOP", the truth being KEEP, is a true positive of KEEP *and of STOP*, and no false positive at all:
  naming every class is right always;
- F1 from these counts, 0 where nothing was found; of PATH only STRAIGHT, LEFT_TURN and RIGHT_TURN. A lane change is no
  class of its own, but where it is the truth and is named, other words beside it count as true positives.

Where every answer is one meta-action, these are the usual accuracy and F1.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from senna.meta_actions import ALL_META_ACTIONS, PATHS, SPEEDS, MetaAction

PUBLISHED_PATHS = ("STRAIGHT", "LEFT_TURN", "RIGHT_TURN")

RULE = (
    "Class words are searched for anywhere in the answer. An answer is right where the true SPEED and the true PATH occur in "
    "it. A class whose word occurs counts as a true positive where the true word occurs as well, else as a false positive; "
    "a false negative where it is true and does not occur. PATH has three classes."
)


def published_scores(answers: Sequence[str], truth: Sequence[MetaAction]) -> dict[str, Any]:
    """The published counts of answers, which are texts as they stand.

    Returns rule, records, correct, accuracy, several (answers with more than one SPEED or PATH, to which the rule is
    kind), classes {NAME: tp, fp, fn, precision, recall, f1} and meta_actions {"KEEP, STRAIGHT": count, correct, accuracy}.
    """
    hits: Counter[MetaAction] = Counter()
    counts = {name: Counter(tp=0, fp=0, fn=0) for name in (*SPEEDS, *PUBLISHED_PATHS)}
    several = 0
    for answer, true in zip(answers, truth, strict=True):
        for names, word in ((SPEEDS, true.speed), (PUBLISHED_PATHS, true.path)):
            for name in names:
                if outcome := _outcome(name, word, answer):
                    counts[name][outcome] += 1
        hits[true] += true.speed in answer and true.path in answer
        several += any(sum(name in answer for name in names) > 1 for names in (SPEEDS, PATHS))
    totals = Counter(truth)
    return {
        "rule": RULE,
        "records": len(truth),
        "correct": hits.total(),
        "accuracy": hits.total() / len(truth) if truth else None,
        "several": several,
        "classes": {name: {**found, **_measures(**found)} for name, found in counts.items()},
        "meta_actions": {
            str(action): {
                "count": totals[action],
                "correct": hits[action],
                "accuracy": hits[action] / totals[action],
            }
            for action in ALL_META_ACTIONS
            if totals[action]
        },
    }


def _outcome(name: str, true: str, answer: str) -> str | None:
    if name in answer:
        return "tp" if true in answer else "fp"
    return "fn" if name == true else None


def _measures(tp: int, fp: int, fn: int) -> dict[str, float]:
    precision = tp / (tp + fp) if tp else 0.0
    recall = tp / (tp + fn) if tp else 0.0
    f1 = 2 * precision * recall / (precision + recall) if tp else 0.0
    return {"precision": precision, "recall": recall, "f1": f1}
