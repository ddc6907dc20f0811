"""A run that needs more memory than there is names settings that need less."""

import pytest
import torch

from senna.cli import main
from senna.train.trainer import SennaTrainer


@pytest.mark.parametrize(
    ("error", "device"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "the card of process 0"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"), "main memory"),
    ],
)
def test_a_failed_allocation_ends_with_one_message_and_smaller_settings(
    toy, tmp_path, monkeypatch, capsys, error, device
):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(SennaTrainer, "compute_loss", fail)
    flags = toy.flags(tmp_path / "out", per_device_train_batch_size=8, gradient_accumulation_steps=2)
    assert main(["train", *flags]) == 1
    printed = capsys.readouterr().err
    assert f"{device} has no memory left" in printed
    assert "--gradient_checkpointing True" in printed or "--gradient_accumulation_steps 4" in printed
    assert "Traceback" not in printed
    assert ("expandable_segments" in printed) == isinstance(error, torch.OutOfMemoryError)


def test_a_setting_of_the_allocator_that_is_in_use_is_not_advised(toy, tmp_path, monkeypatch, capsys):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(SennaTrainer, "compute_loss", fail)
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    assert main(["train", *toy.flags(tmp_path / "out", per_device_train_batch_size=8)]) == 1
    assert "expandable_segments" not in capsys.readouterr().err


def test_other_errors_of_a_step_are_not_changed(toy, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(SennaTrainer, "compute_loss", fail)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        main(["train", *toy.flags(tmp_path / "out")])
