"""A comparison is over the records that runs share, in pairs, says where they are not the same, and refuses what is no run."""

import json

import pytest

from senna.errors import UsageError
from senna.evaluate.metrics.evaluate_predictions import evaluate_predictions
from senna.evaluate.report.compare import compare, comparison_text, open_runs, write_comparison
from tests.evaluate.pages import plan, read_page, text

STRAIGHT, LEFT, STOP = "KEEP, STRAIGHT", "KEEP, LEFT_TURN", "STOP, STRAIGHT"


def save(folder, predictions, **run):
    folder.mkdir(parents=True)
    metrics = evaluate_predictions(predictions, run={"model": folder.name, **run})
    (folder / "metrics.json").write_text(json.dumps(metrics, sort_keys=True))
    (folder / "predictions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in predictions))
    return folder


def told(answers, scenes="aabb", **changes):
    """Four plans in scenes a and b whose truths are STRAIGHT, STOP, STRAIGHT, STOP."""
    truths = [STRAIGHT, STOP, STRAIGHT, STOP]
    return [
        plan(place, truth, answer, scene=scene, **changes)
        for place, (truth, answer, scene) in enumerate(zip(truths, answers, scenes, strict=True))
    ]


def test_the_difference_is_that_of_the_figures_by_hand_and_its_bounds_those_of_resampled_scenes():
    first = told([STRAIGHT, STRAIGHT, STRAIGHT, STRAIGHT])  # 2 of 4; F1: STRAIGHT 2/3, STOP 0; macro 1/3
    other = told([STRAIGHT, STOP, STRAIGHT, STRAIGHT])  # 3 of 4; F1: STRAIGHT 4/5, STOP 2/3; macro 11/15
    found = compare(first, other)
    assert found.shared == 4
    assert found.gain["accuracy"]["both"]["value"] == pytest.approx(3 / 4 - 2 / 4)
    assert found.gain["macro_f1"]["both"]["value"] == pytest.approx(11 / 15 - 1 / 3)
    assert found.gain["accuracy"]["path"]["value"] == 0
    # Resamples are of scenes a, a: accuracy 1 against 1/2; a, b: as above; b, b: 1/2 against 1/2.
    assert (found.gain["accuracy"]["both"]["low"], found.gain["accuracy"]["both"]["high"]) == (0.0, 0.5)
    # a, a: macro F1 1 against that of STRAIGHT 2/3 and STOP 0; b, b: the same in both.
    assert found.gain["macro_f1"]["both"]["low"] == 0.0
    assert found.gain["macro_f1"]["both"]["high"] == pytest.approx(1 - 1 / 3)
    assert found.outcomes == {(True, True): 2, (True, False): 0, (False, True): 1, (False, False): 1}
    assert [(mine["index"], its["index"]) for mine, its in found.apart] == [(1, 1)]
    assert found.warnings == []


def test_a_run_has_nothing_over_itself():
    predictions = told([STRAIGHT, STRAIGHT, STRAIGHT, STOP])
    found = compare(predictions, predictions)
    assert all(gain["both"] == {"value": 0, "low": 0, "high": 0} for gain in found.gain.values())
    assert found.apart == []


def test_only_shared_records_with_the_same_truth_are_compared_and_the_rest_is_told():
    first = told([STRAIGHT, STOP, STRAIGHT, STOP])
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
    assert moved.startswith("1 shared records have another truth")
    assert words.startswith("1 shared records were asked in other words")


def test_records_are_matched_by_id_wherever_they_stand_and_by_number_where_they_share_one():
    first = told([STRAIGHT, STOP, STOP, STOP])
    assert compare(first, [{**one, "index": 10 - one["index"]} for one in first[::-1]]).outcomes[True, True] == 3
    alike = [{**one, "id": "same"} for one in first]
    assert compare(alike, alike).shared == 4


def test_those_that_differ_most_in_the_probability_of_the_truth_come_first():
    first = [plan(0, STOP, STOP, share=0.5), plan(1, STOP, STOP, share=0.9), plan(2, STOP, STOP, share=0.7)]
    other = [plan(place, STOP, STRAIGHT, share=0.9) for place in range(3)]
    assert [mine["index"] for mine, _ in compare(first, other).apart] == [1, 2, 0]


def test_a_scored_run_is_compared_with_a_generated_one():
    first = told([STRAIGHT, STOP, STRAIGHT, STOP])
    other = told([STRAIGHT, "STOP or KEEP", STRAIGHT, STOP], mode="generate")
    found = compare(first, other)
    assert found.gain["accuracy"]["both"]["value"] == pytest.approx(3 / 4 - 1)
    assert len(found.apart) == 1


def test_the_page_and_the_table_have_each_run_and_the_difference(tmp_path, capsys):
    lights = [text(place, "traffic_light", "Red\n", "Red\n") for place in range(4)]
    a = save(tmp_path / "a", [*told([STRAIGHT, STRAIGHT, STRAIGHT, STRAIGHT]), *lights])
    b = save(tmp_path / "b", [*told([STRAIGHT, STOP, STRAIGHT, STRAIGHT]), *lights])
    c = save(tmp_path / "c", told([STRAIGHT, STOP, STRAIGHT, STOP]))
    page = read_page(write_comparison([a, b, c], tmp_path / "out"))
    printed = capsys.readouterr().out
    for shown in (page.text, printed):
        assert "0.250" in shown
        assert "0.333" in shown  # a's macro F1
        assert "0.733" in shown  # b's
        assert "traffic light" in shown
        assert "Not the same records: 4 are in both, 4 only in the first, 0 only in the other" in shown
    assert "b wrong, a right" not in page.text
    assert "b right, a wrong" in page.text
    assert page.text.count("image not found") == 6 * (1 + 2)  # of b one frame, of c two
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["comparison.html"]


def test_pictures_come_from_where_the_run_had_them(tmp_path):
    from PIL import Image

    predictions = told([STRAIGHT, STRAIGHT, STRAIGHT, STRAIGHT])
    for name in predictions[1]["images"]:
        (tmp_path / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (160, 90)).save(tmp_path / "pictures" / name)
    a = save(tmp_path / "a", predictions)
    (a / "run.json").write_text(json.dumps({"image_folder": str(tmp_path / "pictures"), "data": "val.jsonl"}))
    b = save(tmp_path / "b", told([STRAIGHT, STOP, STRAIGHT, STRAIGHT]))
    page = read_page(write_comparison([a, b], tmp_path / "out"))
    assert sum(address.startswith("data:image/jpeg") for address in page.fetched) == 6


def test_runs_of_text_answers_alone_are_compared(tmp_path):
    a = save(tmp_path / "a", [text(place, "traffic_light", "Red\n", "Red\n") for place in range(4)])
    b = save(tmp_path / "b", [text(place, "traffic_light", "Red\n", "Green\n") for place in range(4)])
    page = read_page(write_comparison([a, b], tmp_path / "out"))
    assert "traffic light" in page.text
    assert "navigation command" not in page.text
    runs = open_runs([a, b])
    accuracy = next(line for line in comparison_text(runs, [compare(*(run.predictions for run in runs))]).splitlines()
                    if line.startswith("traffic light accuracy"))  # fmt: skip
    assert accuracy.split()[3:] == ["1.000", "(1.000", "to", "1.000)", "0.000", "(0.000", "to", "0.000)"]


def test_what_a_folder_is_called_is_no_markup(tmp_path):
    a = save(tmp_path / "<i>a", told([STRAIGHT, STOP, STRAIGHT, STRAIGHT]))
    b = save(tmp_path / "b", told([STRAIGHT, STRAIGHT, STRAIGHT, STRAIGHT]))
    assert "<i>a wrong" not in read_page(write_comparison([a, b], tmp_path / "out")).text
    assert "b wrong, <i>a right" in read_page(tmp_path / "out" / "comparison.html").text


def test_runs_of_one_name_are_told_apart(tmp_path):
    predictions = told([STRAIGHT, STOP, STRAIGHT, STRAIGHT])
    folders = [save(tmp_path / part / "eval", predictions) for part in ("one", "two")]
    assert [run.name for run in open_runs(folders)] == [str(folder) for folder in folders]


def test_what_is_no_run_is_refused_with_what_to_do(tmp_path):
    predictions = told([STRAIGHT, STOP, STRAIGHT, STRAIGHT])
    a = save(tmp_path / "a", predictions)
    for folders in ([], [a], [a, a]):
        with pytest.raises(UsageError, match="two evaluations or more"):
            write_comparison(folders, tmp_path)
    with pytest.raises(UsageError, match=r"none has no metrics.json: `senna evaluate --out"):
        write_comparison([a, tmp_path / "none"], tmp_path)
    b = save(tmp_path / "b", predictions)
    (b / "metrics.json").write_text("{")
    with pytest.raises(UsageError, match=r"metrics.json cannot be read"):
        write_comparison([a, b], tmp_path)
    (b / "metrics.json").write_text("[1]")
    with pytest.raises(UsageError, match=r"metrics.json is not of `senna evaluate`"):
        write_comparison([a, b], tmp_path)
    c = save(tmp_path / "c", predictions)
    (c / "predictions.jsonl").unlink()
    with pytest.raises(UsageError, match=r"predictions.jsonl is not there"):
        write_comparison([a, c], tmp_path)
