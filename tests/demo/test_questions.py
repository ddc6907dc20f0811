"""From the choices on the page to the question for the model, and the messages where something is missing."""

import pytest

from senna.convert.questions import questions_of
from senna.demo.questions import KINDS, MOST_CHARACTERS, Choices, Refusal, question_text, views_to_show
from senna.evaluate.metrics.plan_prompt import parse_situation
from senna.templates import load_templates
from senna.views import VIEWS
from tests.helpers.converter_frames import frame

TEMPLATES = load_templates()
ALL = dict.fromkeys(VIEWS, "image.jpg")


def test_the_questions_equal_those_of_the_converter():
    converted = frame()
    asked = {(question.kind, question.view): question.text for question in questions_of(converted, TEMPLATES)}
    choices = Choices("plan", speed=converted.speed, command=converted.command)
    assert question_text(choices, TEMPLATES) == asked["plan", "front"]
    for kind in ("vru", "traffic_light"):
        assert question_text(Choices(kind), TEMPLATES) == asked[kind, "front"]
    for view in VIEWS:
        assert question_text(Choices("description", view=view), TEMPLATES) == asked["description", view]


def test_a_plan_is_asked_with_the_speed_and_the_command_that_were_set():
    text = question_text(Choices("plan", speed=7.25, command="go straight and turn left"), TEMPLATES)
    assert parse_situation(text) == ("go straight and turn left", 7.2)  # one decimal, as in the training data
    assert set(KINDS) == {"plan", "description", "traffic_light", "vru", "own"}


def test_a_question_of_the_visitor_is_asked_as_written():
    assert question_text(Choices("own", own="  Is it raining?\n"), TEMPLATES) == "Is it raining?"


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (Choices("own", own="  "), "no question yet"),
        (Choices("own", own=None), "no question yet"),
        (Choices("own", own="a" * (MOST_CHARACTERS + 1)), "1,001 characters; the limit is 1,000"),
        (Choices("own", own="what is in <image>?"), "Remove <image>"),
        (Choices("poem"), "from the lists"),
        (Choices("plan", command="fly"), "from the lists"),
        (Choices("plan", speed="fast"), "from 0 to 40 m/s"),
        (Choices("plan", speed=None), "from 0 to 40 m/s"),
        (Choices("plan", speed=float("nan")), "from 0 to 40 m/s"),
        (Choices("plan", speed=-1.0), "from 0 to 40 m/s"),
        (Choices("description", view="back", front_only=True), "about the back view"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused_with_a_remedy(choices, message):
    with pytest.raises(Refusal, match=message):
        question_text(choices, TEMPLATES)


def test_six_views_are_shown_in_the_order_of_the_prompt_or_the_front_alone():
    assert views_to_show(dict(reversed(ALL.items())), front_only=False) == VIEWS
    assert views_to_show(ALL, front_only=True) == ("front",)
    assert views_to_show({"front": "image.jpg"}, front_only=True) == ("front",)


def test_missing_views_are_named():
    with pytest.raises(Refusal, match=r"The back view is missing\. Upload it, or tick “Front view only”"):
        views_to_show({**ALL, "back": None}, front_only=False)
    with pytest.raises(Refusal, match="The views front left, back right and back are missing"):
        views_to_show({**ALL, "front left": None, "back right": None, "back": None}, front_only=False)
    with pytest.raises(Refusal, match=r"The front view is missing\. Upload it\.$"):  # no tick box helps here
        views_to_show({**ALL, "front": None}, front_only=True)
    with pytest.raises(Refusal, match="no images yet"):
        views_to_show(dict.fromkeys(VIEWS), front_only=False)
