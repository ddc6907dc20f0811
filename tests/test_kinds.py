"""The registry of question kinds."""

import pytest

from senna import kinds
from senna.errors import UsageError
from senna.kinds import OTHER, PLAN, TRAFFIC_LIGHTS, TRAJECTORY, QuestionKind
from senna.meta_actions import MetaAction


@pytest.fixture
def route():
    kind = kinds.register(QuestionKind("route", "Route", stage=3, ask="a:b", template={}, parse=str.strip))
    yield kind
    kinds.unregister("route")


def test_a_registered_kind_is_found_until_it_is_removed(route):
    assert kinds.kind_named("route") is route
    assert kinds.all_kinds()[-1] is route
    kinds.unregister("route")
    assert kinds.kind_named("route") is None


def test_a_name_that_is_taken_and_an_unknown_stage_raise_an_error(route):
    for name, stage in (("route", 3), (OTHER, 2), ("new", 1)):
        with pytest.raises(UsageError, match=name):
            kinds.register(QuestionKind(name, "", stage=stage, ask="a:b", template={}, parse="a:b"))


def test_plan_and_trajectory_belong_to_stage_3_and_unknown_kinds_to_stage_2():
    assert [kind.name for kind in kinds.all_kinds() if kind.stage == 3] == [PLAN, TRAJECTORY]
    assert (kinds.stage_of(PLAN), kinds.stage_of("motion"), kinds.stage_of("anything")) == (3, 2, 2)


def test_every_function_of_a_kind_can_be_imported():
    for kind in kinds.all_kinds():
        for reference in filter(None, (kind.ask, kind.parse, kind.score)):
            assert callable(kinds.resolve(reference)), kind.name
    assert kinds.resolve(str.strip) == str.strip


def test_a_traffic_light_is_one_word():
    assert [kinds.parse_traffic_light(word) for word in TRAFFIC_LIGHTS] == [0, 1, 2, 3]
    assert kinds.parse_traffic_light(" red.\n") == 0
    assert kinds.parse_traffic_light("Red and green") is None


def test_motion_is_a_meta_action_for_each_object():
    text = "Object 1: KEEP, STRAIGHT\nobject 2 : a parked car\nObject 3: STOP, STRAIGHT\nObject 3: KEEP, STRAIGHT\nEnd."
    assert kinds.parse_motion(text) == {1: MetaAction("KEEP", "STRAIGHT"), 2: None, 3: None}
    assert kinds.parse_motion("No moving object.") is None


def test_answers_are_recognized_by_their_form():
    assert kinds.recognize(["KEEP, STRAIGHT"]) == PLAN
    assert kinds.recognize(["Object 1: KEEP, STRAIGHT"]) == "motion"
    assert kinds.recognize(["Green", "None"]) == "traffic_light"
    assert kinds.recognize(["Green", "KEEP, STRAIGHT"]) == kinds.recognize([" "]) == kinds.recognize([]) == OTHER


def test_a_free_text_must_not_be_empty():
    assert (kinds.parse_text(" a car \n"), kinds.parse_text(" \n")) == ("a car", None)
