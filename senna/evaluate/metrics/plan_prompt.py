"""The situation that a plan's question states: the navigation command and the present speed.

The baselines see these two facts and nothing else. Our own records have them in the fields ``command`` and ``speed``. Other
records state them in the question's text, from which they are read: "Your current speed is 3 m/s, the navigation command is
'turn right'" (the published phrasing), "The car drives at 3.1 m/s and its route says: turn right." and the like.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from senna.navigation import COMMANDS


class Situation(NamedTuple):
    """The navigation command, one of ``senna.navigation.COMMANDS``, and the speed in m/s; None if unknown."""

    command: str | None
    speed: float | None


# RIGHT_TURN, LEFT_TURN and STRAIGHT, which a question lists as answers, must not match.
_COMMAND = re.compile(r"\bgo\s+straight(?:\s+and\s+turn\s+(?:left|right))?\b|\bturn\s+(?:left|right)\b", re.IGNORECASE)
_COMMAND_CUE = re.compile(r"\b(?:route|navigation|command)\b", re.IGNORECASE)
_UNIT = r"(?:(?P<ms>m\s?/\s?s\b|met(?:er|re)s?\s+(?:per|a)\s+second)|km\s?/\s?h\b|kph\b|kmh\b)"
_SPEED = re.compile(rf"(?<![\w.,-])(?P<value>\d+(?:[.,]\d+)?)\s*{_UNIT}", re.IGNORECASE)
_SPEED_CUE = re.compile(r"\b(?:speed|velocity|driv(?:es|ing)|moving)\b", re.IGNORECASE)
_CUE_REACH = 60  # characters between a cue and the fact that it announces


def situation_of(fields: Mapping[str, Any], question: str) -> Situation:
    """Return ``command`` and ``speed`` of a record or a prediction; without ``command``, read both from its question.

    A record with a command and without a speed has an unknown speed. The speed is rounded to 0.1 m/s, as in our questions.
    """
    command, speed = fields.get("command"), fields.get("speed")
    if command not in COMMANDS:
        return parse_situation(question)
    return Situation(command, round(float(speed), 1) if isinstance(speed, int | float) else None)


def parse_situation(question: str) -> Situation:
    """Return the situation that the text of a plan's question states.

    The first value after a cue ("route", "command", "speed", "drives") counts; without a cue, the value counts if it is the
    only one in the text. km/h are converted to m/s.
    """
    command = _find(_COMMAND, _COMMAND_CUE, question)
    speed = _find(_SPEED, _SPEED_CUE, question)
    return Situation(None if command is None else " ".join(command[0].lower().split()), _metres_per_second(speed))


def _find(pattern: re.Pattern[str], cue: re.Pattern[str], text: str) -> re.Match[str] | None:
    for announced in cue.finditer(text):
        found = pattern.search(text, announced.end())
        if found and found.start() - announced.end() <= _CUE_REACH:
            return found
    matches = list(pattern.finditer(text))
    return matches[0] if len({" ".join(match[0].lower().split()) for match in matches}) == 1 else None


def _metres_per_second(found: re.Match[str] | None) -> float | None:
    if found is None:
        return None
    value = float(found["value"].replace(",", "."))
    return value if found["ms"] else value / 3.6
