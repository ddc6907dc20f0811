"""tests/conftest.py on a machine with two GPUs, which a torch of a few lines stands in for."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.helpers.hidden_gpus import selects_gpu
from tests.helpers.paths import REPOSITORY

# As in torch, the first question decides what is visible from then on.
TORCH = """
import os

found = None


def device_count():
    global found
    if found is None:
        found = 0 if os.environ.get("CUDA_VISIBLE_DEVICES") == "" else 2
    return found


def is_available():
    return device_count() > 0
"""

TESTS = """
import json
import os
import subprocess
import sys

import pytest
import torch

CHILD = "import os; print(repr(os.environ.get('CUDA_VISIBLE_DEVICES')))"


@pytest.fixture(scope="session")
def early():
    return torch.cuda.is_available()


def look(name, early):
    child = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True).stdout.strip()
    with open("seen.jsonl", "a") as file:
        print(json.dumps([name, early, torch.cuda.is_available(), torch.cuda.device_count(), child]), file=file)


@pytest.mark.slow
def test_slow(early):
    look("slow", early)


def test_plain(early):
    look("plain", early)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu():
    look("gpu", None)
"""

HIDDEN = [False, False, 0, "''"]


@pytest.mark.parametrize(
    ("expression", "seen"),
    [
        ("not slow", {"plain": HIDDEN}),
        ("gpu or slow", {"slow": HIDDEN, "gpu": [None, True, 2, "'1,0'"]}),
    ],
)
def test_only_gpu_tests_and_their_processes_see_the_gpus(tmp_path, expression, seen):
    (tmp_path / "site" / "torch").mkdir(parents=True)
    (tmp_path / "site" / "torch" / "__init__.py").write_text("from . import cuda\n\nset_num_threads = print\n")
    (tmp_path / "site" / "torch" / "cuda.py").write_text(TORCH)
    shutil.copy(REPOSITORY / "tests" / "conftest.py", tmp_path)
    (tmp_path / "test_seen.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    gpu: GPU\n    slow: slow\n")
    environment = os.environ | {
        "PYTHONPATH": f"{tmp_path / 'site'}:{REPOSITORY}",
        "CUDA_VISIBLE_DEVICES": "1,0",
        "PYTEST_ADDOPTS": "",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", expression]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    lines = (tmp_path / "seen.jsonl").read_text().splitlines()
    assert {name: values for name, *values in map(json.loads, lines)} == seen


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("gpu", True), ("gpu or slow", True), ("gpu and slow", True), ("gpu and not slow", True), ("not slow or gpu", True),
        ("", False), ("slow", False), ("not slow", False), ("not gpu", False), ("slow and not gpu", False),
        ("not (gpu or slow)", False),
    ],
)  # fmt: skip
def test_an_expression_that_asks_for_gpu_tests_is_recognized(expression, expected):
    assert selects_gpu(expression) is expected
