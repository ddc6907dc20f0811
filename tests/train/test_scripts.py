"""The shell scripts, run by `sh` as users run them, and the recipes that they start."""

import os
import shutil

import pytest
import torch

from senna.cli import main
from senna.launch.command import prepare
from senna.model import load_model
from senna.train.arguments import parse_arguments
from tests.helpers.forks import Run
from tests.helpers.paths import GOLDEN, REPOSITORY
from tests.helpers.scripts import PRETRAIN, TOOLS, VARIABLES, sh
from tests.helpers.small_tokenizers import llama_folder
from tests.helpers.toy import losses

FULL = TOOLS / "train_senna_llava.sh"
DRIVING = [FULL, TOOLS / "train_senna_llava_lora.sh", TOOLS / "train_senna_llava_qlora.sh"]
RECIPES = {
    PRETRAIN: "pretrain",
    **dict(zip(DRIVING, ("full", "lora", "qlora"), strict=True)),
    REPOSITORY / "scripts" / "eval_meta_action.sh": "evaluate",
    REPOSITORY / "scripts" / "visualize.sh": "visualize",
    REPOSITORY / "data_tools" / "senna_nusc_converter.sh": "convert",
}


@pytest.fixture
def started(monkeypatch):
    """Return the launcher's words and the arguments of `senna` for a recipe under some variables."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)

    def words(recipe, *flags, **environment):
        given = {name: str(value) for name, value in environment.items()}
        called = prepare(recipe, list(flags), {"CUDA_VISIBLE_DEVICES": "", **given}).words
        position = called.index("senna")
        return called[1 : position - 1], called[position + 1 :]

    return words


SHELLS = [shell for shell in (["dash"], ["busybox", "sh"], ["bash"]) if shutil.which(shell[0])] or [["sh"]]


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell[0])
@pytest.mark.parametrize(("script", "recipe"), RECIPES.items(), ids=lambda value: getattr(value, "name", value))
def test_a_script_starts_its_recipe_with_every_flag_from_any_folder(tmp_path, script, recipe, shell):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nprintf "%s\\0" "$PYTHONPATH" "$@"\n')
    python.chmod(0o755)
    result = sh(script, "--a b", "c'd", cwd=tmp_path, shell=shell, PYTHON=python)
    assert result.returncode == 0, result.stderr
    path, *words = result.stdout.split("\0")[:-1]
    assert path.split(":")[0] == str(REPOSITORY)
    assert words == ["-m", "senna", "launch", recipe, "--a b", "c'd"]


@pytest.mark.parametrize("script", [PRETRAIN, *DRIVING], ids=lambda path: path.name)
def test_without_gpu_and_preset_nothing_is_written(tmp_path, script):
    result = sh(script, cwd=tmp_path, OUT_DIR=tmp_path / "out", MODEL_PATH="a", DATA="b")
    assert result.returncode == 2
    assert "NUM_GPUS=N" in result.stderr
    assert "PRESET=tiny" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_script_trains_from_any_folder_on_one_process_and_on_two_with_flags_passed_through(toy, tmp_path):
    paths = {
        "MODEL_PATH": toy.llm,
        "VISION_TOWER": toy.clip,
        "DATA": toy.data,
        "IMAGE_DATA": toy.images,
        "PRESET": "tiny",
    }
    flags = ["--mm_adapter_tokens", "3", "--num_train_epochs", "2", "--global_batch_size", "8"]
    eight = ["--per_device_train_batch_size", "8"]
    alone = sh(PRETRAIN, *flags, *eight, cwd=tmp_path, OUT_DIR="alone", NUM_GPUS=1, **paths)
    assert alone.returncode == 0, alone.stderr
    assert "6 steps of 8 samples (8 x 1 x 1 processes)" in alone.stdout
    flags += ["--per_device_train_batch_size", "4"]
    pair = sh(PRETRAIN, *flags, cwd=tmp_path, OUT_DIR="pair", NUM_GPUS=2, **paths)
    assert pair.returncode == 0, pair.stderr
    assert "6 steps of 8 samples (4 x 1 x 2 processes, ZeRO-2)" in pair.stdout
    expected = [loss for _, loss in losses(tmp_path / "alone")]
    assert [loss for _, loss in losses(tmp_path / "pair")] == pytest.approx(expected, abs=1e-3)
    load_model(tmp_path / "pair")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Return a folder in the format of the published checkpoint, next to its tower."""
    folder = tmp_path_factory.mktemp("published")
    shutil.copytree(GOLDEN / "clip_tiny", folder / "clip_tiny")
    llama_folder(folder / "senna", vocabulary=320)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(GOLDEN / "model_v320" / name, folder / "senna")
    return folder / "senna"


def paths_of(toy, script, model, out):
    data = toy.data if script == PRETRAIN else toy.driving
    return {"MODEL_PATH": model, "DATA": data, "IMAGE_DATA": toy.images, "OUT_DIR": out, "PRESET": "tiny"}


@pytest.mark.parametrize("script", [PRETRAIN, *DRIVING], ids=lambda path: path.name)
def test_a_published_checkpoint_is_a_model_path_for_every_script(toy, published, tmp_path, started, script):
    launcher, arguments = started(
        RECIPES[script], "--max_steps", "1", NUM_GPUS=1, **paths_of(toy, script, published, tmp_path / "out")
    )
    assert launcher == []
    assert main(arguments) == 0
    model, *_ = load_model(tmp_path / "out")
    assert model.config.mm_adapter_tokens == 128


class Malice:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (self.mark,)


@pytest.mark.parametrize("script", [PRETRAIN, *DRIVING], ids=lambda path: path.name)
def test_pickled_weights_that_hold_code_are_refused_by_every_script(toy, published, tmp_path, started, capfd, script):
    shutil.copytree(published.parent, tmp_path / "models")
    folder = tmp_path / "models" / "senna"
    torch.save({"model.norm.weight": Malice(str(tmp_path / "it ran"))}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    _, arguments = started(RECIPES[script], **paths_of(toy, script, folder, tmp_path / "out"))
    assert main(arguments) == 2
    error = capfd.readouterr().err
    assert "pickled weights hold more than weights" in error
    assert "Traceback" not in error
    assert not (tmp_path / "it ran").exists()
    assert not (tmp_path / "out").exists()


def test_the_stage_flag_chooses_the_recipe_and_others_are_refused(toy, stage1, tmp_path, started, capsys):
    paths = paths_of(toy, FULL, stage1, tmp_path / "out")
    for flags in (["--stage=3"], ["--stage", "3"]):
        _, arguments = started(RECIPES[FULL], "--max_steps", "1", *flags, **paths)
        assert str(REPOSITORY / "configs" / "stage3_planning.yaml") in arguments
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "24 plan" in printed
    assert "stage 3" in printed
    refused = sh(FULL, "--stage", "1", cwd=tmp_path, **paths)
    assert refused.returncode == 2
    assert "train_tools/pretrain_senna_llava.sh trains stage 1" in refused.stderr


def test_more_processes_start_under_the_zero_stage_of_their_script(toy, stage1, tmp_path, started):
    flags = ["--max_steps", "1"]
    for script, zero in zip(DRIVING, (3, 3, 2), strict=True):
        paths = paths_of(toy, script, stage1, tmp_path / script.stem)
        launcher, arguments = started(RECIPES[script], *flags, NUM_GPUS=2, **paths)
        assert launcher == ["-m", "senna.launch.torchrun", "--standalone", "--nproc_per_node", "2"]
        assert parse_arguments(arguments[1:], count_processes=lambda _: 2).zero_stage == zero


@pytest.mark.slow
def test_one_process_runs_under_deepspeed_where_its_configuration_is_named_and_compiles_nothing(
    toy, stage1, tmp_path, started, monkeypatch
):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    chosen = {"NUM_GPUS": 1, "DEEPSPEED_CONFIG": REPOSITORY / "configs" / "deepspeed" / "zero3_offload.json"}
    launcher, arguments = started(
        RECIPES[FULL], "--max_steps", "1", **chosen, **paths_of(toy, FULL, stage1, tmp_path / "out")
    )
    assert launcher == []
    result = Run(main, arguments, tmp_path).result()
    assert result.returncode == 0, result.stderr
    assert "1 processes, ZeRO-3" in result.stdout
    assert not (tmp_path / "extensions").exists()
