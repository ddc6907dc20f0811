"""The decision rules, and the file that `senna calibrate` writes."""

import json
from dataclasses import replace

import numpy as np
import pytest

from senna.contents import model_content
from senna.decision import (
    BALANCED,
    DECISION_FILE,
    GREEDY,
    LIKELIEST,
    Calibration,
    Decision,
    decide,
    open_decision,
    prior_of,
    read_calibration,
    write_calibration,
)
from senna.errors import UsageError
from senna.meta_actions import ALL_META_ACTIONS

FIRST, SECOND, THIRD = ALL_META_ACTIONS[:3]


def calibration(model_content="", **changes):
    """Return a calibration whose prior is 18 times as large for the first meta-action as for the others."""
    prior = np.array([18.0] + 19 * [1.0]) / 37
    found = Calibration(2.0, 0.5, tuple(prior), ("scene-a",), "dev.jsonl", "sha256:1", model_content, {})
    return replace(found, **changes)


@pytest.fixture
def model(tmp_path):
    """Return a folder with weights and a calibration for them."""
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    write_calibration(tmp_path, calibration(model_content(tmp_path)))
    return tmp_path


def log_probs(*first):
    return np.log([*first, *(20 - len(first)) * [1e-6]])


def test_the_balanced_decision_divides_by_the_temperature_and_subtracts_the_prior():
    balanced = Decision(BALANCED, calibration())
    # log(0.6) / 2 - log(18) / 2 is below log(p) / 2 for every p above 0.6 / 18.
    assert decide(log_probs(0.6, 0.034), balanced) == SECOND
    assert decide(log_probs(0.6, 0.033), balanced) == FIRST
    assert decide(log_probs(0.6, 0.034)) == FIRST
    hotter = Decision(BALANCED, calibration(temperature=1.0, tau=0.25))  # 0.6 / 18 ** 0.25 = 0.2913
    assert decide(log_probs(0.6, 0.292), hotter) == SECOND
    assert decide(log_probs(0.6, 0.291), hotter) == FIRST


def test_scores_of_a_rule_are_log_probabilities_whose_largest_is_the_decision():
    scores = np.log(np.random.default_rng(0).dirichlet(np.ones(20), size=50)) - 3.0
    for decision in (Decision(), Decision(BALANCED, calibration())):
        found = decision.log_probs(scores)
        np.testing.assert_allclose(np.exp(found).sum(axis=1), 1.0)
        assert [decide(row, decision) for row in scores] == [ALL_META_ACTIONS[i] for i in found.argmax(axis=1)]


def test_greedy_is_the_decoded_meta_action():
    assert decide(log_probs(0.9), Decision(GREEDY), greedy=THIRD) == THIRD
    with pytest.raises(ValueError, match="greedy"):
        decide(log_probs(0.9), Decision(GREEDY))


def test_a_meta_action_without_a_training_plan_has_a_prior_above_zero():
    prior = prior_of([79, *19 * [0]])
    np.testing.assert_allclose(prior, [80 / 99, *19 * [1 / 99]])


def test_a_calibration_is_read_as_it_was_written(model):
    assert open_decision(BALANCED, model) == Decision(BALANCED, calibration(model_content(model)))
    assert open_decision(LIKELIEST, model) == Decision(LIKELIEST)
    (model / DECISION_FILE).unlink()
    assert read_calibration(model) is None


def test_balanced_needs_a_calibration_of_these_weights(model, tmp_path):
    (model / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(UsageError, match="other weights") as refused:
        open_decision(BALANCED, model)
    assert f"senna calibrate --model {model}" in refused.value.remedy
    (model / DECISION_FILE).unlink()
    with pytest.raises(UsageError, match="does not exist"):
        open_decision(BALANCED, model)
    with pytest.raises(UsageError, match="best is unknown") as refused:
        open_decision("best", model)
    assert "likeliest, balanced, greedy" in refused.value.remedy


@pytest.mark.parametrize(
    "changes",
    [{"version": 2}, {"temperature": 0.0}, {"temperature": None}, {"tau": "nan"}, {"prior": 19 * [1 / 19]},
     {"prior": [1.0, *19 * [0.0]]}, {"scenes": 3}],
)  # fmt: skip
def test_a_damaged_calibration_is_refused(model, changes):
    path = model / DECISION_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(UsageError, match=f"{DECISION_FILE} cannot be used"):
        open_decision(BALANCED, model)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "{}"])
def test_a_file_that_is_no_calibration_is_refused(model, text):
    (model / DECISION_FILE).write_text(text)
    with pytest.raises(UsageError, match="cannot be used"):
        open_decision(BALANCED, model)


def test_scenes_that_a_calibration_was_fitted_on_are_named():
    assert calibration().overlap(["scene-b", ""]) == []
    assert calibration().overlap(["scene-b", "scene-a"]) == ["scene-a"]


def test_a_calibration_of_an_earlier_version_has_no_images(model):
    path = model / DECISION_FILE
    content = json.loads(path.read_text())
    del content["images"]
    path.write_text(json.dumps(content))
    assert open_decision(BALANCED, model).calibration == calibration(model_content(model))
