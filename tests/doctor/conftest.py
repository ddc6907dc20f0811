"""Checked runs on the toy data, with its model split into shards that a test may damage."""

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
    """Return a copy of the toy language model in at least three shards."""
    folder = tmp_path / "llm"
    shutil.copytree(toy.llm, folder)
    (folder / "model.safetensors").unlink()
    LlamaForCausalLM.from_pretrained(toy.llm).save_pretrained(folder, max_shard_size="70KB")
    assert len(list(folder.glob("model-*.safetensors"))) >= 3
    return folder


@pytest.fixture
def check_run(toy, tmp_path):
    """Return a function that returns the findings of `senna doctor` by topic, for the toy run with changed flags."""

    def check(argv=(), **changes) -> dict[str, list[Finding]]:
        found: dict[str, list[Finding]] = {}
        for result in run_findings([*toy.flags(tmp_path / "out", **changes), *argv]):
            if isinstance(result, Finding):
                found.setdefault(result.topic, []).append(result)
        return found

    return check


@pytest.fixture
def refusal(toy, tmp_path, monkeypatch, capsys):
    """Return a function that returns the message with which `senna train` refuses the toy run.

    It asserts exit code 2, and that no model was loaded and nothing was written.
    """

    def build_model(args):
        raise AssertionError("the model was loaded")

    def train(**changes) -> str:
        monkeypatch.setattr(run, "build_model", build_model)
        capsys.readouterr()
        assert main(["train", *toy.flags(changes.pop("output_dir", tmp_path / "out"), **changes)]) == 2
        assert not (tmp_path / "out").exists()
        return " ".join(capsys.readouterr().err.split())

    return train
