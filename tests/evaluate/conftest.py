"""Fixtures of the evaluation tests: a tiny trained model and records for it, from the data set of the training tests."""

import json
import os
from pathlib import Path
from unittest import mock

import pytest

from tests.train import conftest as training
from tests.train.conftest import run_to_end

toy, finished, stage1, smollm2 = training.toy, training.finished, training.stage1, training.smollm2  # fixtures


@pytest.fixture(autouse=True)
def _restore_environment():
    """Undo changes of environment variables by a run in this process (DeepSpeed sets some)."""
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture(scope="session")
def planner(toy, stage1, once) -> Path:
    """The folder of a model trained in stages 1 and 3 on the toy data."""
    return once("planner", lambda folder: run_to_end(toy.drive, folder, stage1, stage=3)) / "out"


@pytest.fixture(scope="session")
def plans(toy, tmp_path_factory) -> Path:
    """The toy records, distributed over three scenes, so that there are intervals."""
    path = tmp_path_factory.mktemp("plans") / "val.jsonl"
    records = [json.loads(line) for line in toy.driving.read_text().splitlines()]
    for number, record in enumerate(records):
        record["scene_token"] = f"scene-{number % 3}"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path
