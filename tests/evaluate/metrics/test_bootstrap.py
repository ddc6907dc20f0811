import numpy as np
import pytest
from sklearn.metrics import f1_score

from senna.evaluate.metrics.bootstrap import Scenes, interval, mean_interval
from senna.evaluate.metrics.classification import INVALID, classify

LABELS = ("a", "b", "c")


def test_equal_scenes_give_intervals_of_width_zero():
    scenes = Scenes([f"s{number // 4}" for number in range(40)])
    found = classify([0, 0, 1, 2] * 10, [0, 1, 1, INVALID] * 10, LABELS, scenes)
    # a: precision 1, recall 1/2; b: precision 1/2, recall 1; c: never predicted
    assert found.accuracy == {"value": 0.5, "low": 0.5, "high": 0.5}
    third = pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert found.macro_f1 == {"value": third, "low": third, "high": third}


def test_a_single_scene_has_a_value_and_no_interval():
    assert mean_interval(Scenes(["only"] * 4), [0, 1, 1, 1]) == {"value": 0.75, "low": None, "high": None}


def test_a_quarter_of_the_resamples_of_two_scenes_contains_only_the_first():
    scenes = Scenes(["right"] * 30 + ["wrong"] * 10)
    draws = scenes.sums([[1, 1]] * 30 + [[0, 1]] * 10)
    shares = draws[:, 0] / draws[:, 1]
    assert len(draws) == 1 + 2000
    assert set(shares) == {0.0, 0.75, 1.0}
    assert np.mean(shares[1:] == 1.0) == pytest.approx(0.25, abs=0.04)  # 4 standard errors
    assert interval(shares) == {"value": 0.75, "low": 0.0, "high": 1.0}


def test_the_order_of_records_does_not_change_the_intervals():
    rng = np.random.default_rng(5)
    names = np.array([f"s{number}" for number in rng.integers(7, size=200)])
    truth, predicted = rng.integers(3, size=200), rng.integers(-1, 3, size=200)
    shuffled = rng.permutation(200)
    first = classify(truth, predicted, LABELS, Scenes(names))
    second = classify(truth[shuffled], predicted[shuffled], LABELS, Scenes(names[shuffled]))
    assert first.macro_f1 == second.macro_f1
    assert first.accuracy == second.accuracy
    assert first.accuracy["low"] < first.accuracy["value"] < first.accuracy["high"]
    assert first.table == second.table


def test_a_resample_has_the_figures_of_the_records_of_its_scenes_over_the_classes_of_all_scenes():
    rng = np.random.default_rng(3)
    scene = rng.integers(6, size=80)
    truth = np.where(scene == 0, 2, rng.integers(2, size=80))  # class c occurs in a single scene
    predicted = rng.integers(-1, 3, size=80)
    scenes = Scenes([f"s{number}" for number in scene], resamples=40)
    found = classify(truth, predicted, LABELS, scenes)
    times = scenes.sums(np.eye(6)[scene])[1:] / np.bincount(scene)  # (40, 6): how often each scene was drawn
    assert (times.sum(axis=1) == 6).all()
    assert (times[:, 0] == 0).any()
    for row, drawn in enumerate(times.astype(int), 1):
        records = np.repeat(np.arange(80), drawn[scene])
        true, answer = truth[records], predicted[records]
        f1 = f1_score(true, answer, labels=np.unique(truth), average="macro", zero_division=0)
        assert found.macro_f1s[row] == pytest.approx(f1)
        assert found.accuracies[row] == pytest.approx(np.mean(true == answer))


def test_records_without_a_value_are_left_out_of_a_mean():
    found = mean_interval(Scenes(["x", "x", "y", "y"]), [1.0, float("nan"), 3.0, 5.0])
    assert found == {"value": 3.0, "low": 1.0, "high": 4.0}


def test_a_mean_over_no_values_is_none():
    found = mean_interval(Scenes(["x", "y"]), [float("nan")] * 2)
    assert found == {"value": None, "low": None, "high": None}
