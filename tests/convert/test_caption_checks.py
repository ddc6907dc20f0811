import time

import numpy as np
import pytest

from senna.convert.caption_checks import Caption, ask, check, clean, repeats
from senna.convert.captioners import Request
from senna.kinds import CaptionRules, QuestionKind, kind_named, register, slots, unregister


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        ("red.", "Red"), ("**Red**", "Red"), ("The light is red.", "Red"), ("It's amber", "Yellow"), ("Green light", "Green"),
        ("ASSISTANT: Green</s>", "Green"), ("I see two traffic lights, both are red.", "Red"),
        ("The traffic light ahead shows green, and a red car waits.", "Green"), ("<think>Red? No.</think>None", "None"),
        ("There is no traffic light visible in the image.", "None"), ("I don't see any traffic lights.", "None"),
        ("None of the traffic lights can be seen", "None"), ("The traffic light is not visible.", "None"), ("No.", "None"),
        ("The traffic light is red, indicating that vehicles should stop.", "Red"),
    ],
)  # fmt: skip
def test_sentence_about_a_traffic_light_becomes_its_word(answer, word):
    assert clean("traffic_light", answer) == word
    assert check("traffic_light", clean("traffic_light", answer)) == []


@pytest.mark.parametrize(
    "answer",
    [
        "There is a red car ahead.", "Its brake lights are red.", "The light is neither red nor green.",
        "The light is red and then green.", "The left light is red, the right light is green.", "The traffic light is not red.",
        "There is no traffic light, but the light is red.", "I think so", "The signal has turned from red to green.", "Blue",
    ],
)  # fmt: skip
def test_ambiguous_answer_about_a_traffic_light_is_a_problem(answer):
    assert check("traffic_light", clean("traffic_light", answer)) == ["no traffic light word"]


def test_prompt_tokens_and_reasoning_are_removed():
    text = clean("description", "<think>Let me see.</think>ASSISTANT: A road <image> is\n\n wet.<|im_end|></s>")
    assert text == "A road is wet."


GOOD = "It is night. A truck is 12 m ahead and moves; two cars are parked on the right, and a man waits at the kerb."


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "empty"), ("A road.", "too short"), ("word and other words, " * 130 + "end.", "too long"),
        ("The road is wet and the sky is", "cut off"), ("The car is parked on the left. " * 3, "repeats itself"),
        ("A " + "very " * 12 + "long road ahead.", "repeats itself"), ("路" * 40 + "。", "repeats itself"),
        ("1. The white car is parked. 2. The white car is parked. 3. The white car is parked.", "repeats itself"),
        ("I'm sorry, but I cannot see the image that you mean.", "refuses"),
    ],
)  # fmt: skip
def test_problems_of_a_caption_are_named(text, problem):
    for kind in ("description", "explanation"):
        assert problem in check(kind, clean(kind, text))


@pytest.mark.parametrize(
    "text", [GOOD, 'The sign says "slow down."', "A car, a car, a bus, a car and a truck are ahead."]
)
def test_good_caption_passes(text):
    assert check("description", clean("description", text)) == []


def test_lists_of_similar_objects_are_not_repetition_loops():
    text = "The nearest are a car 5 m away (ahead), a car 8 m away (ahead, moving) and a truck 9 m away (on the right)."
    assert not repeats(text)
    assert repeats("a car 5 m away, a car 8 m away, a car 9 m away, a car 12 m away")


class Scripted:
    """A captioner with prepared answers to each question; it records the questions."""

    window = 1

    def __init__(self, answers, name="scripted"):
        self.answers, self.asked, self.name = {key: list(texts) for key, texts in answers.items()}, [], name

    def answer(self, requests):
        self.asked.append([request.question for request in requests])
        return [self.answers[request.question.splitlines()[0]].pop(0) for request in requests]


def requests(*pairs):
    return [Request(None, "front", None, kind, question) for kind, question in pairs]


ASKED = requests(("traffic_light", "light?"), ("description", "what?"), ("explanation", "why?"))


def test_only_unusable_answers_are_asked_again_with_a_hint():
    captioner = Scripted({"light?": ["Red."], "what?": ["A road and", GOOD], "why?": [GOOD]})
    captions = ask(captioner, ASKED)
    assert captions == [Caption("Red"), Caption(GOOD), Caption(GOOD)]
    assert captioner.asked == [["light?", "what?", "why?"], ["what?\n" + kind_named("description").caption.hint]]


def test_better_answer_is_kept_and_remaining_problems_are_marked():
    captioner = Scripted({"light?": ["maybe", "perhaps"], "what?": ["A wet road and", "so"], "why?": [GOOD]})
    light, description, explanation = ask(captioner, ASKED)
    assert light == Caption("maybe", ("no traffic light word",))
    assert description == Caption("A wet road and", ("cut off",))
    assert explanation.problems == ()


def test_number_of_retries_can_be_changed():
    many = Scripted({"light?": ["?", "?", "Green"], "what?": [GOOD], "why?": [GOOD]})
    assert ask(many, ASKED, retries=2)[0] == Caption("Green")
    none = Scripted({"light?": ["?"], "what?": [GOOD], "why?": [GOOD]})
    assert ask(none, ASKED, retries=0)[0].problems
    assert len(none.asked) == 1


def test_missing_answer_of_a_captioner_is_an_error():
    class Short(Scripted):
        def answer(self, requests):
            return super().answer(requests)[:-1]

    with pytest.raises(ValueError, match="zip"):
        ask(Short({"light?": ["Red"], "what?": [GOOD], "why?": [GOOD]}), ASKED)


def test_rules_of_a_registered_kind_apply():
    rules = CaptionRules(words=("Yes", "No"), hint="Yes or no?")
    register(
        QuestionKind("wet_road", "Wet road", 2, ask=list, template={"question": slots()}, parse=str, caption=rules)
    )
    try:
        assert clean("wet_road", "**yes.**") == "Yes"
        assert check("wet_road", clean("wet_road", "It may be.")) == ["no wet road word"]
        captioner = Scripted({"wet?": ["maybe", "No"]})
        assert ask(captioner, requests(("wet_road", "wet?"))) == [Caption("No")]
        assert captioner.asked[1] == ["wet?\nYes or no?"]
    finally:
        unregister("wet_road")


def test_checks_of_a_caption_take_little_time():
    rng, words = np.random.default_rng(0), GOOD.split()
    text = " ".join(rng.choice(words, 250)) + "."
    start = time.process_time()
    for _ in range(20):
        check("description", clean("description", text))
    assert (time.process_time() - start) / 20 < 0.02
