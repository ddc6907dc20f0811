"""The folder of an evaluation never mixes the predictions of two models, and is continued by the same evaluation only."""

import json
import os
from pathlib import Path

import pytest

from senna.errors import SennaError, UsageError
from senna.evaluate.command import EvaluateArguments, _settings
from senna.evaluate.predictions import BLACKOUT, PREDICTIONS, Store, claim, read_predictions
from senna.files import stamp
from senna.run_folder import RUN_FILE, read_settings

A, B = {"mode": "score", "model": "a", "model_files": "1"}, {"mode": "score", "model": "b", "model_files": "2"}


def fill(folder: Path) -> None:
    """Write an evaluation of model A with the predictions of two processes, joined ones and results."""
    run_id = claim(folder, A)
    for name in (PREDICTIONS, BLACKOUT):
        (folder / f"{name}.jsonl").write_text('{"index": 0, "by": "a"}\n')
        for rank in (0, 1):
            Store(folder, name, run_id).append(rank, [{"index": 1 + rank, "by": "a"}])
    (folder / "metrics.json").write_text('{"by": "a"}')
    (folder / "report.html").write_text("a")


@pytest.mark.parametrize("deletions", range(10))
def test_an_overwrite_that_is_killed_between_deletions_never_mixes_two_models(tmp_path, monkeypatch, deletions):
    fill(tmp_path)
    unlink, calls = Path.unlink, []

    def unlink_or_die(path, missing_ok=False):
        calls.append(path)
        if len(calls) > deletions:
            raise KeyboardInterrupt
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink_or_die)
    try:
        claim(tmp_path, B, overwrite=True)
        assert deletions == 9
    except KeyboardInterrupt:
        pass
    monkeypatch.undo()
    left = [line["by"] for name in (PREDICTIONS, BLACKOUT) for line in Store(tmp_path, name)]
    if left:
        assert read_settings(tmp_path / RUN_FILE)["model"] == "a"
        with pytest.raises(UsageError, match="model was 'a' and is 'b'"):
            claim(tmp_path, B)
    assert not (tmp_path / "metrics.json").exists() or len(left) == 6
    claim(tmp_path, B, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [RUN_FILE]


def test_a_process_of_an_overwritten_evaluation_that_still_runs_adds_nothing(tmp_path):
    orphan = Store(tmp_path, run_id=claim(tmp_path, A))
    orphan.append(1, [{"index": 0, "by": "a"}])
    store = Store(tmp_path, run_id=claim(tmp_path, B, overwrite=True))
    orphan.append(1, [{"index": 0, "by": "a"}, {"index": 1, "by": "a"}])
    assert store.missing([[0], [1]]) == [[0], [1]]
    store.append(1, [{"index": 0, "by": "b"}, {"index": 1, "by": "b"}])
    orphan.append(1, [{"index": 1, "by": "a"}])
    assert store.join() == [{"index": 0, "by": "b"}, {"index": 1, "by": "b"}]
    assert [line["by"] for line in read_predictions(tmp_path)] == ["b", "b"]


def test_predictions_without_settings_are_kept_unless_they_are_overwritten(tmp_path):
    (tmp_path / "predictions.jsonl").write_text('{"index": 0}\n')
    with pytest.raises(UsageError, match=r"holds predictions, but no run\.json"):
        claim(tmp_path, A)
    assert (tmp_path / "predictions.jsonl").exists()
    claim(tmp_path, A, overwrite=True)
    assert not (tmp_path / "predictions.jsonl").exists()


def test_results_that_belong_to_no_evaluation_stay_until_the_new_ones_are_written(tmp_path):
    (tmp_path / "metrics.json").write_text("mine")
    claim(tmp_path, A)
    assert (tmp_path / "metrics.json").read_text() == "mine"


@pytest.mark.parametrize("overwrite", [True, False])
def test_the_folder_of_a_training_run_is_refused_and_kept(tmp_path, overwrite):
    (tmp_path / RUN_FILE).write_text('{"model_name_or_path": "llm"}')
    with pytest.raises(UsageError, match="a run of another command"):
        claim(tmp_path, A, overwrite)
    assert read_settings(tmp_path / RUN_FILE) == {"model_name_or_path": "llm"}


def test_a_name_of_a_hub_is_compared_as_it_is(tmp_path):
    fill(tmp_path)
    claim(tmp_path, {**A, "model": "elsewhere/a"})
    with pytest.raises(UsageError, match="model was 'a' and is 'org/b'"):
        claim(tmp_path, {**A, "model": "org/b", "model_files": ""})


def test_an_evaluation_of_an_earlier_version_continues_unless_a_file_has_changed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("m").mkdir()
    Path("m/config.json").write_text("{}")
    Path("d.jsonl").write_text("{}\n")
    now = _settings(EvaluateArguments(model="m", data="./d.jsonl", out="out"), None)
    earlier = {**now, "model": "m", "data": "./d.jsonl", "image_folder": None}
    earlier |= {"model_files": stamp(Path("m")), "data_files": stamp(Path("d.jsonl"))}
    for change, is_same in ((lambda: None, True), (lambda: os.utime("m/config.json", (1, 1)), False)):
        out = tmp_path / f"out-{is_same}"
        out.mkdir()
        (out / RUN_FILE).write_text(json.dumps(earlier))
        (out / "predictions.jsonl").write_text('{"index": 0}\n')
        change()
        if is_same:
            claim(out, now)
            claim(out, now)  # its settings are those of this version now
        else:
            with pytest.raises(UsageError, match="model_files was"):
                claim(out, now)
        assert (out / "predictions.jsonl").exists()


def test_damaged_predictions_are_an_error_with_a_remedy(tmp_path):
    for text in ("{", "[]", '{"id": 3}'):
        (tmp_path / "predictions.jsonl").write_text(text)
        with pytest.raises(SennaError, match="line 1") as error:
            read_predictions(tmp_path)
        assert "run the evaluation again" in error.value.remedy
