"""Runs that are to be checked: the small world of tests/train, its model cut into shards, and what a user may do to it."""

import shutil
from pathlib import Path

import pytest
from transformers import LlamaForCausalLM

from senna.cli import main
from senna.doctor.dry_run import run_findings
from senna.doctor.findings import Finding
from senna.train import run


@pytest.fixture
def model(toy, tmp_path) -> Path:
    """A copy of the toy's language model in three shards or more, for a test to damage."""
    folder = tmp_path / "llm"
    shutil.copytree(toy.llm, folder)
    (folder / "model.safetensors").unlink()
    LlamaForCausalLM.from_pretrained(toy.llm).save_pretrained(folder, max_shard_size="70KB")
    assert len(list(folder.glob("model-*.safetensors"))) >= 3
    return folder


@pytest.fixture
def examined(toy, tmp_path):
    """What `senna doctor` finds of the toy's run with some flags changed: topic -> findings."""

    def look(argv=(), **changes) -> dict[str, list[Finding]]:
        found: dict[str, list[Finding]] = {}
        for said in run_findings([*toy.flags(tmp_path / "out", **changes), *argv]):
            if isinstance(said, Finding):
                found.setdefault(said.topic, []).append(said)
        return found

    return look


@pytest.fixture
def refused(toy, tmp_path, monkeypatch, capsys):
    """The message with which `senna train` refuses the toy's run, exit code 2, no model loaded and nothing written."""

    def loaded(args):
        raise AssertionError("the model was loaded")

    def train(**changes) -> str:
        monkeypatch.setattr(run, "build_model", loaded)
        capsys.readouterr()
        assert main(["train", *toy.flags(changes.pop("output_dir", tmp_path / "out"), **changes)]) == 2
        assert not (tmp_path / "out").exists()
        return " ".join(capsys.readouterr().err.split())

    return train


def the_fail(found: dict[str, list[Finding]], topic: str) -> Finding:
    """The one finding that is a fail, which must be of this topic and have a remedy."""
    fails = [finding for findings in found.values() for finding in findings if finding.level == "fail"]
    assert [finding.topic for finding in fails] == [topic], fails
    assert fails[0].remedy
    return fails[0]
