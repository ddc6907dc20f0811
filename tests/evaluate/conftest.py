"""Fixtures of the evaluation tests: a tiny trained model and records for it, made from the toy data."""

import json
from pathlib import Path

import pytest

from tests.helpers.toy import run_to_end


@pytest.fixture(scope="session")
def planner(toy, stage1, once) -> Path:
    """Return the folder of a model trained in stages 1 and 3 on the toy data."""
    return once("planner", lambda folder: run_to_end(toy.drive, folder, stage1, stage=3)) / "out"


@pytest.fixture(scope="session")
def plans(toy, tmp_path_factory) -> Path:
    """Return the file of the toy records, distributed over three scenes, so that there are intervals."""
    path = tmp_path_factory.mktemp("plans") / "val.jsonl"
    records = [json.loads(line) for line in toy.driving.read_text().splitlines()]
    for number, record in enumerate(records):
        record["scene_token"] = f"scene-{number % 3}"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path
