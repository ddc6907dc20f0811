"""Rank and number of processes of a run, as torchrun or DeepSpeed's launcher set them.

Clusters set RANK or WORLD_SIZE for purposes of their own (the number of a machine, of a task). Such a process is not one of
several: only a launcher sets all of `LAUNCHER_VARIABLES`.
"""

import os
from collections.abc import Mapping, MutableMapping
from typing import NamedTuple

LAUNCHER_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

_FOREIGN_NAMES = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"}
_FOREIGN_PREFIXES = ("PMI_", "PMIX_", "OMPI_COMM_WORLD_", "MV2_COMM_WORLD_", "MPI_LOCAL")


class Ranks(NamedTuple):
    """The number of this process among all processes of a run and among those of its machine."""

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    local_world_size: int = 1


def read_ranks(environment: Mapping[str, str] | None = None) -> Ranks:
    """Return the ranks that a launcher has set in ``environment`` (default: ``os.environ``), else those of a single process."""
    return _launched(os.environ if environment is None else environment) or Ranks()


def is_launched(environment: Mapping[str, str] | None = None) -> bool:
    """Return whether a launcher started this process."""
    return _launched(os.environ if environment is None else environment) is not None


def forget_other_launchers(environment: MutableMapping[str, str] | None = None) -> None:
    """Remove the rank variables from a process that no launcher started, or that is the only one that torchrun started.

    accelerate and DeepSpeed would wait for others, or make a group of one process.
    """
    environment = os.environ if environment is None else environment
    ranks = _launched(environment)
    if ranks is not None and (ranks.world_size > 1 or not environment.get("TORCHELASTIC_RUN_ID")):
        return
    names = (
        _FOREIGN_NAMES if ranks is None else {*LAUNCHER_VARIABLES, "LOCAL_WORLD_SIZE", "TORCHELASTIC_USE_AGENT_STORE"}
    )
    for name in [name for name in environment if name in names or name.startswith(_FOREIGN_PREFIXES)]:
        del environment[name]


def _launched(environment: Mapping[str, str]) -> Ranks | None:
    if not all(environment.get(name) for name in LAUNCHER_VARIABLES):
        return None
    try:
        rank, local_rank, world_size = (int(environment[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
        # DeepSpeed's launcher calls it LOCAL_SIZE.
        local = int(environment.get("LOCAL_WORLD_SIZE") or environment.get("LOCAL_SIZE") or 1)
    except ValueError:
        return None
    if not 0 <= rank < world_size or not 0 <= local_rank < world_size:
        return None
    return Ranks(rank, local_rank, world_size, max(1, local))
