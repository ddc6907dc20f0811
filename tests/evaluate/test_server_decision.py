"""`senna evaluate --server --decision`: the rules of a served Senna are those of its folder."""

import json

import pytest

from senna.cli import main
from senna.decision import DECISION_FILE
from senna.serve.decision import decision_variables, served_decision
from tests.evaluate.balanced_model import balanced_model
from tests.evaluate.model_server import senna_answers, serving


@pytest.fixture(scope="module")
def model(planner, tmp_path_factory):
    return balanced_model(planner, tmp_path_factory.mktemp("calibrated") / "model")


@pytest.fixture(scope="module")
def answers(model):
    return senna_answers(model)


def evaluate(data, toy, out, *more):
    flags = ["--data", data, "--image-folder", toy.images, "--out", out, "--limit", 6, *more]
    return main(["evaluate", *map(str, flags)])


def reply(model):
    """Return what `senna serve MODEL` replies about its decision."""
    return json.loads(json.dumps(served_decision(decision_variables("likeliest", str(model))).as_json()))


def test_the_decisions_and_figures_are_those_without_a_server(model, answers, plans, toy, tmp_path):
    balanced = ("--decision", "balanced")
    assert evaluate(plans, toy, tmp_path / "local", "--model", model, "--workers", 0, "--batch-size", 1, *balanced) == 0
    with serving(answers) as server:
        server.decision = reply(model)
        assert evaluate(plans, toy, tmp_path / "served", "--server", server.address, *balanced) == 0
    local, served = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("local", "served"))
    assert served["plan"] == local["plan"]
    assert served["plan"]["headline"] == "balanced"
    assert served["plan"]["decisions"]["balanced"] != served["plan"]["decisions"]["sum"]


def test_balanced_needs_a_server_with_a_calibration_of_other_scenes(model, answers, plans, toy, tmp_path, capsys):
    out = tmp_path / "out"
    with serving(answers) as server:
        for known in (None, {"decision": "likeliest", "calibration": None}):  # an earlier version; no decision.json
            server.decision = known
            assert evaluate(plans, toy, out, "--server", server.address, "--decision", "balanced") == 2
            assert "has no calibration" in (error := capsys.readouterr().err)
            assert "run `senna calibrate`" in error
        server.decision = reply(model)
        server.decision["calibration"]["scenes"] = ["scene-1", "elsewhere"]
        assert evaluate(plans, toy, out, "--server", server.address, "--decision", "balanced") == 2
        assert f"{DECISION_FILE} was fitted on 1 of the scenes" in capsys.readouterr().err
        server.decision["calibration"]["prior"] = []
        assert evaluate(plans, toy, out, "--server", server.address) == 1
        assert "its calibration cannot be used" in capsys.readouterr().err
        server.decision = reply(model)
        assert evaluate(plans, toy, out, "--server", server.address, "--decision", "best") == 2
        assert "--decision best is unknown" in capsys.readouterr().err
        assert not server.bodies
    assert not out.exists()
