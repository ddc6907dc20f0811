"""Predicted meta-actions against the true ones: jointly, and SPEED and PATH separately."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from senna.evaluate.metrics.bootstrap import Interval, Scenes, interval, macro_interval
from senna.evaluate.metrics.classification import INVALID, ClassificationResult, classify
from senna.meta_actions import ALL_META_ACTIONS, PATHS, SPEEDS, MetaAction, parse_meta_action

Action = MetaAction | None
_CODE = {action: code for code, action in enumerate(ALL_META_ACTIONS)}
_PARTS = ("both", "speed", "path")


@dataclass(frozen=True)
class Decisions:
    """Predicted meta-actions, compared with the ground truth. The keys of ``parts`` are both, speed and path."""

    parts: dict[str, ClassificationResult]

    def as_json(self) -> dict[str, Any]:
        """Return ``D`` of metrics.json; the labels of ``both`` are the meta-actions that occur in truth or predictions."""
        return {
            "accuracy": {name: part.accuracy for name, part in self.parts.items()},
            "macro_f1": {name: part.macro_f1 for name, part in self.parts.items()},
            "invalid": self.parts["both"].invalid,
            **{name: self.parts[name].table for name in ("speed", "path", "both")},
        }

    def gain(self, other: "Decisions") -> dict[str, dict[str, Interval]]:
        """Return self minus other on the same records, with intervals of the paired differences."""
        mine, theirs = self.parts, other.parts
        return {
            "accuracy": {name: interval(mine[name].accuracies - theirs[name].accuracies) for name in _PARTS},
            "macro_f1": {
                name: macro_interval(mine[name].macro_f1s - theirs[name].macro_f1s, mine[name].scenes, -1.0, 1.0)
                for name in _PARTS
            },
        }


def decide(truth: Sequence[MetaAction], predicted: Sequence[Action], scenes: Scenes) -> Decisions:
    """Compare predicted meta-actions with the true ones; None is an invalid answer, wrong for SPEED and PATH as well."""
    true_codes, predicted_codes = codes(truth), codes(predicted)
    occurring = sorted({*true_codes, *predicted_codes} - {INVALID})
    label_of = {INVALID: INVALID, **{code: label for label, code in enumerate(occurring)}}
    invalid = np.array(predicted_codes) == INVALID
    true_speed, true_path = np.divmod(true_codes, len(PATHS))
    predicted_speed, predicted_path = np.divmod(predicted_codes, len(PATHS))
    predicted_speed[invalid] = predicted_path[invalid] = INVALID
    return Decisions(
        {
            "both": classify(
                [label_of[code] for code in true_codes],
                [label_of[code] for code in predicted_codes],
                [str(ALL_META_ACTIONS[code]) for code in occurring],
                scenes,
            ),
            "speed": classify(true_speed, predicted_speed, SPEEDS, scenes),
            "path": classify(true_path, predicted_path, PATHS, scenes),
        }
    )


def codes(actions: Sequence[Action]) -> list[int]:
    """Return indices into ``ALL_META_ACTIONS``; ``INVALID`` for None."""
    return [INVALID if action is None else _CODE[action] for action in actions]


def parse_all(texts: Sequence[str]) -> list[Action]:
    """Parse each answer strictly: None unless it is exactly one meta-action."""
    return [parse_meta_action(text) for text in texts]
