"""The error of a run that needs more memory than there is, with settings that need less."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from senna.errors import SennaError, first_line
from senna.model.source import ModelSource
from senna.train.arguments import TrainArguments
from senna.train.memory.fit import suggest_smaller

EXPANDABLE_SEGMENTS = "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"
"""Makes torch's allocator leave fewer fragments that no tensor fits in."""


@contextmanager
def out_of_memory(args: TrainArguments) -> Iterator[None]:
    """Turn a failed allocation into a SennaError that names smaller settings with the same global batch."""
    try:
        yield
    except RuntimeError as error:
        is_gpu = isinstance(error, torch.OutOfMemoryError)
        if not is_gpu and "can't allocate memory" not in str(error):  # torch's CPU allocator has no exception type
            raise
        config = ModelSource.resolve(args.required("model_name_or_path"), args.model_base, args.vision_tower).config
        device = f"the card of process {args.process_index}" if is_gpu else "main memory"
        advice = suggest_smaller(args, config) or "a card with more memory, or more cards"
        is_set = {"PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"} & os.environ.keys()  # the scripts set it
        fragments = f"; {EXPANDABLE_SEGMENTS} helps a little too" if is_gpu and not is_set else ""
        raise SennaError(
            f"{device} has no memory left ({first_line(error)}); checkpoints are safe",
            remedy=f"use settings that need less memory, with the same global batch: {advice}{fragments}. `senna doctor` with "
            "the same flags shows the memory of each part",
        ) from error
