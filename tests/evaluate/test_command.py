"""`senna evaluate` as users run it, on the toy world of the training tests."""

import json
import shutil
import time

import pytest

from senna.cli import main
from senna.evaluate.predictions import read_predictions
from senna.meta_actions import ALL_META_ACTIONS
from tests.forks import Run


def flags(planner, plans, toy, out, *more) -> list[str]:
    given = {"--model": planner, "--data": plans, "--image-folder": toy.images, "--out": out, "--workers": 0}
    return ["evaluate", *(str(word) for pair in given.items() for word in pair), *map(str, more)]


@pytest.fixture(scope="module")
def evaluated(planner, plans, toy, tmp_path_factory):
    """A whole evaluation in score mode, blacked out too."""
    out = tmp_path_factory.mktemp("evaluated") / "out"
    assert main(flags(planner, plans, toy, out, "--blackout", "--train-data", toy.driving)) == 0
    return out


def test_the_metrics_count_what_the_predictions_say_and_the_page_is_written(evaluated):
    metrics, predictions = (
        json.loads((evaluated / "metrics.json").read_text()),
        read_predictions(evaluated / "predictions.jsonl"),
    )
    plan, right = metrics["plan"], [one["sum"] == one["truth"].strip() for one in predictions]
    assert (metrics["records"], metrics["scenes"]) == (24, 3)
    assert plan["decisions"]["sum"]["accuracy"]["both"]["value"] == pytest.approx(sum(right) / 24)
    assert (
        plan["baselines"]["majority class"]["accuracy"]["both"]["value"] == 18 / 24
    )  # KEEP, STRAIGHT of KEEP and STOP
    assert plan["baselines_fitted_on"] == "driving.jsonl, 24 plans"
    assert {path.suffix for path in evaluated.iterdir()} == {".json", ".jsonl", ".html", ".png"}


def test_black_images_are_another_question(evaluated):
    seen = read_predictions(evaluated / "predictions.jsonl")
    black = read_predictions(evaluated / "predictions_blackout.jsonl")
    assert [one["index"] for one in black] == [one["index"] for one in seen]
    assert all(a["log_probs"] != b["log_probs"] for a, b in zip(seen, black, strict=True))
    assert len({tuple(one["log_probs"]) for one in seen}) == 4  # four frames
    spread = [max(values) - min(values) for values in zip(*(one["log_probs"] for one in black), strict=True)]
    assert max(spread) < 1e-4  # nothing tells black frames apart; what is left is the batch's rounding


def test_each_plan_has_twenty_log_probabilities_and_its_record(evaluated, plans):
    predictions = read_predictions(evaluated / "predictions.jsonl")
    records = [json.loads(line) for line in plans.read_text().splitlines()]
    wanted = [place for place, record in enumerate(records) if record["kind"] == "plan"]
    assert [one["index"] for one in predictions] == wanted
    for one in predictions:
        record = records[one["index"]]
        assert (one["id"], one["scene"]) == (record["id"], record["scene_token"])
        assert one["truth"] == record["conversations"][1]["value"]
        assert one["question"] == "your plan?"
        assert len(one["log_probs"]) == 20
        assert one["sum"] == str(ALL_META_ACTIONS[max(range(20), key=one["log_probs"].__getitem__)])
        assert all("CAM_" in path for path in one["images"])
        assert "FRONT/" in one["images"][0]  # the prompt's order, which is not the record's


def test_generate_says_what_scoring_says_where_greedy_text_stays_in_the_tree(evaluated, planner, plans, toy, tmp_path):
    assert main(flags(planner, plans, toy, tmp_path, "--mode", "generate", "--max-new-tokens", 40)) == 0
    scored = {one["index"]: one for one in read_predictions(evaluated / "predictions.jsonl")}
    generated_fields = read_predictions(tmp_path / "predictions.jsonl")
    inside = [one for one in generated_fields if scored[one["index"]]["left_tree"] is None]
    assert inside
    assert [one["text"].strip() for one in inside] == [scored[one["index"]]["greedy"] for one in inside]


def test_other_questions_are_answered_with_text(planner, plans, toy, tmp_path):
    more = ("--kinds", "description,text", "--limit", 6, "--max-new-tokens", 5)
    assert main(flags(planner, plans, toy, tmp_path, *more)) == 0
    predictions = read_predictions(tmp_path / "predictions.jsonl")
    assert {one["kind"] for one in predictions} == {"description", "text"}
    assert all("log_probs" not in one and isinstance(one["text"], str) for one in predictions)


@pytest.mark.slow
def test_killed_and_continued_gives_the_same_metrics(planner, plans, toy, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    more = ("--batch-size", 2, "--mode", "score")
    assert main(flags(planner, plans, toy, whole, *more)) == 0
    process = Run(main, flags(planner, plans, toy, killed, *more), tmp_path)
    part = killed / "predictions.part-0.jsonl"
    while process.poll() is None and not (part.exists() and part.read_bytes().count(b"\n") >= 4):
        time.sleep(0.002)
    process.kill()
    assert not (killed / "metrics.json").exists()
    done = part.read_bytes()
    part.write_bytes(done[:-7])  # as if it had been killed while it wrote
    assert main(flags(planner, plans, toy, killed, *more)) == 0
    for name in ("metrics.json", "predictions.jsonl"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    assert not list(killed.glob("*.part-*"))


@pytest.mark.slow
def test_two_processes_give_the_same_metrics_as_one(planner, plans, toy, tmp_path):
    result = Run(main, flags(planner, plans, toy, tmp_path / "two", "--batch-size", 2), tmp_path, processes=2).result()
    assert result.returncode == 0, result.stderr
    assert main(flags(planner, plans, toy, tmp_path / "one", "--batch-size", 2)) == 0
    assert (tmp_path / "two/metrics.json").read_bytes() == (tmp_path / "one/metrics.json").read_bytes()
    assert result.stdout.count("report  ") == 1


def test_a_finished_evaluation_is_judged_again_without_the_model(evaluated, planner, plans, toy, tmp_path, monkeypatch):
    import senna.model

    monkeypatch.delattr(senna.model, "load_model")
    out = shutil.copytree(evaluated, tmp_path / "out")
    assert main(flags(planner, plans, toy, out, "--blackout")) == 0
    assert "favours" in json.loads((out / "metrics.json").read_text())["plan"]["baselines_fitted_on"]


def test_another_evaluation_in_the_folder_is_neither_mixed_nor_lost(evaluated, planner, plans, toy, capsys):
    before = (evaluated / "predictions.jsonl").read_bytes()
    assert main(flags(planner, plans, toy, evaluated, "--mode", "generate")) == 2
    assert "holds another evaluation (mode 'score' -> 'generate'); another --out, or --overwrite" in (
        capsys.readouterr().err.replace("): another", "); another")
    )
    assert (evaluated / "predictions.jsonl").read_bytes() == before


def test_a_broken_image_is_named_and_may_be_left_out(planner, plans, toy, tmp_path, capsys):
    records = [json.loads(line) for line in plans.read_text().splitlines()]
    broken = [record for record in records if record["kind"] == "plan"][:4]
    broken[1]["images"] = [path.replace("red", "absent") for path in broken[1]["images"]]
    data = tmp_path / "broken.jsonl"
    data.write_text("".join(json.dumps(record) + "\n" for record in broken))
    assert main(flags(planner, data, toy, tmp_path / "out")) == 1
    message = capsys.readouterr().err
    assert "absent.png" in message
    assert "record 1" in message
    assert "--skip-bad-samples" in message
    assert main(flags(planner, data, toy, tmp_path / "out", "--skip-bad-samples", 1)) == 0
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics["records"] == 3
    assert metrics["run"]["records that could not be used"] == 1


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (["--mode", "guess"], "--mode guess: one of score, generate"),
        (["--kinds", "plan,weather"], "has no weather (--kinds); it has:"),
        (["--limit", "0"], "--limit 0: at least 1"),
        (["--dtype", "float12"], "--dtype float12"),
    ],
)
def test_wrong_use_is_told_before_anything_is_loaded(wrong, told, planner, plans, toy, tmp_path, capsys):
    assert main(flags(planner, plans, toy, tmp_path / "out", *wrong)) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out" / "predictions.jsonl").exists()


def test_what_is_missing_is_named(capsys):
    assert main(["evaluate", "--model", "x"]) == 2
    assert "--data is missing" in capsys.readouterr().err
