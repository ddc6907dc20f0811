import numpy as np
import pytest
from sklearn.metrics import f1_score

from senna.evaluate.metrics.published import published_scores
from senna.meta_actions import ALL_META_ACTIONS, MetaAction

KEEP, STOP = MetaAction("KEEP", "STRAIGHT"), MetaAction("STOP", "STRAIGHT")


def test_an_answer_that_names_two_speeds_is_a_true_positive_of_both():
    found = published_scores(["KEEP or STOP, STRAIGHT", "STOP, STRAIGHT", "KEEP, LEFT_TURN"], [KEEP, STOP, STOP])
    counts = {name: tuple(count[key] for key in ("tp", "fp", "fn")) for name, count in found["classes"].items()}
    assert counts == {
        "KEEP": (1, 1, 0),  # the third contains it and not the true word
        "STOP": (2, 0, 1),  # the first names a wrong word and also the true word: counted as right
        "ACCELERATE": (0, 0, 0),
        "DECELERATE": (0, 0, 0),
        "STRAIGHT": (2, 0, 1),
        "LEFT_TURN": (0, 1, 0),
        "RIGHT_TURN": (0, 0, 0),
    }
    assert found["classes"]["KEEP"]["f1"] == pytest.approx(2 * 0.5 * 1 / 1.5)
    assert found["classes"]["STOP"]["f1"] == pytest.approx(2 * 1 * (2 / 3) / (5 / 3))
    assert found["classes"]["LEFT_TURN"]["f1"] == 0
    assert (found["correct"], found["accuracy"], found["several"]) == (2, pytest.approx(2 / 3), 1)
    assert found["meta_actions"] == {
        "KEEP, STRAIGHT": {"count": 1, "correct": 1, "accuracy": 1.0},
        "STOP, STRAIGHT": {"count": 2, "correct": 1, "accuracy": 0.5},
    }


def test_an_answer_with_all_class_words_is_always_correct():
    everything = "KEEP ACCELERATE DECELERATE STOP STRAIGHT LEFT_TURN RIGHT_TURN LEFT_CHANGE RIGHT_CHANGE"
    found = published_scores([everything] * 20, ALL_META_ACTIONS)
    assert found["accuracy"] == 1
    assert all((count["fp"], count["fn"], count["f1"]) == (0, 0, 1) for count in found["classes"].values())
    assert found["several"] == 20


def test_a_lane_change_is_not_a_class_but_makes_other_words_true_positives():
    change = MetaAction("KEEP", "LEFT_CHANGE")
    found = published_scores(["KEEP, LEFT_CHANGE or STRAIGHT", "KEEP, STRAIGHT", "keep, left_change"], [change] * 3)
    assert "LEFT_CHANGE" not in found["classes"]
    straight, keep = found["classes"]["STRAIGHT"], found["classes"]["KEEP"]
    assert (straight["tp"], straight["fp"], straight["fn"]) == (1, 1, 0)
    assert (keep["tp"], keep["fp"], keep["fn"]) == (2, 0, 1)  # the search is case-sensitive
    assert found["correct"] == 1


def test_answers_of_exactly_one_meta_action_give_the_usual_figures():
    rng = np.random.default_rng(0)
    actions = [action for action in ALL_META_ACTIONS if not action.path.endswith("CHANGE")]
    truth, predicted = ([actions[code] for code in rng.integers(len(actions), size=300)] for _ in range(2))
    found = published_scores([f"{action}\n" for action in predicted], truth)
    assert found["accuracy"] == np.mean([a == b for a, b in zip(truth, predicted, strict=True)])
    for part in ("speed", "path"):
        names = sorted({getattr(action, part) for action in actions})
        true, answer = ([getattr(action, part) for action in row] for row in (truth, predicted))
        usual = f1_score(true, answer, labels=names, average=None)
        assert [found["classes"][name]["f1"] for name in names] == pytest.approx(list(usual))
