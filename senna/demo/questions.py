"""What a visitor asks: from the page's choices to the question's text, in the words that the model was trained on."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from senna.navigation import COMMANDS
from senna.templates import Templates
from senna.views import IMAGE_TOKEN, VIEWS

KINDS = {
    "plan": "Plan, next 3 s",
    "description": "Describe a view",
    "traffic_light": "Traffic light",
    "vru": "People and two wheels",
    "own": "My own question",
}
"""Kind -> what the page calls it."""

FRONT_ONLY = "Front view only"
MOST_SPEED = 40.0  # m/s
MOST_CHARACTERS = 1000  # of a visitor's own question
_REACH = "20"  # metres, as the converter asks of vulnerable road users


class Refusal(Exception):
    """What a visitor has to mend. The message is for them: it names no path of this machine."""


@dataclass(frozen=True)
class Choices:
    """What the page's controls say.

    Attributes:
        view: that a description is about.
        speed: m/s.
        front_only: show the model the front view alone.
    """

    kind: str
    view: str = "front"
    speed: float | None = 0.0
    command: str = COMMANDS[0]
    own: str | None = ""
    front_only: bool = False


def question_text(choices: Choices, templates: Templates) -> str:
    """The question, without the image block. Raises Refusal."""
    if choices.kind not in KINDS or choices.view not in VIEWS or choices.command not in COMMANDS:
        raise Refusal("Choose a kind of question, a view and a navigation command from those that are listed.")
    if choices.kind == "plan":
        return _plan(choices, templates)
    if choices.kind == "description":
        if choices.front_only and choices.view != "front":
            raise Refusal(
                f"The model would see the front view only, and is asked about the {choices.view} view. "
                f"Ask about the front view, or untick “{FRONT_ONLY}”."
            )
        return templates["description"]["question"].format(view=choices.view)
    if choices.kind == "vru":
        return templates["vru"]["question"].format(reach=_REACH)
    if choices.kind == "traffic_light":
        return templates["traffic_light"]["question"]
    return _own((choices.own or "").strip())


def _plan(choices: Choices, templates: Templates) -> str:
    speed = choices.speed
    if not isinstance(speed, int | float) or not math.isfinite(speed) or not 0 <= speed <= MOST_SPEED:
        raise Refusal(f"The speed must be a number from 0 to {MOST_SPEED:.0f} m/s.")
    words = templates["words"]["speed"].format(speed=f"{speed:.1f}")
    return templates["plan"]["question"].format(speed=words, command=choices.command)


def _own(text: str) -> str:
    if not text:
        raise Refusal("There is no question yet: write one, or choose one of the other kinds.")
    if len(text) > MOST_CHARACTERS:
        raise Refusal(f"The question has {len(text):,} characters; it may have {MOST_CHARACTERS:,}.")
    if IMAGE_TOKEN in text:
        raise Refusal(f"Leave {IMAGE_TOKEN} out of the question: the pictures are put before it by themselves.")
    return text


def views_to_show(pictures: Mapping[str, object | None], front_only: bool) -> tuple[str, ...]:
    """The views that the model is shown, in the order of the prompt: all six, or the front alone.

    Raises Refusal that names those whose picture is missing (None).
    """
    wanted = ("front",) if front_only else VIEWS
    missing = [view for view in wanted if pictures.get(view) is None]
    if not missing:
        return wanted
    if len(missing) == len(VIEWS):
        raise Refusal("There are no pictures yet: upload the six views, or choose an example.")
    named = f"The {missing[0]} view is" if len(missing) == 1 else f"The views {_listed(missing)} are"
    hint = f", or tick “{FRONT_ONLY}” to ask about that one alone" if "front" not in missing else ""
    raise Refusal(f"{named} missing. Upload {'it' if len(missing) == 1 else 'them'}{hint}.")


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"
