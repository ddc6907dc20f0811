"""A run that takes more memory than there is says what to change."""

import pytest
import torch

from senna.cli import main
from senna.train.trainer import SennaTrainer


@pytest.mark.parametrize(
    ("error", "where"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "the card of process 0"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"), "main memory"),
    ],
)
def test_no_memory_left_is_one_message_with_smaller_settings(toy, tmp_path, monkeypatch, capsys, error, where):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(SennaTrainer, "compute_loss", fail)
    flags = toy.flags(tmp_path / "out", per_device_train_batch_size=8, gradient_accumulation_steps=2)
    assert main(["train", *flags]) == 1
    said = capsys.readouterr().err
    assert f"{where} has no memory left" in said
    assert "--gradient_checkpointing True" in said or "--gradient_accumulation_steps 4" in said
    assert "Traceback" not in said


def test_another_failure_stays_what_it_is(toy, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(SennaTrainer, "compute_loss", fail)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        main(["train", *toy.flags(tmp_path / "out")])
