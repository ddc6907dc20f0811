"""`senna train` in which one process takes longer for its backward pass than the others."""

import time

import torch

from senna.cli import main
from senna.ranks import read_ranks
from senna.train.trainer import SennaTrainer

SECONDS = 0.3


class _Slow(torch.autograd.Function):
    """The identity, with a slow backward pass in the second process."""

    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        if read_ranks().rank == 1:
            time.sleep(SECONDS)
        return gradient


def train(arguments: list[str]) -> int:
    """Run `senna train` with such a loss."""
    compute_loss = SennaTrainer.compute_loss

    def slow(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        return _Slow.apply(compute_loss(self, model, inputs, return_outputs, num_items_in_batch))

    SennaTrainer.compute_loss = slow
    return main(["train", *arguments])
