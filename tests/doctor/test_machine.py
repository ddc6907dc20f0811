"""Interpreter, libraries and cards."""

import importlib.metadata
import os

import pytest
import torch

from senna.doctor import machine

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="the findings of a machine without a GPU")


def test_this_machine_has_what_the_project_needs():
    assert {finding.level for finding in machine.python()} == {"ok"}


def test_a_library_that_is_missing_or_of_another_version_is_told_with_the_line_that_mends_it(monkeypatch):
    needs = ["torch>=99", "no-such-package>=1", "numpy>=1", "scipy>=99; extra == 'dev'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: needs)
    old, absent = machine.libraries()
    assert (old.level, absent.level) == ("warn", "fail")
    assert "is not in the tested range >=99" in old.says
    assert old.remedy == "pip install -c constraints.txt 'torch>=99'"
    assert "no-such-package is not installed" in absent.says


@pytest.fixture
def card(tmp_path, monkeypatch):
    """A machine whose driver tells of one card."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA GeForce RTX 4090, 24564, 23900, 8.9, 550.54.15'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)


@no_gpu
def test_no_card_is_a_warning_that_names_both_ways_on(monkeypatch):
    monkeypatch.setenv("PATH", "")
    torch_line, gpu = machine.torch_and_cards()
    assert torch_line.level == "ok"
    assert gpu.level == "warn"
    assert "PRESET=tiny" in gpu.remedy
    assert "--gpu-memory 24" in gpu.remedy


@no_gpu
@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch is built for CUDA")
def test_a_torch_for_cpus_beside_a_card_is_a_fail_with_the_pip_line(card):
    _, gpu = machine.torch_and_cards()
    assert gpu.level == "fail"
    assert gpu.says == "NVIDIA GeForce RTX 4090 is here, but this torch is built for CPUs only"
    assert gpu.remedy.startswith("pip uninstall -y torch && pip install -c constraints.txt torch")


@no_gpu
def test_a_card_that_is_hidden_or_whose_driver_is_too_old_is_told(card, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    *_, hidden = machine.torch_and_cards()
    assert hidden.remedy == "unset CUDA_VISIBLE_DEVICES"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    *_, old = machine.torch_and_cards()
    assert "built for CUDA 13.0, cannot use driver 550.54.15" in old.says


def test_what_the_driver_says_is_read_and_what_it_cannot_say_left_out(card):
    [found] = machine.cards()
    assert found == machine.Card("NVIDIA GeForce RTX 4090", 24564 * 2**20, 23900 * 2**20, (8, 9), "550.54.15")
    assert machine._card("NVIDIA-SMI has failed because it couldn't communicate with the driver") is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_each_card_is_told_with_what_is_free_of_it():
    _, *cards = machine.torch_and_cards()
    assert len(cards) == torch.cuda.device_count()
    assert all("GiB free" in card.says for card in cards)
