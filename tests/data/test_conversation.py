"""Prompt formats: the text of a conversation, and the spans of its targets."""

import pytest

from senna.data.conversation import prompt_for, render, template_for
from senna.errors import DataError, UsageError

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


def turns(*texts: str, first: str = "human") -> list[dict[str, str]]:
    roles = ["human", "gpt"] if first == "human" else ["gpt", "human"]
    return [{"from": roles[number % 2], "value": text} for number, text in enumerate(texts)]


def targets(rendered) -> list[str]:
    return [rendered.text[start:stop] for start, stop in rendered.targets]


def test_v1_ends_every_answer_with_eos_and_only_answers_are_targets():
    rendered = render(turns("Rain?", "No.", "Plan?", "STOP\n"), "v1", "</s>")
    assert rendered.text == f"{SYSTEM} USER: Rain? ASSISTANT: No.</s>USER: Plan? ASSISTANT: STOP\n</s>"
    assert targets(rendered) == [" No.</s>", " STOP\n</s>"]


def test_an_empty_answer_leaves_only_its_role_and_has_no_target():
    rendered = render(turns("Rain?", ""), "v1", "</s>")
    assert rendered.text == f"{SYSTEM} USER: Rain? ASSISTANT:"
    assert rendered.targets == ()


def test_an_answer_before_any_question_is_left_out():
    assert render(turns("Hello!", "Rain?", "No.", first="gpt"), "v1", "</s>") == render(
        turns("Rain?", "No."), "v1", "</s>"
    )


def test_role_markers_inside_an_answer_belong_to_the_answer():
    rendered = render(turns("Rain?", "USER: hi ASSISTANT: no"), "v1", "</s>")
    assert targets(rendered) == [" USER: hi ASSISTANT: no</s>"]


def test_plain_is_images_answer_newline_without_the_question():
    rendered = render(turns("Describe.\n<image>", "a car"), "plain", "</s>")
    assert rendered.text == "<image>a car\n"
    assert targets(rendered) == ["a car\n"]
    assert render(turns("<image>x<image>", "a car"), "plain", "</s>").text == "<image><image>a car\n"
    assert targets(render(turns("Describe.", "a car"), "plain", "</s>")) == ["a car\n"]


def test_the_prompt_for_generation_is_the_text_before_the_answer_in_training():
    rendered = render(turns("<image>\nRain?", "No."), "v1", "</s>")
    assert rendered.text[: rendered.targets[0][0]] == prompt_for("<image>\nRain?", "v1")
    assert prompt_for("hi", "llava_v1") == prompt_for("hi", "v1").replace("user", "human")
    assert prompt_for("hi", "vicuna_v1") == prompt_for("hi", "senna") == prompt_for("hi")


BROKEN_TURNS = {
    "turn 1 is from 'human'": [{"from": "human", "value": "a"}, {"from": "human", "value": "b"}],
    "turn 3 is from 'gpt'": [*turns("a", "b", "c", first="gpt"), {"from": "gpt", "value": "d"}],
    "turn 0 is from 'system'": [{"from": "system", "value": "a"}],
    "turn 1 has no text": [{"from": "human", "value": "a"}, {"from": "gpt", "value": None}],
    "turn 0 is from None": ["a"],
    "no question": turns("only an answer", first="gpt"),
}


@pytest.mark.parametrize("message", BROKEN_TURNS)
def test_a_turn_that_does_not_fit_raises_an_error_with_its_number(message):
    with pytest.raises(DataError, match=message):
        render(BROKEN_TURNS[message], "v1", "</s>")


def test_plain_takes_only_one_question_and_one_answer():
    with pytest.raises(DataError, match="one question and one answer"):
        render(turns("a", "b", "c", "d"), "plain", "</s>")


def test_an_unknown_format_raises_an_error_with_the_nearest_name():
    with pytest.raises(UsageError, match="did you mean 'vicuna_v1'"):
        template_for("vicuna_v11")
    with pytest.raises(UsageError, match="known: plain, v1"):
        template_for("zzz")
