"""Micro-batches stay on the host until their turn comes, and none of them makes the host wait for the device."""

import gc
import itertools
import weakref

import accelerate.data_loader
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from senna.train.arguments import parse_arguments
from senna.train.run import build_trainer
from senna.train.trainer import SennaTrainer

STEP = {"gradient_accumulation_steps": 4, "max_steps": 2, "save_steps": 99}


class Copies:
    """Stands in for a device: it copies the ids of every batch that is moved, and counts the copies that exist."""

    def __init__(self):
        self.now = self.most = self.moved = 0

    def copy(self, batch: dict) -> dict:
        ids = batch["input_ids"].clone()
        weakref.finalize(ids, self._freed)
        self.now, self.moved = self.now + 1, self.moved + 1
        self.most = max(self.most, self.now)
        return {**batch, "input_ids": ids}

    def _freed(self):
        self.now -= 1


def test_at_most_one_micro_batch_of_a_step_is_on_the_device(toy, tmp_path, monkeypatch):
    copies = Copies()
    prepare = SennaTrainer._prepare_inputs
    monkeypatch.setattr(accelerate.data_loader, "send_to_device", lambda batch, *_, **__: copies.copy(batch))

    def prepare_on_device(self, inputs):
        gc.collect()  # the model's graph may hold the last micro-batch in a cycle
        return copies.copy(prepare(self, inputs))

    monkeypatch.setattr(SennaTrainer, "_prepare_inputs", prepare_on_device)
    result = toy.train(tmp_path / "out", per_device_train_batch_size=1, **STEP)
    assert result.returncode == 0, result.stderr
    assert (copies.moved, copies.most) == (8, 1)


def test_a_micro_batch_is_moved_to_the_device_of_the_run_without_waiting(toy, tmp_path, monkeypatch):
    trainer = build_trainer(parse_arguments(toy.flags(tmp_path / "out", **STEP)))
    moves, move = [], torch.Tensor.to

    def spy(self, *arguments, **options):
        moves.append(options.get("non_blocking"))
        return move(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(type(trainer.args), "device", torch.device("meta"))
        patch.setattr(type(trainer.accelerator), "device", torch.device("meta"))
        batches, _ = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), 4, torch.device("cpu"))
        assert {value.device.type for batch in batches for value in batch.values()} == {"cpu"}
        patch.setattr(torch.Tensor, "to", spy)
        moved = trainer._prepare_inputs(batches[0])
    assert {value.device.type for value in moved.values()} == {"meta"}
    assert moves[0] is True
    assert batches[0]["images"].dtype == moved["images"].dtype == torch.uint8


class Waits(TorchDispatchMode):
    """Notes the operations that would make the host wait for a GPU: it needs their result, or the size of it."""

    OPERATIONS = ("_local_scalar_dense", "nonzero", "is_nonzero", "unique", "equal", "item")

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        name = operation.overloadpacket.__name__
        if name in self.OPERATIONS or name.startswith("_unique"):
            self.seen.append(name)
        return operation(*arguments, **(options or {}))

    def __enter__(self):
        self.tolist = torch.Tensor.tolist  # reads the memory of a CPU tensor without an operation
        torch.Tensor.tolist = lambda tensor: (self.seen.append("tolist"), self.tolist(tensor))[1]
        return super().__enter__()

    def __exit__(self, *error):
        torch.Tensor.tolist = self.tolist
        return super().__exit__(*error)


@pytest.mark.parametrize("loss_weight", ["token", "record"])
def test_the_host_waits_once_a_step_for_the_losses_and_not_for_each_micro_batch(toy, stage1, tmp_path, loss_weight):
    options = {"gradient_accumulation_steps": 4, "loss_weight": loss_weight, "pack_frames": True}
    trainer = build_trainer(parse_arguments(toy.driving_flags(tmp_path / "out", stage1, **options)))
    trainer.create_optimizer()
    loader = list(itertools.islice(trainer.get_train_dataloader(), 4))
    with Waits() as counting:
        batches, number = trainer.get_batch_samples(iter(loader), 4, torch.device("cpu"))
    assert counting.seen == []
    assert number > 0
    waits = []
    for micro_batch, inputs in enumerate(batches):
        trainer.accelerator.gradient_state._set_sync_gradients(micro_batch == 3)
        with Waits() as step:
            trainer.training_step(trainer.model, inputs, number)
        waits.append(len(step.seen))
    assert waits == [0, 0, 0, 1]
