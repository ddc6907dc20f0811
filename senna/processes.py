"""Agreement among the processes of a run that a launcher started."""

from collections.abc import Callable
from typing import TypeVar, cast

from senna.errors import SennaError
from senna.ranks import read_ranks

T = TypeVar("T")


def call_in_first(function: Callable[[], T]) -> T:
    """Call a function in the first process only, and return its result, or raise its SennaError, in all processes.

    torch.distributed must be initialized if the run has several processes. They all must call it.
    """
    if read_ranks().world_size == 1:
        return function()
    import torch.distributed as dist

    outcome: list[T | SennaError | None] = [None]
    if dist.get_rank() == 0:
        try:
            outcome = [function()]
        except SennaError as error:
            outcome = [error]
    dist.broadcast_object_list(outcome)
    if isinstance(outcome[0], SennaError):
        raise outcome[0]
    return cast(T, outcome[0])
