"""Batches in the shared memory of data loader workers, and the errors of workers that fail.

A worker passes the tensors of a batch on in files of /dev/shm, which has 64 MB in a container. torch moves them there in a
thread of the worker that prints an error, drops the batch, and lets the main process wait for it for ever. `SharedCollate`
moves them in the worker itself, where an error reaches the main process. Small tensors, such as the tokens of twenty answers to
each of many questions, are sent as bytes: a file for each of them takes longer than their copy.
"""

import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import get_worker_info

from senna.errors import SennaError, first_line

SHARED_MEMORY = "/dev/shm"
SMALL = 16 * 1024  # bytes of a tensor that is sent by value
MORE_SHARED_MEMORY = "give the container more shared memory (docker run --shm-size=8g, or --ipc=host)"


class SharedMemoryError(SennaError):
    """A batch that does not fit into shared memory."""


@dataclass(frozen=True)
class SharedCollate:
    """A collator whose large tensors are in shared memory when a worker returns them.

    Attributes:
        collate: returns a batch, of tensors in dictionaries, lists and tuples.
    """

    collate: Callable[[Any], Any]

    def __call__(self, samples: Any) -> Any:
        """Return the batch of ``samples``. Raises SharedMemoryError if shared memory is full."""
        batch = self.collate(samples)
        if get_worker_info() is None:
            return batch
        try:
            return _prepare(batch)
        except RuntimeError as error:
            raise SharedMemoryError(first_line(error)) from None


class _ByValue:
    """A tensor that is pickled with its values, and is the tensor when it is unpickled."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.values = tensor.numpy()

    def __reduce__(self) -> tuple[Callable[..., torch.Tensor], tuple[Any, ...]]:
        return torch.from_numpy, (self.values,)


def _prepare(value: Any) -> Any:
    """Return a batch as it is sent: each large tensor in shared memory, each small one as `_ByValue`."""
    if isinstance(value, torch.Tensor):
        if value.nbytes > SMALL or value.layout != torch.strided or value.dtype == torch.bfloat16:
            return value.share_memory_()
        return _ByValue(value)
    if isinstance(value, dict):
        return {name: _prepare(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        entries = [_prepare(entry) for entry in value]
        if isinstance(value, list):
            return entries
        return type(value)(*entries) if hasattr(value, "_fields") else tuple(entries)
    return value


def shared_memory() -> tuple[int, int] | None:
    """Return the total and the free bytes of shared memory; None on a system without /dev/shm."""
    try:
        found = os.statvfs(SHARED_MEMORY)
    except OSError:
        return None
    return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize


@contextmanager
def worker_errors(flag: str) -> Iterator[None]:
    """Turn the failure of a data loader worker into one SennaError.

    Args:
        flag: the flag that sets the number of workers.
    """
    try:
        yield
    except SharedMemoryError as error:
        raise _no_shared_memory(flag) from error
    except RuntimeError as error:
        text = first_line(error)  # torch has no exception type for these
        if not text.startswith("DataLoader worker"):
            raise
        if "Bus error" in text:
            raise _no_shared_memory(flag) from error
        raise _ended(text, flag) from error
    except (EOFError, ConnectionError, FileNotFoundError) as error:
        if not _is_raised_by_loader(error):
            raise
        raise _ended("while it handed a batch over", flag) from error


def _is_raised_by_loader(error: BaseException) -> bool:
    """Return whether an error comes from the connection to a worker that has just ended."""
    frames = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    return all(any(part in name for name in frames) for part in ("utils/data/dataloader", "multiprocessing/connection"))


def _ended(how: str, flag: str) -> SennaError:
    # torch does not always know the signal. A worker reports a bus error itself, on a line above.
    return SennaError(
        f"a process that reads images has ended ({how})",
        remedy=f"after a bus error, {MORE_SHARED_MEMORY}; else main memory may be full: use fewer of them ({flag} 1)",
    )


def _no_shared_memory(flag: str) -> SennaError:
    found = shared_memory()
    size = "" if found is None else f" ({found[0] / 1e6:.0f} MB, {found[1] / 1e6:.0f} MB free)"
    return SennaError(
        f"a process that reads images found no room for its batch in {SHARED_MEMORY}{size}",
        remedy=f"{MORE_SHARED_MEMORY}, or use fewer such processes ({flag} 1; 0 needs no shared memory)",
    )
