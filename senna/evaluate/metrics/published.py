"""The metrics of the published evaluation code (`--compat original`), with its faults, to compare with published figures.

The rule searches an answer for the class words (exact case) anywhere in the text:

- An answer is correct if it *contains* the true SPEED and the true PATH, whatever else it contains.
- Per class: if the answer contains the class's word, it is a true positive if the answer contains *the true class's* word
  as well, else a false positive. If it does not contain the word, it is a false negative if the class is the true one.
  With the ground truth KEEP, "KEEP or STOP" is a true positive of KEEP *and of STOP* and no false positive: naming every
  class is always correct.
- F1 follows from these counts, 0 without a true positive. PATH has only STRAIGHT, LEFT_TURN and RIGHT_TURN. A lane change
  is no class, but if it is the ground truth and the answer contains it, other words count as true positives.

If every answer is one meta-action, these are the usual accuracy and F1.
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
    """Return the published metrics of answers, the unchanged texts.

    Returns:
        rule, records, correct, accuracy, several (number of answers with more than one SPEED or PATH, which the rule
        favours), classes {NAME: tp, fp, fn, precision, recall, f1} and meta_actions {"KEEP, STRAIGHT": count, correct,
        accuracy}.
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
        "classes": {name: {**count, **_measures(**count)} for name, count in counts.items()},
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
