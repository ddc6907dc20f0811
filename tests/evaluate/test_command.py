"""`senna evaluate` as a user runs it, on the toy data of the training tests."""

import json
import os
import shutil
import time

import pytest

from senna.cli import main
from senna.errors import UsageError
from senna.evaluate import command
from senna.evaluate.predictions import read_predictions
from senna.file_lock import lock_folder
from senna.meta_actions import ALL_META_ACTIONS
from tests.helpers.forks import Run


def flags(planner, plans, toy, out, *more) -> list[str]:
    given = {"--model": planner, "--data": plans, "--image-folder": toy.images, "--out": out, "--workers": 0}
    return ["evaluate", *(str(word) for pair in given.items() for word in pair), *map(str, more)]


@pytest.fixture(scope="module")
def evaluated(planner, plans, toy, tmp_path_factory):
    """Return the folder of a finished evaluation in score mode, with black images as well."""
    out = tmp_path_factory.mktemp("evaluated") / "out"
    assert main(flags(planner, plans, toy, out, "--blackout", "--train-data", toy.driving)) == 0
    return out


def test_metrics_count_the_predictions_and_the_page_is_written(evaluated):
    metrics = json.loads((evaluated / "metrics.json").read_text())
    predictions = read_predictions(evaluated / "predictions.jsonl")
    plan, correct = metrics["plan"], [row["sum"] == row["truth"].strip() for row in predictions]
    assert (metrics["records"], metrics["scenes"]) == (24, 3)
    assert plan["decisions"]["sum"]["accuracy"]["both"]["value"] == pytest.approx(sum(correct) / 24)
    # 18 of the 24 plans are KEEP, STRAIGHT; the others are STOP, STRAIGHT
    assert plan["baselines"]["majority class"]["accuracy"]["both"]["value"] == 18 / 24
    assert plan["baselines_fitted_on"] == "driving.jsonl, 24 plans"
    assert {path.suffix for path in evaluated.iterdir()} == {".json", ".jsonl", ".html", ".png"}


def test_predictions_depend_on_the_images(evaluated):
    with_images = read_predictions(evaluated / "predictions.jsonl")
    black = read_predictions(evaluated / "predictions_blackout.jsonl")
    assert [row["index"] for row in black] == [row["index"] for row in with_images]
    assert all(a["log_probs"] != b["log_probs"] for a, b in zip(with_images, black, strict=True))
    assert len({tuple(row["log_probs"]) for row in with_images}) == 4  # four frames
    spread = [max(values) - min(values) for values in zip(*(row["log_probs"] for row in black), strict=True)]
    assert max(spread) < 1e-4  # black frames are equal; the rest is rounding of batches


def test_each_plan_has_twenty_log_probabilities_and_the_facts_of_its_record(evaluated, plans):
    predictions = read_predictions(evaluated / "predictions.jsonl")
    records = [json.loads(line) for line in plans.read_text().splitlines()]
    wanted = [index for index, record in enumerate(records) if record["kind"] == "plan"]
    assert [row["index"] for row in predictions] == wanted
    for row in predictions:
        record = records[row["index"]]
        assert (row["id"], row["scene"]) == (record["id"], record["scene_token"])
        assert row["truth"] == record["conversations"][1]["value"]
        assert row["question"] == "your plan?"
        assert len(row["log_probs"]) == 20
        assert row["sum"] == str(ALL_META_ACTIONS[max(range(20), key=row["log_probs"].__getitem__)])
        assert all("CAM_" in path for path in row["images"])
        assert "FRONT/" in row["images"][0]  # the order of the prompt, which differs from the record's


def test_generated_text_equals_the_greedy_decision_unless_it_leaves_the_tree(evaluated, planner, plans, toy, tmp_path):
    assert main(flags(planner, plans, toy, tmp_path, "--mode", "generate", "--max-new-tokens", 40)) == 0
    scored = {row["index"]: row for row in read_predictions(evaluated / "predictions.jsonl")}
    generated = read_predictions(tmp_path / "predictions.jsonl")
    inside = [row for row in generated if scored[row["index"]]["left_tree"] is None]
    assert inside
    assert [row["text"].strip() for row in inside] == [scored[row["index"]]["greedy"] for row in inside]


def test_other_kinds_are_answered_with_text(planner, plans, toy, tmp_path):
    more = ("--kinds", "description,text", "--limit", 6, "--max-new-tokens", 5)
    assert main(flags(planner, plans, toy, tmp_path, *more)) == 0
    predictions = read_predictions(tmp_path / "predictions.jsonl")
    assert {row["kind"] for row in predictions} == {"description", "text"}
    assert all("log_probs" not in row and isinstance(row["text"], str) for row in predictions)


@pytest.mark.slow
def test_an_interrupted_and_continued_evaluation_gives_the_same_metrics(planner, plans, toy, tmp_path):
    complete, killed = tmp_path / "complete", tmp_path / "killed"
    more = ("--batch-size", 2, "--mode", "score")
    assert main(flags(planner, plans, toy, complete, *more)) == 0
    process = Run(main, flags(planner, plans, toy, killed, *more), tmp_path)
    part = killed / "predictions.part-0.jsonl"
    while process.poll() is None and not (part.exists() and part.read_bytes().count(b"\n") >= 4):
        time.sleep(0.002)
    process.kill()
    assert not (killed / "metrics.json").exists()
    part.write_bytes(part.read_bytes()[:-7])  # as if the process had been killed while it wrote a line
    assert main(flags(planner, plans, toy, killed, *more)) == 0
    for name in ("metrics.json", "predictions.jsonl"):
        assert (killed / name).read_bytes() == (complete / name).read_bytes()
    assert not list(killed.glob("*.part-*"))


@pytest.mark.slow
def test_two_processes_give_the_same_metrics_as_one(planner, plans, toy, tmp_path):
    result = Run(main, flags(planner, plans, toy, tmp_path / "two", "--batch-size", 2), tmp_path, processes=2).result()
    assert result.returncode == 0, result.stderr
    assert main(flags(planner, plans, toy, tmp_path / "one", "--batch-size", 2)) == 0
    assert (tmp_path / "two/metrics.json").read_bytes() == (tmp_path / "one/metrics.json").read_bytes()
    assert result.stdout.count("report  ") == 1


def test_metrics_of_a_finished_evaluation_are_recomputed_without_the_model(
    evaluated, planner, plans, toy, tmp_path, monkeypatch
):
    import senna.model

    monkeypatch.delattr(senna.model, "load_model")
    out = shutil.copytree(evaluated, tmp_path / "out")
    assert main(flags(planner, plans, toy, out, "--blackout")) == 0
    assert "favours" in json.loads((out / "metrics.json").read_text())["plan"]["baselines_fitted_on"]


def test_another_evaluation_in_the_folder_is_refused_and_kept(evaluated, planner, plans, toy, capsys):
    before = (evaluated / "predictions.jsonl").read_bytes()
    assert main(flags(planner, plans, toy, evaluated, "--mode", "generate")) == 2
    message = capsys.readouterr().err
    assert "mode was 'score' and is 'generate'" in message
    assert "--overwrite" in message
    assert (evaluated / "predictions.jsonl").read_bytes() == before


def test_a_missing_image_is_reported_and_may_be_skipped(planner, plans, toy, tmp_path, capsys):
    records = [json.loads(line) for line in plans.read_text().splitlines()]
    broken = [record for record in records if record["kind"] == "plan"][:4]
    broken[1]["images"] = [path.replace("red", "absent") for path in broken[1]["images"]]
    data = tmp_path / "broken.jsonl"
    data.write_text("".join(json.dumps(record) + "\n" for record in broken))
    assert main(flags(planner, data, toy, tmp_path / "out")) == 1
    message = capsys.readouterr().err
    assert all(word in message for word in ("absent.png", "record 1", "--skip-bad-samples"))
    assert main(flags(planner, data, toy, tmp_path / "out", "--skip-bad-samples", 1)) == 0
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics["records"] == 3
    assert metrics["run"]["records that could not be used"] == 1


def test_a_copied_model_and_paths_written_in_another_way_continue_an_evaluation(
    evaluated, planner, plans, toy, tmp_path, monkeypatch
):
    import senna.model

    monkeypatch.delattr(senna.model, "load_model")  # nothing is predicted again
    out = shutil.copytree(evaluated, tmp_path / "out")
    model, data = shutil.copytree(planner, tmp_path / "model"), shutil.copy(plans, tmp_path / "copy.jsonl")
    os.utime(data, (1, 1))
    (model / "evaluate.log").write_text("text")
    (tmp_path / "link").symlink_to(model)
    monkeypatch.chdir(tmp_path)
    assert main(flags("link", "./copy.jsonl", toy, "out", "--blackout")) == 0
    assert read_predictions(out) == read_predictions(evaluated)


def test_other_weights_of_the_same_size_are_another_model(evaluated, planner, plans, toy, tmp_path, capsys):
    out, model = shutil.copytree(evaluated, tmp_path / "out"), shutil.copytree(planner, tmp_path / "model")
    path = model / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert main(flags(model, plans, toy, out)) == 2
    message = capsys.readouterr().err
    assert "model_files was 'sha256:" in message
    assert f"model was '{planner}' and is '{model}'" in message


def test_a_second_evaluation_of_a_folder_is_refused_by_all_its_processes(evaluated, planner, plans, toy, tmp_path):
    before = (evaluated / "predictions.jsonl").read_bytes()
    with lock_folder(evaluated, remedy=""):
        arguments = flags(planner, plans, toy, evaluated, "--overwrite")
        for processes in (1, 2):
            result = Run(main, arguments, tmp_path, processes).result()
            assert result.returncode == 2
            assert result.stderr.count(f"another process is writing to it (process {os.getpid()} on ") == 1
            assert "choose another --out" in result.stderr
            assert "Traceback" not in result.stderr
    assert (evaluated / "predictions.jsonl").read_bytes() == before


def test_a_missing_data_file_is_wrong_use(planner, toy, tmp_path, capsys):
    assert main(flags(planner, tmp_path / "nothing.jsonl", toy, tmp_path / "out")) == 2
    assert "nothing.jsonl: does not exist" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["--mode", "guess"], ["--mode guess", "score, generate"]),
        (["--kinds", "plan,weather"], ["--kinds", "weather", "description"]),
        (["--limit", "0"], ["--limit 0", "at least 1"]),
        (["--dtype", "float12"], ["--dtype float12"]),
    ],
)
def test_wrong_flags_are_refused_before_the_model_is_loaded(wrong, words, planner, plans, toy, tmp_path, capsys):
    assert main(flags(planner, plans, toy, tmp_path / "out", *wrong)) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in words)
    assert not (tmp_path / "out" / "predictions.jsonl").exists()


def test_model_data_and_out_are_required(capsys):
    assert main(["evaluate", "--model", "x"]) == 2
    message = capsys.readouterr().err
    assert "--data" in message
    assert "--out" in message


def test_the_old_compare_flag_names_the_new_command():
    with pytest.raises(UsageError, match="--compare") as error:
        command.main(["--compare", "a", "b"])
    assert "senna compare" in error.value.remedy
