"""From the choices of a visitor to the text of a question, with the templates that the model was trained on."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from senna.kinds import kind_named
from senna.navigation import COMMANDS
from senna.templates import Templates
from senna.views import IMAGE_TOKEN, VIEWS

OWN = "own"
KINDS = {
    **{kind.name: kind.title for name in ("plan", "description", "traffic_light", "vru") if (kind := kind_named(name))},
    OWN: "My own question",
}
"""Kind -> its title on the page. Motion questions are left out, since they need a list of objects."""

FRONT_ONLY = "Front view only"
MOST_SPEED = 40.0  # m/s
MOST_CHARACTERS = 1000  # of a visitor's own question
_REACH = "20"  # metres; the converter asks for vulnerable road users within this distance


class Refusal(Exception):
    """An input that a visitor must correct. The message is for visitors and names no path of this machine."""


@dataclass(frozen=True)
class Choices:
    """The values of the page's controls.

    Attributes:
        view: the view that a description is about.
        speed: current speed, m/s.
        front_only: whether the model gets the front view only.
    """

    kind: str
    view: str = "front"
    speed: float | None = 0.0
    command: str = COMMANDS[0]
    own: str | None = ""
    front_only: bool = False


def question_text(choices: Choices, templates: Templates) -> str:
    """Return the text of the question without the image block. Raises Refusal."""
    if choices.kind not in KINDS or choices.view not in VIEWS or choices.command not in COMMANDS:
        raise Refusal("Choose a kind of question, a view and a navigation command from the lists.")
    if choices.kind == "plan":
        return _plan(choices, templates)
    if choices.kind == "description":
        if choices.front_only and choices.view != "front":
            raise Refusal(
                f"The model would get the front view only, but the question is about the {choices.view} view. "
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
        raise Refusal("There is no question yet. Write one, or choose another kind.")
    if len(text) > MOST_CHARACTERS:
        raise Refusal(f"The question has {len(text):,} characters; the limit is {MOST_CHARACTERS:,}.")
    if IMAGE_TOKEN in text:
        raise Refusal(f"Remove {IMAGE_TOKEN} from the question. The images are added automatically.")
    return text


def views_to_show(images: Mapping[str, object | None], front_only: bool) -> tuple[str, ...]:
    """Return the views that the model gets, in the order of the prompt: all six, or the front view only.

    Raises Refusal that names the views whose image is missing (None).
    """
    wanted = ("front",) if front_only else VIEWS
    missing = [view for view in wanted if images.get(view) is None]
    if not missing:
        return wanted
    if len(missing) == len(VIEWS):
        raise Refusal("There are no images yet. Upload the six views, or choose an example.")
    named = f"The {missing[0]} view is" if len(missing) == 1 else f"The views {_listed(missing)} are"
    hint = f", or tick “{FRONT_ONLY}” to use that view only" if "front" not in missing else ""
    raise Refusal(f"{named} missing. Upload {'it' if len(missing) == 1 else 'them'}{hint}.")


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"
