"""What is said when a run takes more memory than there is."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from senna.errors import SennaError
from senna.model.source import read_config
from senna.train.arguments import TrainArguments
from senna.train.memory.fit import smaller

FRAGMENTS = (
    "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"  # torch's allocator then leaves fewer pieces that fit nothing
)


@contextmanager
def out_of_memory(args: TrainArguments) -> Iterator[None]:
    """Turn an allocation that failed into what to change; checkpoints stay, and the same command goes on from them."""
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one; a CPU's allocator has no kind of its own
        on_card = isinstance(error, torch.OutOfMemoryError)
        if not on_card and "can't allocate memory" not in str(error):
            raise
        config = read_config(args.model_name_or_path, args.vision_tower, args.model_base)
        where = f"the card of process {args.process_index}" if on_card else "main memory"
        advice = smaller(args, config) or "a card with more memory, or more of them"
        also = f"; a little less: {FRAGMENTS}" if on_card else ""
        raise SennaError(
            f"{where} has no memory left ({str(error).splitlines()[0]}). Checkpoints are safe. Smaller, with the same global "
            f"batch: {advice}{also}. `senna doctor` with the same flags shows what takes how much"
        ) from error
