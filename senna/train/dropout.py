"""Dropout that does not depend on the number of processes of a run."""

import numpy as np
import torch
from torch import nn


def has_dropout(model: nn.Module) -> bool:
    """Return whether a model drops anything in training: by `torch.nn.Dropout`, or in its attention."""
    rates = [getattr(module, name, 0) for module in model.modules() for name in ("p", "dropout", "attention_dropout")]
    return any(isinstance(rate, float) and rate > 0 for rate in rates)


def seed_micro_batch(seed: int, step: int, index: int) -> None:
    """Seed torch's generators for a micro-batch, so that its dropout follows from its position in the data alone.

    Args:
        seed: the seed of the run.
        step: the number of optimizer steps before this one.
        index: the position of the micro-batch among those of the step, over all processes.
    """
    torch.manual_seed(int(np.random.SeedSequence((seed, step, index)).generate_state(1, np.uint64)[0]))
