"""The small world of the training tests, and a model of it that has been through stages 1 and 3, if not far."""

import json
from pathlib import Path

import pytest

from tests.train.conftest import run_whole


@pytest.fixture(scope="session")
def planner(toy, stage1, once) -> Path:
    """A model folder that has learnt what the toy's plans look like."""
    return once("planner", lambda folder: run_whole(toy.drive, folder, stage1, stage=3)) / "out"


@pytest.fixture(scope="session")
def plans(toy, tmp_path_factory) -> Path:
    """The toy's records with two scenes, so that there are intervals."""
    path = tmp_path_factory.mktemp("plans") / "val.jsonl"
    records = [json.loads(line) for line in toy.driving.read_text().splitlines()]
    for number, record in enumerate(records):
        record["scene_token"] = f"scene-{number % 3}"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path
