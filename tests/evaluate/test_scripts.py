"""scripts/eval_meta_action.sh: what it needs, and that it is `senna evaluate`."""

import os
import subprocess
import sys

import pytest

from tests.helpers.paths import REPOSITORY

NAMES = {"MODEL_PATH", "DATA", "IMAGE_DATA", "TRAIN_DATA", "OUT_DIR", "NUM_GPUS", "PRESET"}


def sh(*flags, cwd, **environment):
    clean = {name: value for name, value in os.environ.items() if name not in NAMES}
    clean |= {"PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    clean |= {name: str(value) for name, value in environment.items()}
    command = ["sh", REPOSITORY / "scripts" / "eval_meta_action.sh", *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=clean)


@pytest.mark.parametrize(
    ("given", "message"), [({}, "MODEL_PATH is not set"), ({"MODEL_PATH": "m"}, "DATA is not set")]
)
def test_a_missing_variable_is_named_and_nothing_is_written(given, message, tmp_path):
    result = sh(cwd=tmp_path, OUT_DIR=tmp_path / "out", **given)
    assert result.returncode == 2
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_variables_are_the_flags_and_further_flags_go_on(planner, plans, toy, tmp_path):
    given = {
        "MODEL_PATH": planner,
        "DATA": plans,
        "IMAGE_DATA": toy.images,
        "TRAIN_DATA": toy.driving,
        "OUT_DIR": tmp_path / "out",
    }
    result = sh("--limit", 8, "--workers", 0, cwd=tmp_path, **given)
    assert result.returncode == 0, result.stderr
    assert "8 records of 3 scenes" in result.stdout
    assert "baselines fitted on driving.jsonl, 24 plans" in result.stdout
    assert (tmp_path / "out/report.html").is_file()
