"""What a plan's question says of the situation: the route's command and the present speed, read back from its text.

The baselines see these two facts and nothing else. Ours ("The car drives at 3.1 m/s and its route says: turn right."),
the published phrasing ("Your current speed is 3 m/s, the navigation command is 'turn right'") and their like are read.
"""

import re
from typing import NamedTuple

COMMANDS = ("go straight", "turn left", "turn right", "go straight and turn left", "go straight and turn right")


class Situation(NamedTuple):
    """``command`` is one of ``COMMANDS``; ``speed`` in m/s. None where the question does not say it."""

    command: str | None
    speed: float | None


# RIGHT_TURN, LEFT_TURN and STRAIGHT, which a question lists as answers, do not match.
_COMMAND = re.compile(r"\bgo\s+straight(?:\s+and\s+turn\s+(?:left|right))?\b|\bturn\s+(?:left|right)\b", re.IGNORECASE)
_COMMAND_CUE = re.compile(r"\b(?:route|navigation|command)\b", re.IGNORECASE)
_UNIT = r"(?:(?P<ms>m\s?/\s?s\b|met(?:er|re)s?\s+(?:per|a)\s+second)|km\s?/\s?h\b|kph\b|kmh\b)"
_SPEED = re.compile(rf"(?<![\w.,-])(?P<value>\d+(?:[.,]\d+)?)\s*{_UNIT}", re.IGNORECASE)
_SPEED_CUE = re.compile(r"\b(?:speed|velocity|driv(?:es|ing)|moving)\b", re.IGNORECASE)
_CUE_REACH = 60  # characters from a cue to what it announces


def parse_situation(question: str) -> Situation:
    """The situation in a plan's question.

    What follows a cue ("route", "command", "speed", "drives") counts; without one, what the text says as long as it
    says only one thing. Kilometres an hour become m/s.
    """
    command = _announced(_COMMAND, _COMMAND_CUE, question)
    speed = _announced(_SPEED, _SPEED_CUE, question)
    return Situation(None if command is None else " ".join(command[0].lower().split()), _metres_a_second(speed))


def _announced(what: re.Pattern[str], cue: re.Pattern[str], text: str) -> re.Match[str] | None:
    for announced in cue.finditer(text):
        found = what.search(text, announced.end())
        if found and found.start() - announced.end() <= _CUE_REACH:
            return found
    every = list(what.finditer(text))
    return every[0] if every and len({" ".join(found[0].lower().split()) for found in every}) == 1 else None


def _metres_a_second(found: re.Match[str] | None) -> float | None:
    if found is None:
        return None
    value = float(found["value"].replace(",", "."))
    return value if found["ms"] else value / 3.6
