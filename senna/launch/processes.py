"""Number of processes of a run, and the launcher that starts them."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from itertools import takewhile

from senna.errors import UsageError
from senna.launch.variables import (
    MOST_MACHINES,
    MOST_PROCESSES,
    MOST_RESTARTS,
    read_address,
    read_count,
    read_hostfile,
    read_port,
)


def count_gpus(environment: Mapping[str, str]) -> int:
    """Return the number of GPUs in CUDA_VISIBLE_DEVICES where it is set, else the number that nvidia-smi lists.

    CUDA ignores every entry from the first one that names no device, for example ``-1`` or ``NoDevFiles``.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        entries = [entry.strip() for entry in visible.split(",")]
        return sum(1 for _ in takewhile(re.compile(r"\d+|(GPU|MIG)-.+", re.ASCII).fullmatch, entries))
    if shutil.which("nvidia-smi") is None:
        return 0
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout
    return sum(line.startswith("GPU") for line in listed.splitlines())


def number_of_gpus(environment: Mapping[str, str]) -> int:
    """Return NUM_GPUS where it is set, else ``count_gpus``."""
    return read_count(environment, "NUM_GPUS", min(count_gpus(environment), MOST_PROCESSES), 0, MOST_PROCESSES)


def number_of_machines(environment: Mapping[str, str]) -> int:
    """Return NNODES, by default 1. Raises UsageError where it is no number, or does not fit NODE_RANK."""
    nodes = read_count(environment, "NNODES", 1, 1, MOST_MACHINES)
    if environment.get("NNODES"):
        read_count(environment, "NODE_RANK", 0, 0, nodes - 1)
    return nodes


def uses_several_processes(environment: Mapping[str, str], processes: int) -> bool:
    """Return whether a run has several processes, here or on several machines."""
    return bool(environment.get("HOSTFILE")) or number_of_machines(environment) > 1 or processes > 1


def count_processes(environment: Mapping[str, str], processes: int) -> int:
    """Return the number of processes of a run on all its machines, with ``processes`` on this one.

    Raises:
        UsageError: a variable is wrong, or HOSTFILE cannot be used.
    """
    if hostfile := environment.get("HOSTFILE"):
        return sum(host.slots for host in read_hostfile(hostfile))
    return number_of_machines(environment) * processes


def restart_flags(environment: Mapping[str, str]) -> list[str]:
    """Return the flags of torchrun for MAX_RESTARTS; none without restarts.

    Raises:
        UsageError: MAX_RESTARTS is no number, or the run has several machines.
    """
    restarts = read_count(environment, "MAX_RESTARTS", 0, 0, MOST_RESTARTS)
    if restarts and (environment.get("HOSTFILE") or number_of_machines(environment) > 1):
        raise UsageError(
            f"MAX_RESTARTS={restarts}: a run on several machines does not start again by itself",
            remedy="unset MAX_RESTARTS, and run the same command again after a failure, for example by a requeued job",
        )
    return ["--max_restarts", str(restarts)] if restarts else []


def start_command(arguments: list[str], environment: Mapping[str, str], processes: int) -> list[str]:
    """Return the command that starts `senna` with ``arguments`` in every process of a run.

    Args:
        environment: the environment variables; HOSTFILE and NNODES select several machines, MAX_RESTARTS restarts.
        processes: number of processes on this machine.

    Raises:
        UsageError: a variable is missing or wrong, or HOSTFILE cannot be used.
    """
    python = sys.executable
    restarts = restart_flags(environment)
    if hostfile := environment.get("HOSTFILE"):
        read_hostfile(hostfile)
        return [python, "-m", "senna", "launch", "hosts", hostfile, *arguments]
    nodes = number_of_machines(environment)
    if nodes > 1:
        for name, meaning in {
            "MASTER_ADDR": "the address of the first machine",
            "NODE_RANK": "0 on the first machine, then 1, 2, ...",
        }.items():
            if not environment.get(name):
                raise UsageError(f"NNODES={nodes} needs {name}", remedy=f"set {name}: {meaning}")
        rendezvous = [
            *("--nnodes", str(nodes), "--node_rank", str(read_count(environment, "NODE_RANK", 0, 0, nodes - 1))),
            *("--master_addr", read_address(environment, "MASTER_ADDR"), "--master_port", str(read_port(environment))),
        ]
    elif processes > 1 or restarts:
        rendezvous = ["--standalone"]
    else:
        return [python, "-m", "senna", *arguments]
    return [
        python,
        "-m",
        "senna.launch.torchrun",
        *rendezvous,
        *restarts,
        "--nproc_per_node",
        str(max(processes, 1)),
        "-m",
        "senna",
        *arguments,
    ]


def replace_process(command: list[str], changes: Mapping[str, str]) -> None:
    """Replace this process by ``command``, with ``changes`` in its environment. Does not return.

    Clusters that run PyTorch jobs set PET_NNODES and the like, which torchrun would take for flags.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PET_")}
    os.execvpe(command[0], command, {**environment, **changes})
