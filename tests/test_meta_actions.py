import pytest

from senna.meta_actions import ALL_META_ACTIONS, MetaAction, parse_meta_action


def test_there_are_twenty_and_each_reads_back_from_what_it_writes():
    assert len(set(ALL_META_ACTIONS)) == 20
    assert all(parse_meta_action(str(action)) == action for action in ALL_META_ACTIONS)
    assert str(MetaAction("KEEP", "STRAIGHT")) == "KEEP, STRAIGHT"


@pytest.mark.parametrize("text", ["KEEP, LEFT_TURN\n", " keep,left_turn", "Keep ,\n Left_Turn.", "\tKEEP, LEFT_TURN ."])
def test_case_blanks_and_a_full_stop_do_not_matter(text):
    assert parse_meta_action(text) == MetaAction("KEEP", "LEFT_TURN")


@pytest.mark.parametrize(
    "text",
    ["", "KEEP", "KEEP LEFT_TURN", "LEFT_TURN, KEEP", "KEEP, STOP", "KEEP, STRAIGHT, LEFT_TURN", "My plan: KEEP, STRAIGHT",
     "KEEP, STRAIGHT\nSTOP, STRAIGHT", "KEEP, STRAIGHTEN", "KEEP, LEFT", "UPKEEP, STRAIGHT"],
)  # fmt: skip
def test_whatever_else_an_answer_says_is_no_meta_action(text):
    assert parse_meta_action(text) is None
