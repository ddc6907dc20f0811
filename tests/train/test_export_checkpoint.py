"""`senna export` makes of a checkpoint what the run would have saved at that step, and every command names it."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from senna.cli import main
from senna.model import load_model
from tests.helpers.paths import REPOSITORY
from tests.train.test_manifest import cut


def export(checkpoint, out, *flags):
    return main(["export", "--checkpoint", str(checkpoint), "--out", str(out), *flags])


def assert_same_files(actual, expected):
    """Compare the weights of two folders to the last bit, and their other files."""
    for path in expected.glob("*.safetensors"):
        first, second = load_file(actual / path.name), load_file(path)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in second)
        assert all(first[name].dtype == second[name].dtype for name in second)
    for name in ("config.json", "adapter_config.json", "tokenizer_config.json", "preprocessor_config.json"):
        assert (actual / name).is_file() == (expected / name).is_file()
        if (expected / name).is_file():
            values = [json.loads((folder / name).read_text()) for folder in (actual, expected)]
            for value in values:
                if isinstance(value.get("target_modules"), list):
                    value["target_modules"].sort()
            assert values[0] == values[1]


def test_the_exported_checkpoint_of_the_last_step_is_the_final_model(finished, tmp_path, capsys):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "slurm-1.out").write_text("a log")
    assert export(finished[0] / "checkpoint-12", tmp_path / "model") == 0
    assert "load_model opens it" in capsys.readouterr().out
    assert_same_files(tmp_path / "model", finished[0])
    load_model(tmp_path / "model")


@pytest.mark.parametrize("how", ["lora", "qlora"])
def test_the_exported_checkpoint_of_a_lora_run_is_its_lora_folder(toy, stage1, tmp_path, how):
    result = toy.drive(tmp_path / "out", stage1, how=how, max_steps=2, save_steps=2)
    assert result.returncode == 0, result.stderr
    (tmp_path / "copied").mkdir()
    shutil.copytree(tmp_path / "out" / "checkpoint-2", tmp_path / "copied" / "checkpoint-2")  # without its run's folder
    assert export(tmp_path / "copied" / "checkpoint-2", tmp_path / "lora") == 0
    assert_same_files(tmp_path / "lora", tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "processes"), [(2, 1), (3, 2)])
def test_checkpoints_of_deepspeed_are_exported_without_it_running(toy, tmp_path, stage, processes):
    config = REPOSITORY / "configs" / "deepspeed" / f"zero{stage}.json"
    result = toy.train(
        tmp_path / "out",
        processes,
        deepspeed=config,
        bf16=True,
        max_steps=2,
        save_steps=2,
        per_device_train_batch_size=2,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert export(tmp_path / "out", tmp_path / "model") == 0  # the newest checkpoint of the folder
    assert_same_files(tmp_path / "model", tmp_path / "out")


@pytest.fixture
def unfinished(finished, tmp_path):
    """The folder of a run that was stopped after its checkpoint 12."""
    folder = tmp_path / "out"
    shutil.copytree(finished[0], folder)
    (folder / "config.json").unlink()
    (folder / "model.safetensors").unlink()
    return folder


@pytest.mark.parametrize("path", ["checkpoint-12", "."])
@pytest.mark.parametrize(
    "command",
    [
        ["train", "--use_cpu", "--data_path", "{data}", "--output_dir", "{tmp}/next", "--model_name_or_path"],
        ["evaluate", "--data", "{data}", "--out", "{tmp}/evaluation", "--kinds", "all", "--model"],
        ["visualize", "--data", "{data}", "--image-folder", "{images}", "--out", "{tmp}/album", "--model"],
        ["merge", "--out", "{tmp}/merged", "--adapter"],
        ["demo", "--model"],
    ],
    ids=lambda command: command[0],
)
def test_a_checkpoint_in_place_of_a_model_is_refused_with_the_command_that_makes_one(
    toy, unfinished, tmp_path, capsys, command, path
):
    words = [word.format(data=toy.driving, images=toy.images, tmp=tmp_path) for word in command]
    assert main([*words, str(unfinished / path)]) == 2
    error = capsys.readouterr().err
    assert f"senna export --checkpoint {unfinished / 'checkpoint-12'} --out" in error
    assert "Traceback" not in error


def test_a_wrong_or_damaged_checkpoint_is_refused_and_leaves_no_folder(toy, unfinished, tmp_path, capsys):
    out = tmp_path / "model"
    for path, message in (
        (tmp_path / "none", "no such folder"),
        (toy.llm, "not a checkpoint"),
        (unfinished / "run.json", "no such folder"),
    ):
        assert export(path, out) == 2
        assert message in capsys.readouterr().err
    assert export(unfinished / "checkpoint-8", out, "--model", str(tmp_path / "moved")) == 2
    assert "no such folder" in capsys.readouterr().err
    cut(unfinished / "checkpoint-8" / "trained.safetensors")
    assert export(unfinished / "checkpoint-8", out) == 2
    assert "damaged: trained.safetensors has" in capsys.readouterr().err
    (unfinished / "run.json").unlink()
    (unfinished / "checkpoint-12" / "run.json").write_text("{")
    (unfinished / "checkpoint-12" / "manifest.json").unlink()
    assert export(unfinished / "checkpoint-12", out) == 2
    assert "run.json" in capsys.readouterr().err
    assert not out.exists()
    out.mkdir()
    (out / "thesis.tex").write_text("text")
    assert export(unfinished / "checkpoint-12", out) == 2
    assert "exists already" in capsys.readouterr().err
