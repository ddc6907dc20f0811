"""The navigation command. It looks 6 s ahead into the recorded drive: whoever uses it says so."""

from senna.meta_actions import COMMAND_STEPS, STEP

_FAR, _ASIDE = 20.0, 10.0  # metres, by the published rule

SECONDS = COMMAND_STEPS * STEP
STRAIGHT = "go straight"
COMMANDS = (STRAIGHT, "turn left", "turn right", "go straight and turn left", "go straight and turn right")


def command_to(x: float, y: float) -> str:
    """The command that leads to a point 6 s ahead, x metres to the right and y forward."""
    if -_ASIDE < x < _ASIDE:
        return STRAIGHT
    turn = "turn right" if x > 0 else "turn left"
    return f"{STRAIGHT} and {turn}" if y >= _FAR else turn


def published_command_to(x: float, y: float) -> str:
    """What the published converter says of the same point: it takes x for forward and y for left."""
    return command_to(-y, x)
