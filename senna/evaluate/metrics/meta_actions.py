"""Meta-actions told, against true ones: as a whole, and SPEED and PATH by themselves."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from senna.evaluate.metrics.bootstrap import Interval, Scenes, interval
from senna.evaluate.metrics.classification import INVALID, Classified, classify
from senna.meta_actions import ALL_META_ACTIONS, PATHS, SPEEDS, MetaAction, parse_meta_action

Action = MetaAction | None
_CODE = {action: code for code, action in enumerate(ALL_META_ACTIONS)}
_PARTS = ("both", "speed", "path")


@dataclass(frozen=True)
class Decisions:
    """What was decided, compared with the truth."""

    parts: dict[str, Classified]  # both, speed, path

    def as_json(self) -> dict[str, Any]:
        """``D`` of metrics.json; ``both`` lists the meta-actions that occur in truth or answers only."""
        return {
            "accuracy": {name: part.accuracy for name, part in self.parts.items()},
            "macro_f1": {name: part.macro_f1 for name, part in self.parts.items()},
            "invalid": self.parts["both"].invalid,
            **{name: self.parts[name].table for name in ("speed", "path", "both")},
        }

    def gain(self, other: "Decisions") -> dict[str, dict[str, Interval]]:
        """What this has over another on the same records: differences, resampled in pairs."""
        mine, theirs = self.parts, other.parts
        return {
            "accuracy": {name: interval(mine[name].accuracies - theirs[name].accuracies) for name in _PARTS},
            "macro_f1": {name: interval(mine[name].macro_f1s - theirs[name].macro_f1s) for name in _PARTS},
        }


def decide(truth: Sequence[MetaAction], told: Sequence[Action], scenes: Scenes) -> Decisions:
    """Compare meta-actions; None is an answer that is none, wrong for SPEED and PATH as well."""
    true_codes, told_codes = codes(truth), codes(told)
    seen = sorted({*true_codes, *told_codes} - {INVALID})
    place = {INVALID: INVALID, **{code: number for number, code in enumerate(seen)}}
    invalid = np.array(told_codes) == INVALID
    true_speed, true_path = np.divmod(true_codes, len(PATHS))
    told_speed, told_path = np.divmod(told_codes, len(PATHS))
    told_speed[invalid] = told_path[invalid] = INVALID
    return Decisions(
        {
            "both": classify(
                [place[code] for code in true_codes],
                [place[code] for code in told_codes],
                [str(ALL_META_ACTIONS[code]) for code in seen],
                scenes,
            ),
            "speed": classify(true_speed, told_speed, SPEEDS, scenes),
            "path": classify(true_path, told_path, PATHS, scenes),
        }
    )


def codes(actions: Sequence[Action]) -> list[int]:
    """Places in ``ALL_META_ACTIONS``; ``INVALID`` for None."""
    return [INVALID if action is None else _CODE[action] for action in actions]


def parse_all(texts: Sequence[str]) -> list[Action]:
    """Answers, each parsed strictly."""
    return [parse_meta_action(text) for text in texts]
