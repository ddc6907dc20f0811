"""LAUNCHER=slurm: the variables of torchrun from those that SLURM sets in every task of `srun`."""

import re
from collections.abc import Mapping

from senna.errors import UsageError
from senna.launch.processes import count_gpus
from senna.launch.variables import MOST_MACHINES, MOST_PROCESSES, read_count

_FIRST_PORT, _PORTS = 20_000, 20_000


def first_host(nodes: str) -> str:
    """Return the first name of a SLURM node list: ``gpu[07-09,12],cpu1`` gives ``gpu07``."""
    # Every bracket is reduced to its first number.
    return re.sub(r"\[([^\]\-,]*)[^\]]*\]", r"\1", nodes.strip()).partition(",")[0]


def slurm_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables with NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT and NUM_GPUS from SLURM's.

    NNODES and the other variables win where they are set. Raises UsageError outside of a job, and where a machine has several
    tasks.
    """
    result = dict(environment)
    if environment.get("NNODES"):
        return result
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST") or ""
    if not environment.get("SLURM_NNODES") or not environment.get("SLURM_NODEID") or not first_host(nodes):
        raise UsageError(
            "LAUNCHER=slurm needs SLURM_NNODES, SLURM_NODEID and SLURM_JOB_NODELIST, which SLURM sets in a task of srun",
            remedy="start it with srun --ntasks-per-node=1, or unset LAUNCHER",
        )
    count = read_count(environment, "SLURM_NNODES", 1, 1, MOST_MACHINES)
    rank = read_count(environment, "SLURM_NODEID", 0, 0, count - 1)
    tasks = read_count(environment, "SLURM_NTASKS", count, 1, MOST_MACHINES * MOST_PROCESSES)
    if tasks > count:
        raise UsageError(
            f"LAUNCHER=slurm: SLURM_NTASKS={tasks} tasks on SLURM_NNODES={count} machines",
            remedy="use srun --ntasks-per-node=1: torchrun starts one process for each GPU",
        )
    job = environment.get("SLURM_JOB_ID", "")
    derived = {"NNODES": str(count), "NODE_RANK": str(rank), "MASTER_ADDR": first_host(nodes)}
    if job.isascii() and job.isdigit():  # two jobs may share a machine
        derived["MASTER_PORT"] = str(_FIRST_PORT + int(job) % _PORTS)
    if count_gpus(environment) == 0 and environment.get("SLURM_GPUS_ON_NODE"):
        derived["NUM_GPUS"] = environment["SLURM_GPUS_ON_NODE"]
    given = ("MASTER_ADDR", "MASTER_PORT", "NUM_GPUS")
    return {**result, **derived, **{name: environment[name] for name in given if environment.get(name)}}
