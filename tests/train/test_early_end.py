"""A run can be ended early with a smaller --max_steps: it finishes, saves, says so, and its steps are those of the run."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from senna.cli import main
from senna.model import load_model
from tests.helpers.toy import losses


@pytest.fixture
def stopped(finished, tmp_path):
    """The folder of a run of 12 steps that was stopped after its checkpoint 8."""
    folder = tmp_path / "out"
    shutil.copytree(finished[0], folder)
    shutil.rmtree(folder / "checkpoint-12")
    for name in ("config.json", "model.safetensors", "train_log.jsonl"):
        (folder / name).unlink()
    return folder


def test_a_smaller_number_of_steps_ends_the_run_there_with_its_learning_rate_unchanged(toy, finished, stopped):
    result = toy.train(stopped, save_total_limit=2, max_steps=10)
    assert result.returncode == 0, result.stderr
    assert "early, after step 10 of 12" in result.stdout
    assert losses(stopped) == losses(finished[0])[:10]
    load_model(stopped)
    for options in ({"max_steps": 10}, {}):
        again = toy.train(stopped, save_total_limit=2, **options)
        assert again.returncode == 0, again.stderr
        assert "ended early at step 10" in again.stdout


@pytest.mark.parametrize("steps", [1, 8])
def test_a_number_of_steps_that_is_reached_already_saves_the_model_of_the_checkpoint(toy, stopped, tmp_path, steps):
    assert main(["export", "--checkpoint", str(stopped / "checkpoint-8"), "--out", str(tmp_path / "model")]) == 0
    result = toy.train(stopped, save_total_limit=2, max_steps=steps)
    assert result.returncode == 0, result.stderr
    assert "early, after step 8 of 12" in result.stdout
    actual, expected = (load_file(folder / "model.safetensors") for folder in (stopped, tmp_path / "model"))
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


def test_more_steps_and_other_settings_are_still_refused(toy, finished, stopped, tmp_path):
    for options in ({"max_steps": 13}, {"max_steps": 10, "learning_rate": 0.5}, {"num_train_epochs": 3}):
        assert toy.train(stopped, save_total_limit=2, **options).returncode == 2
    folder = tmp_path / "finished"
    shutil.copytree(finished[0], folder)
    assert toy.train(folder, save_total_limit=2, max_steps=10).returncode == 2
    assert json.loads((folder / "run.json").read_text())["max_steps"] == -1
