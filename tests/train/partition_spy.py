"""`senna train` that also writes how many weights were unpartitioned on the device at a time while it was prepared."""

from pathlib import Path

import torch
from deepspeed.runtime.zero.partition_parameters import Init

from senna.train.arguments import parse_arguments
from senna.train.run import build_trainer


def unpartitioned(parameters) -> int:
    return sum(parameter.numel() for parameter in parameters if not hasattr(parameter, "ds_id"))


def train(words: list[str]) -> None:
    """Run `senna train`. ``words`` are the file for the peak and the largest parameter, and then flags of `senna train`."""
    path, *flags = words
    peak, move, partition = [0], torch.nn.Module.to, Init._zero_init_param

    def record_move(module, *arguments, **options):
        peak[0] = max(peak[0], unpartitioned(module.parameters()))
        return move(module, *arguments, **options)

    def record_partition(self, parameter):
        peak[0] = max(peak[0], parameter.numel())
        partition(self, parameter)
        assert parameter.numel() == 0

    trainer = build_trainer(parse_arguments(flags))
    largest = max(parameter.numel() for parameter in trainer.model.parameters())
    torch.nn.Module.to, Init._zero_init_param = record_move, record_partition  # type: ignore[method-assign]
    trainer.train()
    Path(f"{path}-{trainer.args.process_index}").write_text(f"{peak[0]} {largest}")
