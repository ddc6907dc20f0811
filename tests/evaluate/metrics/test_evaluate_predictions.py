import json
import math

import numpy as np
import pytest
from sklearn.metrics import classification_report, confusion_matrix, log_loss

from senna.errors import DataError, UsageError
from senna.evaluate.metrics.bootstrap import Scenes
from senna.evaluate.metrics.calibration import calibration, outside
from senna.evaluate.metrics.evaluate_predictions import ON_ITSELF, evaluate_predictions
from senna.evaluate.metrics.meta_actions import decide
from senna.meta_actions import ALL_META_ACTIONS, PATHS, SPEEDS, MetaAction
from senna.navigation import COMMANDS

KEEP, STOP = MetaAction("KEEP", "STRAIGHT"), MetaAction("STOP", "STRAIGHT")
LEFT = MetaAction("KEEP", "LEFT_TURN")


def scores(*, top=None, probability=0.7):
    """Return log-probabilities of the twenty: ``top`` has this probability, the others share the rest equally."""
    found = np.full(20, (1 - probability) / 19)
    found[ALL_META_ACTIONS.index(top)] = probability
    return np.log(found)


def plan(
    index, truth, answer, scene=None, question="The car drives at 5.0 m/s and its route says: go straight.", **more
):
    """Return a prediction: scored if ``answer`` is a meta-action, generated if it is a text."""
    found = {"index": index, "id": f"r{index}", "token": f"t{index}", "scene": scene or f"s{index}", "kind": "plan",
             "question": question, "truth": f"{truth}\n"}  # fmt: skip
    if isinstance(answer, MetaAction):
        found |= {"log_probs": (scores(top=answer) + math.log(0.9)).tolist(), "sum": str(answer), "greedy": str(answer),
                  "left_tree": None}  # fmt: skip
    else:
        found |= {"text": answer}
    return found | more


def test_decisions_equal_a_count_by_hand():
    truth = [KEEP, KEEP, KEEP, STOP, STOP, LEFT]
    predicted = [KEEP, KEEP, STOP, STOP, None, KEEP]
    found = decide(truth, predicted, Scenes([f"s{number}" for number in range(6)])).as_json()
    assert found["invalid"] == 1 / 6
    assert found["accuracy"]["both"]["value"] == 3 / 6
    assert found["accuracy"]["speed"]["value"] == 4 / 6
    assert found["accuracy"]["path"]["value"] == 4 / 6
    # KEEP: 3 of 3 predicted are right, 3 of 4 true are found; STOP: 1 of 2 and 1 of 2
    assert found["macro_f1"]["speed"]["value"] == pytest.approx((6 / 7 + 1 / 2) / 2)
    # joint: KEEP, STRAIGHT 2 of 3 and 2 of 3; STOP, STRAIGHT 1 of 2 and 1 of 2; KEEP, LEFT_TURN never
    assert found["macro_f1"]["both"]["value"] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert found["speed"]["confusion"] == [[3, 0, 0, 1, 0], [0] * 5, [0] * 5, [0, 0, 0, 1, 1]]
    assert found["speed"]["classes"]["STOP"] == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2}
    assert found["both"]["labels"] == ["KEEP, STRAIGHT", "KEEP, LEFT_TURN", "STOP, STRAIGHT"]
    assert found["both"]["confusion"] == [[2, 0, 1, 0], [1, 0, 0, 0], [0, 0, 1, 1]]
    assert found["path"]["classes"]["STRAIGHT"]["recall"] == 4 / 5
    assert found["path"]["classes"]["RIGHT_TURN"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}


def test_there_is_no_invalid_column_without_invalid_answers():
    found = decide([KEEP, STOP], [KEEP, KEEP], Scenes(["a", "b"])).as_json()
    assert found["both"]["confusion"] == [[1, 0], [1, 0]]
    assert [len(row) for row in found["path"]["confusion"]] == [5] * 5


def test_figures_equal_those_of_scikit_learn():
    rng = np.random.default_rng(2)
    truth = [ALL_META_ACTIONS[code] for code in rng.integers(12, size=400)]
    predicted = [ALL_META_ACTIONS[code] if code < 20 else None for code in rng.integers(22, size=400)]
    found = decide(truth, predicted, Scenes([f"s{number % 9}" for number in range(400)])).as_json()
    for part, labels in (("speed", SPEEDS), ("path", PATHS), ("both", [str(action) for action in ALL_META_ACTIONS])):
        true = [str(action) if part == "both" else getattr(action, part) for action in truth]
        answer = ["none" if a is None else str(a) if part == "both" else getattr(a, part) for a in predicted]
        occurring = sorted(set(true))
        report = classification_report(true, answer, labels=occurring, output_dict=True, zero_division=0)
        assert found["macro_f1"][part]["value"] == pytest.approx(report["macro avg"]["f1-score"])
        assert found["accuracy"][part]["value"] == pytest.approx(
            np.mean([a == b for a, b in zip(true, answer, strict=True)])
        )
        for name in occurring:
            ours, theirs = found[part]["classes"][name], report[name]
            assert (ours["precision"], ours["recall"], ours["f1"]) == pytest.approx(
                (theirs["precision"], theirs["recall"], theirs["f1-score"])
            )
        expected = confusion_matrix(true, answer, labels=[*labels, "none"])[: len(labels)]
        assert found[part]["labels"] == list(labels)
        assert found[part]["confusion"] == expected.tolist()


def test_a_constant_answer_on_nuscenes_mini_has_high_accuracy_and_low_macro_f1():
    counts = {KEEP: 212, STOP: 92, LEFT: 18, MetaAction("KEEP", "RIGHT_TURN"): 13,
              MetaAction("DECELERATE", "STRAIGHT"): 7, MetaAction("ACCELERATE", "LEFT_TURN"): 2}  # fmt: skip
    truth = [action for action, count in counts.items() for _ in range(count)]
    found = decide(truth, [KEEP] * 344, Scenes([f"s{number % 10}" for number in range(344)])).as_json()
    accuracy = 212 / 344
    assert found["accuracy"]["both"]["value"] == pytest.approx(accuracy) == pytest.approx(0.616, abs=5e-4)
    assert found["macro_f1"]["both"]["value"] == pytest.approx(2 * accuracy / (accuracy + 1) / 6)
    assert found["macro_f1"]["both"]["value"] == pytest.approx(0.127, abs=5e-4)


def test_calibration_equals_a_computation_by_hand():
    log_probs = [scores(top=KEEP, probability=0.7)] * 4 + [scores(top=KEEP, probability=0.95)]
    truth = [KEEP, KEEP, STOP, LEFT, STOP]
    found = calibration(np.array(log_probs) + math.log(0.5), truth)  # the twenty have half of the probability
    assert found["ece"] == pytest.approx((4 * abs(0.7 - 0.5) + 1 * abs(0.95 - 0)) / 5)
    filled = {row["high"]: row for row in found["bins"] if row["count"]}
    assert set(filled) == {0.7, 1.0}
    assert (filled[0.7]["count"], filled[0.7]["accuracy"]) == (4, 0.5)
    assert filled[0.7]["confidence"] == pytest.approx(0.7)
    assert found["bins"][0] == {"low": 0.0, "high": 0.1, "count": 0, "confidence": None, "accuracy": None}
    codes = [ALL_META_ACTIONS.index(action) for action in truth]
    assert found["log_loss"] == pytest.approx(log_loss(codes, np.exp(log_probs), labels=range(20)))
    assert found["log_loss_frequencies"] == pytest.approx(-(0.4 * math.log(0.4) * 2 + 0.2 * math.log(0.2)))
    assert outside(np.array(log_probs) + math.log(0.5)) == pytest.approx(0.5)


def test_scored_plans_have_baselines_blackout_gains_and_calibration():
    truth = [KEEP, KEEP, STOP, LEFT] * 3
    answers = [KEEP, STOP, STOP, KEEP] * 3
    predictions = [plan(index, *pair) for index, pair in enumerate(zip(truth, answers, strict=True))]
    predictions[0] |= {"greedy": str(STOP), "left_tree": "My"}
    black = [plan(index, action, KEEP if index < 9 else LEFT) for index, action in enumerate(truth)]
    found = evaluate_predictions(predictions, black[::-1], run={"model": "M"})
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["records"], found["scenes"], found["kinds"], found["run"]) == (12, 12, {"plan": 12}, {"model": "M"})
    plans = found["plan"]
    assert plans["mode"] == "score"
    assert list(plans["decisions"]) == ["sum", "greedy"]
    assert plans["decisions"]["sum"]["accuracy"]["both"]["value"] == 6 / 12
    assert plans["decisions"]["greedy"]["accuracy"]["both"]["value"] == 5 / 12
    assert plans["left_tree"] == 1 / 12
    assert plans["outside"] == pytest.approx(0.1)
    assert plans["blackout"]["accuracy"]["both"]["value"] == (5 + 1) / 12
    assert plans["baselines_fitted_on"] == ON_ITSELF
    assert list(plans["baselines"]) == [
        "majority class", "best constant per navigation command", "navigation command and speed",
    ]  # fmt: skip
    assert plans["baselines"]["majority class"]["accuracy"]["both"]["value"] == 6 / 12
    gain = plans["gains"]["majority class"]["macro_f1"]["both"]
    # KEEP: 3 of 6 predicted are right, 3 of 6 true are found; STOP: 3 of 6, 3 of 3; majority class, KEEP: 6 of 12, 6 of 6
    assert gain["value"] == pytest.approx((1 / 2 + 2 / 3) / 3 - (2 / 3) / 3)
    assert gain["low"] <= gain["value"] <= gain["high"]
    assert plans["published"] is None
    assert found == evaluate_predictions(predictions[::-1], black, run={"model": "M"})


def test_generated_plans_are_parsed_strictly_and_also_the_published_way_with_compat():
    predictions = [
        plan(0, KEEP, "KEEP, STRAIGHT"),
        plan(1, KEEP, "KEEP, STOP, STRAIGHT"),
        plan(2, STOP, "KEEP, STRAIGHT"),
    ]
    found = evaluate_predictions(predictions, compat="original")["plan"]
    assert found["mode"] == "generate"
    assert list(found["decisions"]) == ["text"]
    assert found["decisions"]["text"]["invalid"] == pytest.approx(1 / 3)
    assert found["decisions"]["text"]["accuracy"]["both"]["value"] == pytest.approx(1 / 3)
    assert found["published"]["accuracy"] == pytest.approx(2 / 3)
    assert (found["calibration"], found["left_tree"], found["outside"]) == (None, None, None)


def test_baselines_are_fitted_on_training_plans_if_there_are_any():
    train = [{"question": "", "truth": str(STOP)}] * 2 + [{"question": "", "truth": "not a plan"}]
    found = evaluate_predictions(
        [plan(0, KEEP, KEEP), plan(1, KEEP, KEEP)], train_plans=train, train_name="train.jsonl"
    )
    assert found["plan"]["baselines_fitted_on"] == "train.jsonl, 2 plans"
    assert found["plan"]["baselines"]["majority class"]["accuracy"]["both"]["value"] == 0


def test_plans_with_an_unreadable_truth_are_left_out_and_counted():
    found = evaluate_predictions([plan(0, KEEP, KEEP), plan(1, "KEEP", KEEP)])["plan"]
    assert (found["records"], found["unreadable_truths"]) == (1, 1)
    assert found["decisions"]["sum"]["accuracy"]["both"]["value"] == 1
    assert evaluate_predictions([plan(1, "KEEP", KEEP)])["plan"] is None


def test_mixed_modes_missing_blackouts_and_unknown_compat_are_refused():
    with pytest.raises(DataError, match="record 1 \\(r1\\)"):
        evaluate_predictions([plan(0, KEEP, KEEP), plan(1, KEEP, "KEEP, STRAIGHT")])
    with pytest.raises(DataError, match="predictions_blackout: record 1"):
        evaluate_predictions([plan(0, KEEP, KEEP), plan(1, KEEP, KEEP)], [plan(0, KEEP, KEEP)])
    with pytest.raises(UsageError, match="--compat old"):
        evaluate_predictions([plan(0, KEEP, KEEP)], compat="old")


def test_no_predictions_give_no_metrics():
    found = evaluate_predictions([])
    assert (found["records"], found["plan"], found["text"]) == (0, None, {})


def test_figures_are_the_same_with_command_and_speed_as_fields_and_in_the_question():
    rng = np.random.default_rng(1)
    predictions, fields = [], []
    for index in range(60):
        command, speed = COMMANDS[rng.integers(5)], round(float(rng.uniform(0, 15)), 1)
        question = f"The car drives at {speed:.1f} m/s and its route says: {command}."
        truth = STOP if speed < 2 else LEFT if command == "turn left" else KEEP
        predictions.append(plan(index, truth, KEEP, f"s{index % 7}", question))
        fields.append({**predictions[-1], "question": "Plan?", "command": command, "speed": speed})
    found = evaluate_predictions(predictions)
    assert found["plan"]["baselines"]["navigation command and speed"]["accuracy"]["both"]["value"] > 0.9
    assert evaluate_predictions(fields) == found
    assert evaluate_predictions(predictions, train_plans=fields) == evaluate_predictions(
        fields, train_plans=predictions
    )
