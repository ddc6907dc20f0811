"""The meta-action, what a plan comes down to: one SPEED of four and one PATH of five, under the names that weights expect."""

import re
from typing import NamedTuple

SPEEDS = ("KEEP", "ACCELERATE", "DECELERATE", "STOP")
PATHS = ("STRAIGHT", "RIGHT_TURN", "RIGHT_CHANGE", "LEFT_TURN", "LEFT_CHANGE")


class MetaAction(NamedTuple):
    """A plan. ``str()`` is how an answer writes it: ``KEEP, STRAIGHT``."""

    speed: str
    path: str

    def __str__(self) -> str:
        return f"{self.speed}, {self.path}"


ALL_META_ACTIONS = tuple(MetaAction(speed, path) for speed in SPEEDS for path in PATHS)
"""All twenty."""

_FORM = re.compile(rf"\s*({'|'.join(SPEEDS)})\s*,\s*({'|'.join(PATHS)})\s*\.?\s*", re.IGNORECASE)


def parse_meta_action(text: str) -> MetaAction | None:
    """The meta-action that an answer is; None where it is anything else, one that names two speeds for example."""
    found = _FORM.fullmatch(text)
    return MetaAction(found[1].upper(), found[2].upper()) if found else None
