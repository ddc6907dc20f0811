"""The navigation command. It is computed from the recorded trajectory 6 s ahead, so it contains information of the future."""

from senna.meta_actions import COMMAND_STEPS, STEP

_FORWARD, _LATERAL = 20.0, 10.0  # metres, from the published converter

SECONDS = COMMAND_STEPS * STEP
"""Seconds between the key frame and the point that the command leads to."""

STRAIGHT = "go straight"
COMMANDS = (STRAIGHT, "turn left", "turn right", "go straight and turn left", "go straight and turn right")


def command_to(x: float, y: float) -> str:
    """Return the command that leads to a point 6 s ahead, x metres to the right and y metres forward."""
    if -_LATERAL < x < _LATERAL:
        return STRAIGHT
    turn = "turn right" if x > 0 else "turn left"
    return f"{STRAIGHT} and {turn}" if y >= _FORWARD else turn


def published_command_to(x: float, y: float) -> str:
    """Return the command of the published converter for the same point: it takes x for forward and y for left."""
    return command_to(-y, x)
