"""Evaluation of trajectories: the question states the predicted plan, and the report shows the figures from above."""

import json

import numpy as np
import pytest
import torch

from senna.cli import main
from senna.evaluate.decisions import DEFAULT_RULES, open_rules
from senna.evaluate.metrics.collisions import motion_headings
from senna.evaluate.metrics.trajectory import trajectory_metrics
from senna.evaluate.predict import state_predicted_plan
from senna.evaluate.predictions import Store, read_predictions
from senna.evaluate.report.birds_eye import birds_eye_svg
from senna.evaluate.report.trajectories import trajectory_section
from senna.evaluate.server_questions import QuestionReader
from senna.evaluate.shared_frames import FrameSet
from senna.futures import Futures, futures_path
from senna.record_file import open_records
from senna.trajectory import format_trajectory
from tests.evaluate.balanced_model import TRAINED, balanced_model

AHEAD = np.array([[0.0, 2.0 * step] for step in range(1, 7)])
NO_PLAN = "frame-1"  # the frame that has a trajectory and no plan


@pytest.fixture(scope="module")
def data(plans, tmp_path_factory):
    """Return the toy records of the first four frames with trajectories whose recorded plan is never predicted."""
    path = tmp_path_factory.mktemp("trajectories") / "val.jsonl"
    records = []
    for record in map(json.loads, plans.read_text().splitlines()):
        if record.get("token") in [f"frame-{number}" for number in range(4)] and record["kind"] == "plan":
            if record["token"] != NO_PLAN:
                records.append(record)
            block = record["conversations"][0]["value"].removesuffix("your plan?")
            question = f"{block}with ACCELERATE, LEFT_TURN?"
            turns = [{"from": "human", "value": question}, {"from": "gpt", "value": format_trajectory(AHEAD) + "\n"}]
            stated = {"plan": "ACCELERATE, LEFT_TURN", "plan_at": [len(block) + 5], "speed": 4.0}
            name = f"{record['token']}-trajectory"
            records.insert(0, {**record, "id": name, "kind": "trajectory", "conversations": turns, **stated})
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_questions_state_the_predicted_plan_of_their_frame(planner, data, toy, tmp_path):
    flags = ["--model", planner, "--data", data, "--image-folder", toy.images, "--out", tmp_path, "--workers", 0]
    flags += ["--kinds", "plan,trajectory", "--max-new-tokens", 4, "--batch-size", 2]
    assert main(["evaluate", *map(str, flags)]) == 0
    rows = read_predictions(tmp_path / "predictions.jsonl")
    predicted = {row["token"]: row["sum"] for row in rows if row["kind"] == "plan"}
    trajectories = {row["token"]: row for row in rows if row["kind"] == "trajectory"}
    assert len(predicted) == 3
    assert len(trajectories) == 4
    for token, row in trajectories.items():
        stated = "ACCELERATE, LEFT_TURN" if token == NO_PLAN else predicted[token]
        assert (row["plan"], row["question"]) == (stated, f"with {stated}?")
        assert row["plan_source"] == ("recorded" if token == NO_PLAN else "predicted")
    figures = json.loads((tmp_path / "metrics.json").read_text())["trajectory"]
    assert (figures["records"], figures["recorded_plans"], figures["invalid"]) == (4, 1, 1.0)
    assert figures["l2"]["at"]["3"]["value"] is None, "no answer of this model is a trajectory"
    assert figures["baselines"]["constant velocity"]["fde"]["value"] == 0.0
    assert figures["collisions"] is None
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "arXiv 2312.03031" in page
    assert "1 questions state the <b>recorded</b> plan" in page
    assert DEFAULT_RULES.plans(Store(tmp_path)) == predicted


def test_questions_state_the_plan_of_the_decision_in_force(planner, data, toy, tmp_path, capsys):
    model, out = balanced_model(planner, tmp_path / "model"), tmp_path / "out"
    flags = ["--model", model, "--data", data, "--image-folder", toy.images, "--out", out, "--workers", 0]
    flags += ["--kinds", "plan,trajectory", "--max-new-tokens", 2, "--batch-size", 2]
    first: dict = {}
    for decision in ("balanced", "likeliest", "greedy"):
        assert main(["evaluate", *map(str, flags), "--decision", decision]) == 0
        rows = open_rules(decision, str(model), None, FrameSet.of_file(open_records(data), [], None)).decide(
            read_predictions(out)
        )
        decided = {row["token"]: row[row["headline"]] for row in rows if row["kind"] == "plan"}
        stated = {row["token"]: row["plan"] for row in rows if row["kind"] == "trajectory"}
        assert stated == {**decided, NO_PLAN: "ACCELERATE, LEFT_TURN"}
        assert set(decided.values()).isdisjoint(TRAINED) == (decision == "balanced")
        scores = {row["token"]: row["log_probs"] for row in rows if row["kind"] == "plan"}
        first = first or scores
        assert scores == first, "plans are not predicted again for another decision"
        assert json.loads((out / "metrics.json").read_text())["trajectory"]["decision"] == decision
        assert f"<code>--decision {decision}</code>" in (out / "report.html").read_text(encoding="utf-8")
        assert f"plans by --decision {decision}" in capsys.readouterr().out


def test_trajectories_drawn_again_are_the_same_in_every_evaluation(planner, data, toy, tmp_path):
    flags = [
        "--model",
        planner,
        "--data",
        data,
        "--image-folder",
        toy.images,
        "--workers",
        0,
        "--kinds",
        "plan,trajectory",
    ]
    flags += ["--max-new-tokens", 4, "--batch-size", 2, "--trajectory-tries", 3]
    for out in ("one", "two"):
        torch.manual_seed(len(out) if out == "one" else 0)
        assert main(["evaluate", *map(str, flags), "--out", str(tmp_path / out)]) == 0
    one, two = (read_predictions(tmp_path / out / "predictions.jsonl") for out in ("one", "two"))
    assert one == two
    assert [row["tries"] for row in one if row["kind"] == "trajectory"] == [3] * 4, (
        "no answer of this model is a trajectory"
    )
    assert json.loads((tmp_path / "one" / "metrics.json").read_text())["trajectory"]["drawn_again"] == 1.0
    assert "The first answer did not follow its plan in 100" in (tmp_path / "one" / "report.html").read_text(
        encoding="utf-8"
    )


def test_trajectories_of_other_plans_are_deleted_with_the_results(tmp_path):
    def row(index, token, kind, **more):
        return {"index": index, "token": token, "kind": kind, **more}

    store = Store(tmp_path)
    answers = {"a": "KEEP, STRAIGHT", "b": "STOP, STRAIGHT", "c": "?"}
    rows = [row(index, token, "plan", text=text) for index, (token, text) in enumerate(answers.items())]
    paths = [
        row(3, "a", "trajectory", text="", plan="KEEP, STRAIGHT", plan_source="predicted"),
        row(4, "b", "trajectory", text="", plan="KEEP, STRAIGHT", plan_source="predicted"),
        row(5, "c", "trajectory", text="", plan="STOP, STRAIGHT", plan_source="recorded"),
        row(6, "b", "trajectory", error="no image"),
    ]
    store.append(0, [*rows, *paths])
    (tmp_path / "metrics.json").write_text("{}")
    store.discard_some(DEFAULT_RULES.is_stale(store))
    assert sorted(line["index"] for line in store) == [0, 1, 2, 3, 5, 6]
    assert not (tmp_path / "metrics.json").exists()
    (tmp_path / "metrics.json").write_text("{}")
    store.discard_some(DEFAULT_RULES.is_stale(store))  # nothing is stale now
    assert (tmp_path / "metrics.json").exists()


def test_a_server_is_asked_with_the_predicted_plan_too(data, toy):
    records = open_records(data)
    index = next(
        i for i, record in enumerate(records) if record["kind"] == "trajectory" and record["token"] == "frame-2"
    )
    question = QuestionReader(records, str(toy.images), plans={"frame-2": "STOP, STRAIGHT"}).read(index)
    assert question.text.endswith("with STOP, STRAIGHT?")
    assert (question.facts["plan"], question.facts["plan_source"]) == ("STOP, STRAIGHT", "predicted")
    plan = next(record for record in records if record["kind"] == "plan")
    assert state_predicted_plan(plan, {str(plan["token"]): "STOP, STRAIGHT"}) is plan


def test_the_section_compares_with_the_baselines_and_shows_the_largest_errors():
    off = [AHEAD + np.array([error, 0.0]) for error in (0.5, 3.0, 1.0)]
    rows = [
        {"index": index, "id": f"<{index}>", "kind": "trajectory", "scene": f"s{index}", "token": f"t{index}", "speed": 4.0,
         "question": "?", "plan": "KEEP, STRAIGHT", "truth": format_trajectory(AHEAD), "text": format_trajectory(xy)}
        for index, xy in enumerate(off)
    ]  # fmt: skip
    ego = np.column_stack([AHEAD, motion_headings(AHEAD[None])[0]])
    parked = np.array([[[3.0, 8.5, 0.0]] * 6])
    futures = {
        f"t{n}": Futures(f"t{n}", ego, np.zeros((0, 3)), ("<car>",), np.array([[4.0, 2.0]]), parked) for n in range(3)
    }
    figures = trajectory_metrics(rows, futures)
    assert figures is not None
    page = "".join(trajectory_section(figures, rows, futures))
    assert [page.index(f"{error} m off") for error in ("3.0", "1.0", "0.5")] == sorted(
        page.index(f"{error} m off") for error in ("3.0", "1.0", "0.5")
    )
    assert "<b>above</b> constant velocity (0.00)" in page
    assert "<car>" not in page
    assert "&lt;1&gt;" in page
    assert page.count('class="hit"') == sum(
        int(birds_eye_svg(AHEAD, xy, futures["t0"]).count('class="hit"')) for xy in off
    )
    assert 'class="hit"' in birds_eye_svg(AHEAD, off[1], futures["t0"])
    assert 'class="hit"' not in birds_eye_svg(AHEAD, AHEAD, futures["t0"])


def test_futures_lie_beside_the_records(tmp_path):
    assert futures_path(tmp_path / "senna_nusc_val.jsonl").name == "senna_nusc_val.futures.jsonl"
    assert futures_path(tmp_path / "senna_nusc_val.json").name == "senna_nusc_val.futures.jsonl"
