import numpy as np
import pytest
from sklearn.metrics import f1_score

from senna.evaluate.metrics.published import published_scores
from senna.meta_actions import ALL_META_ACTIONS, MetaAction

KEEP, STOP = MetaAction("KEEP", "STRAIGHT"), MetaAction("STOP", "STRAIGHT")


def test_an_answer_that_names_two_speeds_is_a_true_positive_of_both():
    found = published_scores(["KEEP or STOP, STRAIGHT", "STOP, STRAIGHT", "KEEP, LEFT_TURN"], [KEEP, STOP, STOP])
    counts = {name: tuple(one[key] for key in ("tp", "fp", "fn")) for name, one in found["classes"].items()}
    assert counts == {
        "KEEP": (1, 1, 0),  # the third names it and not the truth
        "STOP": (2, 0, 1),  # the first names it, wrongly, beside the truth: counted as right
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


def test_naming_everything_is_always_right():
    everything = "KEEP ACCELERATE DECELERATE STOP STRAIGHT LEFT_TURN RIGHT_TURN LEFT_CHANGE RIGHT_CHANGE"
    found = published_scores([everything] * 20, ALL_META_ACTIONS)
    assert found["accuracy"] == 1
    assert all((one["fp"], one["fn"], one["f1"]) == (0, 0, 1) for one in found["classes"].values())
    assert found["several"] == 20


def test_a_lane_change_is_no_class_but_lets_others_be_true_positives():
    change = MetaAction("KEEP", "LEFT_CHANGE")
    found = published_scores(["KEEP, LEFT_CHANGE or STRAIGHT", "KEEP, STRAIGHT", "keep, left_change"], [change] * 3)
    assert "LEFT_CHANGE" not in found["classes"]
    straight, keep = found["classes"]["STRAIGHT"], found["classes"]["KEEP"]
    assert (straight["tp"], straight["fp"], straight["fn"]) == (1, 1, 0)
    assert (keep["tp"], keep["fp"], keep["fn"]) == (2, 0, 1)  # small letters are not found
    assert found["correct"] == 1


def test_answers_that_are_one_meta_action_give_the_usual_figures():
    rng = np.random.default_rng(0)
    some = [action for action in ALL_META_ACTIONS if not action.path.endswith("CHANGE")]
    truth, told = ([some[place] for place in rng.integers(len(some), size=300)] for _ in range(2))
    found = published_scores([f"{action}\n" for action in told], truth)
    assert found["accuracy"] == np.mean([a == b for a, b in zip(truth, told, strict=True)])
    for part in ("speed", "path"):
        names = sorted({getattr(action, part) for action in some})
        true, answer = ([getattr(action, part) for action in actions] for actions in (truth, told))
        usual = f1_score(true, answer, labels=names, average=None)
        assert [found["classes"][name]["f1"] for name in names] == pytest.approx(list(usual))
