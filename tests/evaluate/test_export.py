"""The table of a planner: token -> probabilities of the twenty meta-actions."""

import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from senna.cli import main
from senna.evaluate.export import read_table
from senna.meta_actions import ALL_META_ACTIONS
from senna.trajectory import format_trajectory


def prediction(token: str, best: int, **changes) -> dict:
    log_probs = [-3.0] * 20
    log_probs[best] = -1.0
    return {"index": best, "id": token, "token": token, "kind": "plan", "log_probs": log_probs, **changes}


@pytest.fixture
def folder(tmp_path):
    lines = [prediction("aaaa", 4), prediction("bb", 7), {"index": 9, "kind": "motion", "token": "bb", "text": ""}]
    (tmp_path / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


# exp(-1) against nineteen times exp(-3): e^2 / (e^2 + 19)
TOP = np.exp(2) / (np.exp(2) + 19)


def test_safetensors_hold_the_distribution_of_each_token(folder):
    out = folder / "meta_actions.safetensors"
    assert main(["export-meta-actions", "--predictions", str(folder), "--out", str(out)]) == 0
    table = read_table(out)
    assert list(table) == ["aaaa", "bb"]
    assert table["bb"].argmax() == 7
    assert table["bb"].max() == pytest.approx(TOP)
    assert table["aaaa"].sum() == pytest.approx(1)
    with safe_open(out, "np") as file:
        assert json.loads(file.metadata()["meta_actions"]) == [str(action) for action in ALL_META_ACTIONS]


def test_json_lines_hold_the_distribution_of_each_token(folder):
    out = folder / "meta_actions.jsonl"
    assert main(["export-meta-actions", "--predictions", str(folder / "predictions.jsonl"), "--out", str(out)]) == 0
    head, *rows = (json.loads(line) for line in out.read_text().splitlines())
    assert head["meta_actions"][4] == str(ALL_META_ACTIONS[4])
    assert [row["token"] for row in rows] == ["aaaa", "bb"]
    assert rows[0]["probabilities"][4] == pytest.approx(TOP)


def test_trajectories_are_in_the_table_where_they_were_predicted(folder):
    points = [[0.25, 2.5 * step] for step in range(1, 7)]
    lines = [
        {"index": 10, "kind": "trajectory", "token": "bb", "text": format_trajectory(points)},
        {"index": 11, "kind": "trajectory", "token": "aaaa", "text": "no trajectory"},
        {"index": 12, "kind": "trajectory", "token": "", "text": format_trajectory(points)},
    ]
    with (folder / "predictions.jsonl").open("a") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines))
    for name in ("x.safetensors", "x.jsonl"):
        assert main(["export-meta-actions", "--predictions", str(folder), "--out", str(folder / name)]) == 0
    rows = [json.loads(line) for line in (folder / "x.jsonl").read_text().splitlines()[1:]]
    assert [row["trajectory"] for row in rows] == [None, points]
    tensor = load_file(folder / "x.safetensors")["trajectories"]
    assert np.isnan(tensor[0]).all()
    assert tensor[1].tolist() == points


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"token": ""}, ["no token"]),
        ({"token": "aaaa", "index": 3}, ["second plan of the frame aaaa"]),
        ({"log_probs": None}, ["no log_probs", "--mode score"]),
    ],
)
def test_plans_that_a_planner_cannot_use_are_refused_with_their_line(folder, changes, words, capsys):
    line = {**prediction("cc", 1), **changes}
    line = {key: value for key, value in line.items() if value is not None}
    with (folder / "predictions.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    assert main(["export-meta-actions", "--predictions", str(folder), "--out", str(folder / "x.jsonl")]) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in [*words, "line 4"])


def test_a_folder_without_predictions_and_an_unknown_format_are_refused(tmp_path, capsys):
    assert main(["export-meta-actions", "--predictions", str(tmp_path), "--out", str(tmp_path / "x.jsonl")]) == 2
    assert "`senna evaluate`" in capsys.readouterr().err
    assert main(["export-meta-actions", "--predictions", str(tmp_path), "--out", str(tmp_path / "x.csv")]) == 2
    assert ".safetensors or .jsonl" in capsys.readouterr().err


def test_trajectories_of_other_plans_than_the_decisions_are_counted(folder, capsys):
    plans = {"aaaa": str(ALL_META_ACTIONS[4]), "bb": str(ALL_META_ACTIONS[5])}  # the decision of bb is the eighth
    lines = [
        {"index": 10 + number, "kind": "trajectory", "token": token, "text": "", "plan": plan}
        for number, (token, plan) in enumerate(plans.items())
    ]
    with (folder / "predictions.jsonl").open("a") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["export-meta-actions", "--predictions", str(folder), "--out", str(folder / "x.jsonl")]) == 0
    assert "note: 1 trajectories follow another plan than the decision" in capsys.readouterr().out
