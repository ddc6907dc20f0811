"""Checks of Python, the libraries and the GPUs."""

import importlib.metadata
import os

import pytest
import torch

from senna.doctor import machine
from senna.doctor.findings import NO_GPU

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="checks the findings of a machine without a GPU")


def test_this_machine_passes_the_checks():
    assert {finding.level for finding in machine.python()} == {"ok"}


def test_a_missing_or_untested_library_is_reported_with_an_install_command(monkeypatch):
    requirements = ["torch>=99", "no-such-package>=1", "numpy>=1", "scipy>=99; extra == 'dev'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: requirements)
    old, absent = machine.libraries()
    assert (old.level, absent.level) == ("warn", "fail")
    assert "is not in the tested range >=99" in old.message
    assert old.remedy == "pip install -c constraints.txt 'torch>=99'"
    assert "no-such-package is not installed" in absent.message


@pytest.fixture
def driver_gpu(tmp_path, monkeypatch):
    """Put an nvidia-smi that lists one GPU on the path."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA GeForce RTX 4090, 24564, 23900, 8.9, 550.54.15'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)


@no_gpu
def test_a_machine_without_a_gpu_gets_a_warning_with_two_alternatives(monkeypatch):
    monkeypatch.setenv("PATH", "")
    torch_finding, gpu = machine.torch_and_gpus()
    assert torch_finding.level == "ok"
    assert (gpu.level, gpu.code) == ("warn", NO_GPU)
    assert "PRESET=tiny" in gpu.remedy
    assert "--gpu-memory 24" in gpu.remedy


@no_gpu
@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch is built for CUDA")
def test_a_cpu_build_of_torch_on_a_gpu_machine_fails_with_a_pip_command(driver_gpu):
    _, gpu = machine.torch_and_gpus()
    assert gpu.level == "fail"
    assert gpu.message == "NVIDIA GeForce RTX 4090 is installed, but torch is built for CPUs only"
    assert gpu.remedy.startswith("pip uninstall -y torch && pip install -c constraints.txt torch")


@no_gpu
def test_a_hidden_gpu_and_an_old_driver_are_reported(driver_gpu, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    *_, hidden = machine.torch_and_gpus()
    assert hidden.remedy == "unset CUDA_VISIBLE_DEVICES"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    *_, old = machine.torch_and_gpus()
    assert "built for CUDA 13.0 and cannot use driver 550.54.15" in old.message


def test_the_output_of_nvidia_smi_is_parsed_and_its_error_messages_are_ignored(driver_gpu):
    [found] = machine.driver_gpus()
    assert found == machine.DriverGpu("NVIDIA GeForce RTX 4090", 24564 * 2**20, 23900 * 2**20, (8, 9), "550.54.15")
    assert machine._parse_gpu("NVIDIA-SMI has failed because it couldn't communicate with the driver") is None


@pytest.mark.parametrize(("problem", "level"), [(None, "ok"), ("RuntimeError: Failed to find C compiler", "warn")])
def test_flex_attention_is_tried_where_there_is_cuda(monkeypatch, problem, level):
    monkeypatch.setattr("senna.model.packed_attention.flex_problem", lambda device: problem)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(machine, "_try_torch", lambda *_: machine.Finding("ok", "torch", ""))
    *_, found = machine.torch_and_gpus()
    assert (found.topic, found.level) == ("flex attention", level)
    assert (problem or "works") in found.message
    assert ("gcc" in found.remedy) == (problem is not None)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_each_gpu_is_reported_with_its_free_memory():
    _, *gpus, flex = machine.torch_and_gpus()
    assert flex.topic == "flex attention"
    assert len(gpus) == torch.cuda.device_count()
    assert all("GiB free" in gpu.message for gpu in gpus)
