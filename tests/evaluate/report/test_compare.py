"""Comparisons of evaluations: paired differences over shared records, warnings about other records, refused folders."""

import json

import numpy as np
import pytest

from senna.errors import UsageError
from senna.evaluate.metrics.evaluate_predictions import evaluate_predictions
from senna.evaluate.metrics.trajectory import trajectory_metrics
from senna.evaluate.report import compare as compare_command
from senna.evaluate.report.compare import write_comparison
from senna.evaluate.report.comparison import compare, futures_of, open_runs
from senna.evaluate.report.console import comparison_text
from senna.futures import Futures, futures_path
from senna.trajectory import format_trajectory
from tests.evaluate.pages import LEFT, STOP, STRAIGHT, plan, read_page, text


def save(folder, predictions, **run):
    folder.mkdir(parents=True)
    metrics = evaluate_predictions(predictions, run={"model": folder.name, **run})
    (folder / "metrics.json").write_text(json.dumps(metrics, sort_keys=True))
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in predictions))
    return folder


def four_plans(answers, scenes="aabb", **changes):
    """Return predictions of four plans in scenes a and b whose truths are STRAIGHT, STOP, STRAIGHT, STOP."""
    truths = [STRAIGHT, STOP, STRAIGHT, STOP]
    return [
        plan(index, truth, answer, scene=scene, **changes)
        for index, (truth, answer, scene) in enumerate(zip(truths, answers, scenes, strict=True))
    ]


def test_differences_and_their_bounds_equal_a_computation_by_hand():
    first = four_plans([STRAIGHT, STRAIGHT, STRAIGHT, STRAIGHT])  # 2 of 4; F1: STRAIGHT 2/3, STOP 0; macro 1/3
    other = four_plans([STRAIGHT, STOP, STRAIGHT, STRAIGHT])  # 3 of 4; F1: STRAIGHT 4/5, STOP 2/3; macro 11/15
    found = compare(first, other)
    assert found.shared == 4
    assert found.gain["accuracy"]["both"]["value"] == pytest.approx(3 / 4 - 2 / 4)
    assert found.gain["macro_f1"]["both"]["value"] == pytest.approx(11 / 15 - 1 / 3)
    assert found.gain["accuracy"]["path"]["value"] == 0
    # Accuracies in the resample of scenes a, a: 1 and 1/2; of a, b: as above; of b, b: 1/2 and 1/2.
    assert (found.gain["accuracy"]["both"]["low"], found.gain["accuracy"]["both"]["high"]) == (0.0, 0.5)
    # Macro F1 in a, a: 1 and the mean of STRAIGHT 2/3 and STOP 0; in b, b: equal. The basic interval is wider above.
    assert found.gain["macro_f1"]["both"]["low"] == 0.0
    assert found.gain["macro_f1"]["both"]["high"] == pytest.approx(2 * (11 / 15 - 1 / 3))
    assert found.outcomes == {(True, True): 2, (True, False): 0, (False, True): 1, (False, False): 1}
    assert [(a["index"], b["index"]) for a, b in found.disagreements] == [(1, 1)]
    assert found.warnings == []


def test_a_run_does_not_differ_from_itself():
    predictions = four_plans([STRAIGHT, STRAIGHT, STRAIGHT, STOP])
    found = compare(predictions, predictions)
    assert all(gain["both"] == {"value": 0, "low": 0, "high": 0} for gain in found.gain.values())
    assert found.disagreements == []


def test_only_shared_records_with_the_same_truth_are_compared_and_others_give_warnings():
    first = four_plans([STRAIGHT, STOP, STRAIGHT, STOP])
    other = [
        first[0],
        {**first[1], "truth": f"{LEFT}\n"},
        {**first[2], "question": "In other words?", "index": 77, "sum": LEFT},
        plan(9, STOP, STOP),
        plan(8, STOP, STOP),
    ]
    found = compare(first, other)
    assert found.shared == 2
    assert found.gain["accuracy"]["both"]["value"] == pytest.approx(1 / 2 - 1)
    records, moved, words = found.warnings
    assert "3 are in both, 1 only in the first, 2 only in the other" in records
    assert moved.startswith("1 shared records have different ground truths")
    assert words.startswith("1 shared records have differently worded questions")


def test_records_are_matched_by_id_in_any_order_and_by_number_if_they_share_an_id():
    first = four_plans([STRAIGHT, STOP, STOP, STOP])
    assert compare(first, [{**row, "index": 10 - row["index"]} for row in first[::-1]]).outcomes[True, True] == 3
    same_id = [{**row, "id": "same"} for row in first]
    assert compare(same_id, same_id).shared == 4


def test_disagreements_are_sorted_by_the_difference_in_the_probability_of_the_truth():
    first = [plan(0, STOP, STOP, share=0.5), plan(1, STOP, STOP, share=0.9), plan(2, STOP, STOP, share=0.7)]
    other = [plan(index, STOP, STRAIGHT, share=0.9) for index in range(3)]
    assert [row["index"] for row, _ in compare(first, other).disagreements] == [1, 2, 0]


def test_a_scored_run_is_compared_with_a_generated_one():
    first = four_plans([STRAIGHT, STOP, STRAIGHT, STOP])
    other = four_plans([STRAIGHT, "STOP or KEEP", STRAIGHT, STOP], mode="generate")
    found = compare(first, other)
    assert found.gain["accuracy"]["both"]["value"] == pytest.approx(3 / 4 - 1)
    assert len(found.disagreements) == 1


def test_the_page_and_the_printed_text_have_each_run_and_the_differences(tmp_path, capsys):
    lights = [text(index, "traffic_light", "Red\n", "Red\n") for index in range(4)]
    a = save(tmp_path / "a", [*four_plans([STRAIGHT, STRAIGHT, STRAIGHT, STRAIGHT]), *lights])
    b = save(tmp_path / "b", [*four_plans([STRAIGHT, STOP, STRAIGHT, STRAIGHT]), *lights])
    c = save(tmp_path / "c", four_plans([STRAIGHT, STOP, STRAIGHT, STOP]))
    assert compare_command.main([*map(str, [a, b, c]), "--out", str(tmp_path / "out")]) == 0
    page, printed = read_page(tmp_path / "out" / "comparison.html"), capsys.readouterr().out
    for shown in (page.text, printed):
        assert "0.250" in shown
        assert "0.333" in shown  # a's macro F1
        assert "0.733" in shown  # b's
        assert "traffic light" in shown
        assert "Not the same records: 4 are in both, 4 only in the first, 0 only in the other" in shown
    assert "b wrong, a right" not in page.text
    assert "b right, a wrong" in page.text
    assert page.text.count("image not found") == 6 * (1 + 2)  # one frame for b, two for c
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["comparison.html"]


AHEAD = np.array([[0.0, 2.0 * step] for step in range(1, 7)])


def four_trajectories(offsets, plans=4 * [STRAIGHT]):
    """Return predictions of trajectories in scenes a, a, b and b that lie so many metres to the right of the recorded ones."""
    rows = []
    for index, (offset, stated) in enumerate(zip(offsets, plans, strict=True)):
        xy = format_trajectory(AHEAD + np.array([offset, 0.0]))
        row = text(index, "trajectory", format_trajectory(AHEAD), xy, scene="aabb"[index], plan=stated, speed=4.0)
        rows.append({**row, "question": f"Given {stated}, where?", "plan_source": "predicted"})
    return rows


def save_trajectories(folder, rows, data):
    """Write an evaluation whose data have a car parked 2 to 4 m to the right of the road, from 8.5 to 12.5 m ahead."""
    ego = np.column_stack([AHEAD, np.zeros(6)])
    parked = np.array([[[3.0, 10.5, 0.0]] * 6])
    futures = {
        row["token"]: Futures(row["token"], ego, np.zeros((0, 3)), ("car",), np.array([[4.0, 2.0]]), parked)
        for row in rows
    }
    futures_path(data).write_text("".join(json.dumps(found.as_json()) + "\n" for found in futures.values()))
    save(folder, rows)
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["trajectory"] = trajectory_metrics(rows, futures, decision="balanced")
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "run.json").write_text(json.dumps({"data": str(data)}))
    return folder


def test_trajectories_are_compared_with_paired_intervals_by_scene(tmp_path, capsys):
    data = tmp_path / "val.jsonl"
    first = save_trajectories(tmp_path / "a", four_trajectories([1, 1, 1, 1]), data)
    plans = [STRAIGHT, STRAIGHT, STOP, STOP]
    other = save_trajectories(tmp_path / "b", four_trajectories([0.5, 0.5, 2, 2], plans), data)
    runs = open_runs([first, other])
    found = compare(*(run.predictions for run in runs), futures_of(runs[0]))
    assert found.trajectories == 4
    assert found.warnings == []  # questions that differ in the stated plan alone are the same question
    gain = found.trajectory_gain
    for way in ("at", "mean"):  # by scene -0.5 and 1.0; a resample may have one of the scenes twice
        assert gain["l2"][way]["3"] == {"value": 0.25, "low": -0.5, "high": 1.0}
    assert gain["fde"] == gain["ade"] == gain["l2"]["at"]["1"]
    assert gain["collisions"]["at"]["1"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert gain["collisions"]["at"]["3"] == {"value": 0.5, "low": 0.0, "high": 1.0}  # 2 m to the right is into the car
    assert gain["consistency"] == {"value": -0.5, "low": -1.0, "high": 0.0}

    assert compare_command.main([str(first), str(other), "--out", str(tmp_path)]) == 0
    page, printed = read_page(tmp_path / "comparison.html").text, capsys.readouterr().out
    for shown in (page, printed):
        assert "L2 at 3 s" in shown
        assert "consistent with the plan" in shown
        assert "+0.250" in shown
    assert "balanced" in page
    assert "L2 at 3 s                 1.000 (1.000 to 1.000)  1.250 (0.500 to 2.000)" in printed


def test_trajectories_of_one_run_alone_and_without_futures_are_no_difference(tmp_path):
    data = tmp_path / "val.jsonl"
    first = save_trajectories(tmp_path / "a", four_trajectories([1, 1, 1, 1]), data)
    other = save(tmp_path / "b", four_plans([STRAIGHT, STOP, STRAIGHT, STOP]))
    assert "The trajectory" not in read_page(write_comparison([first, other], tmp_path)).text
    rows = four_trajectories([1, 1, 1, 1])
    unreadable = [{**row, "text": "?"} if row["index"] == 0 else row for row in rows]
    found = compare(rows, unreadable)
    assert found.trajectory_gain["collisions"] is None
    assert found.trajectory_gain["l2"]["at"]["3"]["value"] == 0.0  # over the three that both have
    assert found.trajectory_gain["consistency"]["value"] == -0.25  # an answer that is none is not consistent
    assert compare(rows, []).trajectory_gain is None


def test_images_are_read_from_the_image_folder_of_the_run(tmp_path):
    from PIL import Image

    predictions = four_plans([STRAIGHT, STRAIGHT, STRAIGHT, STRAIGHT])
    for name in predictions[1]["images"]:
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (160, 90)).save(tmp_path / "images" / name)
    a = save(tmp_path / "a", predictions)
    (a / "run.json").write_text(json.dumps({"image_folder": str(tmp_path / "images"), "data": "val.jsonl"}))
    b = save(tmp_path / "b", four_plans([STRAIGHT, STOP, STRAIGHT, STRAIGHT]))
    page = read_page(write_comparison([a, b], tmp_path / "out"))
    assert sum(address.startswith("data:image/jpeg") for address in page.addresses) == 6


def test_runs_of_text_answers_alone_are_compared(tmp_path):
    a = save(tmp_path / "a", [text(index, "traffic_light", "Red\n", "Red\n") for index in range(4)])
    b = save(tmp_path / "b", [text(index, "traffic_light", "Red\n", "Green\n") for index in range(4)])
    page = read_page(write_comparison([a, b], tmp_path / "out"))
    assert "traffic light" in page.text
    assert "navigation command" not in page.text
    runs = open_runs([a, b])
    accuracy = next(line for line in comparison_text(runs, [compare(*(run.predictions for run in runs))]).splitlines()
                    if line.startswith("traffic light accuracy"))  # fmt: skip
    assert accuracy.split()[3:] == ["1.000", "(1.000", "to", "1.000)", "0.000", "(0.000", "to", "0.000)"]


def test_the_name_of_a_folder_is_escaped(tmp_path):
    a = save(tmp_path / "<i>a", four_plans([STRAIGHT, STOP, STRAIGHT, STRAIGHT]))
    b = save(tmp_path / "b", four_plans([STRAIGHT, STRAIGHT, STRAIGHT, STRAIGHT]))
    assert "<i>a wrong" not in read_page(write_comparison([a, b], tmp_path / "out")).text
    assert "b wrong, <i>a right" in read_page(tmp_path / "out" / "comparison.html").text


def test_runs_of_the_same_name_are_distinguished_by_their_folders(tmp_path):
    predictions = four_plans([STRAIGHT, STOP, STRAIGHT, STRAIGHT])
    folders = [save(tmp_path / part / "eval", predictions) for part in ("one", "two")]
    assert [run.name for run in open_runs(folders)] == [str(folder) for folder in folders]


def test_a_folder_without_an_evaluation_is_refused_with_a_remedy(tmp_path):
    predictions = four_plans([STRAIGHT, STOP, STRAIGHT, STRAIGHT])
    a = save(tmp_path / "a", predictions)
    for folders in ([], [a], [a, a]):
        with pytest.raises(UsageError, match="fewer than two evaluations") as error:
            write_comparison(folders, tmp_path)
        assert "senna compare A B" in error.value.remedy
    with pytest.raises(UsageError, match=r"none has no metrics\.json") as error:
        write_comparison([a, tmp_path / "none"], tmp_path)
    assert "senna evaluate --out" in error.value.remedy
    b = save(tmp_path / "b", predictions)
    (b / "metrics.json").write_text("{")
    with pytest.raises(UsageError, match=r"metrics\.json cannot be read"):
        write_comparison([a, b], tmp_path)
    (b / "metrics.json").write_text("[1]")
    with pytest.raises(UsageError, match=r"metrics\.json was not written by `senna evaluate`"):
        write_comparison([a, b], tmp_path)
    c = save(tmp_path / "c", predictions)
    (c / "predictions.jsonl").unlink()
    with pytest.raises(UsageError, match=r"predictions\.jsonl does not exist"):
        write_comparison([a, c], tmp_path)


def test_the_page_is_written_into_the_first_folder_by_default(tmp_path):
    predictions = four_plans([STRAIGHT, STOP, STRAIGHT, STRAIGHT])
    a, b = save(tmp_path / "a", predictions), save(tmp_path / "b", predictions)
    assert compare_command.main([str(a), str(b)]) == 0
    assert (a / "comparison.html").is_file()
    with pytest.raises(UsageError, match="DIR"):
        compare_command.main(["--out", str(tmp_path)])
