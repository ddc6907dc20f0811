"""From the page's choices to the question that the model gets, and what a visitor is told where something is missing."""

import pytest

from senna.convert.questions import questions_of
from senna.demo.questions import KINDS, MOST_CHARACTERS, Choices, Refusal, question_text, views_to_show
from senna.evaluate.metrics.plan_prompt import parse_situation
from senna.templates import load_templates
from senna.views import VIEWS
from tests.convert.test_questions import frame

TEMPLATES = load_templates()
ALL = dict.fromkeys(VIEWS, "picture.jpg")


def test_the_questions_are_the_converters_own_word_for_word():
    of = frame()
    asked = {(question.kind, question.view): question.text for question in questions_of(of, TEMPLATES)}
    choices = Choices("plan", speed=of.speed, command=of.command)
    assert question_text(choices, TEMPLATES) == asked["plan", "front"]
    for kind in ("vru", "traffic_light"):
        assert question_text(Choices(kind), TEMPLATES) == asked[kind, "front"]
    for view in VIEWS:
        assert question_text(Choices("description", view=view), TEMPLATES) == asked["description", view]


def test_a_plan_is_asked_with_the_speed_and_the_command_that_were_set():
    text = question_text(Choices("plan", speed=7.25, command="go straight and turn left"), TEMPLATES)
    assert parse_situation(text) == ("go straight and turn left", 7.2)  # one decimal, as in the training data
    assert set(KINDS) == {"plan", "description", "traffic_light", "vru", "own"}


def test_a_question_of_ones_own_is_asked_as_written():
    assert question_text(Choices("own", own="  Is it raining?\n"), TEMPLATES) == "Is it raining?"


@pytest.mark.parametrize(
    ("choices", "told"),
    [
        (Choices("own", own="  "), "no question yet"),
        (Choices("own", own=None), "no question yet"),
        (Choices("own", own="a" * (MOST_CHARACTERS + 1)), "1,001 characters; it may have 1,000"),
        (Choices("own", own="what is in <image>?"), "Leave <image> out"),
        (Choices("poem"), "from those that are listed"),
        (Choices("plan", command="fly"), "from those that are listed"),
        (Choices("plan", speed="fast"), "from 0 to 40 m/s"),
        (Choices("plan", speed=None), "from 0 to 40 m/s"),
        (Choices("plan", speed=float("nan")), "from 0 to 40 m/s"),
        (Choices("plan", speed=-1.0), "from 0 to 40 m/s"),
        (Choices("description", view="back", front_only=True), "asked about the back view"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused_with_what_to_do(choices, told):
    with pytest.raises(Refusal, match=told):
        question_text(choices, TEMPLATES)


def test_six_views_are_shown_in_the_order_of_the_prompt_or_the_front_alone():
    assert views_to_show(dict(reversed(ALL.items())), front_only=False) == VIEWS
    assert views_to_show(ALL, front_only=True) == ("front",)
    assert views_to_show({"front": "picture.jpg"}, front_only=True) == ("front",)


def test_missing_views_are_named():
    with pytest.raises(Refusal, match=r"The back view is missing\. Upload it, or tick “Front view only”"):
        views_to_show({**ALL, "back": None}, front_only=False)
    with pytest.raises(Refusal, match="The views front left, back right and back are missing"):
        views_to_show({**ALL, "front left": None, "back right": None, "back": None}, front_only=False)
    with pytest.raises(Refusal, match=r"The front view is missing\. Upload it\.$"):  # no tick box mends that
        views_to_show({**ALL, "front": None}, front_only=True)
    with pytest.raises(Refusal, match="no pictures yet"):
        views_to_show(dict.fromkeys(VIEWS), front_only=False)
