"""The shell entry points, run by `sh` as users run them."""

import os
import shutil
import subprocess
import sys

import pytest

from senna.model import load_model
from tests.conftest import REPOSITORY
from tests.train.conftest import losses

PRETRAIN = REPOSITORY / "train_tools" / "pretrain_senna_llava.sh"
SCRIPTS = sorted([*REPOSITORY.glob("train_tools/*.sh"), *REPOSITORY.glob("scripts/*.sh")])


def sh(script, *flags, cwd, **environment):
    """Run a script with none of its variables set but those given."""
    ours = {"MODEL_PATH", "DATA", "IMAGE_DATA", "VISION_TOWER", "OUT_DIR", "PRESET", "NUM_GPUS", "HOSTFILE", "NNODES"}
    clean = {name: value for name, value in os.environ.items() if name not in ours}
    clean |= {"PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    clean |= {name: str(value) for name, value in environment.items()}
    return subprocess.run(["sh", script, *flags], capture_output=True, text=True, cwd=cwd, env=clean)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_posix_sh(script):
    shell = shutil.which("dash") or "sh"
    assert subprocess.run([shell, "-n", script], capture_output=True, text=True).stderr == ""


def test_without_gpu_and_preset_both_ways_on_are_told_and_nothing_is_written(tmp_path):
    result = sh(PRETRAIN, cwd=tmp_path, OUT_DIR=tmp_path / "out", MODEL_PATH="a", DATA="b")
    assert result.returncode == 2
    assert "NUM_GPUS=N" in result.stderr
    assert "PRESET=tiny" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"PRESET": "huge"}, "PRESET=huge is not known"),
        ({"NUM_GPUS": 1}, "MODEL_PATH is not set"),
        ({"NUM_GPUS": 1, "MODEL_PATH": "a"}, "DATA is not set"),
        ({"HOSTFILE": "gone", "MODEL_PATH": "a", "DATA": "b"}, "HOSTFILE=gone: no such file"),
        ({"NUM_GPUS": 1, "NNODES": 2, "MODEL_PATH": "a", "DATA": "b"}, "NNODES=2 needs MASTER_ADDR"),
    ],
)
def test_a_variable_that_is_wrong_or_missing_is_named(tmp_path, environment, message):
    result = sh(PRETRAIN, cwd=tmp_path, **environment)
    assert result.returncode == 2
    assert message in result.stderr


@pytest.mark.slow
def test_the_script_trains_from_any_folder_on_one_process_and_on_two_with_flags_passed_through(toy, tmp_path):
    paths = {
        "MODEL_PATH": toy.llm,
        "VISION_TOWER": toy.clip,
        "DATA": toy.data,
        "IMAGE_DATA": toy.images,
        "PRESET": "tiny",
    }
    flags = ["--mm_adapter_tokens", "3", "--num_train_epochs", "2"]
    one = sh(PRETRAIN, *flags, "--per_device_train_batch_size", "8", cwd=tmp_path, OUT_DIR="one", **paths)
    assert one.returncode == 0, one.stderr
    assert "6 steps of 8 samples (8 x 1 x 1 processes)" in one.stdout
    flags += ["--per_device_train_batch_size", "4"]
    two = sh(PRETRAIN, *flags, cwd=tmp_path, OUT_DIR="two", NUM_GPUS=2, **paths)
    assert two.returncode == 0, two.stderr
    assert "6 steps of 8 samples (4 x 1 x 2 processes)" in two.stdout
    expected = [loss for _, loss in losses(tmp_path / "one")]
    assert [loss for _, loss in losses(tmp_path / "two")] == pytest.approx(expected, abs=1e-3)
    load_model(tmp_path / "two")
