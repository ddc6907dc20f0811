"""Number of processes of a run, and the launcher that starts them."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path

from senna.errors import UsageError

MASTER_PORT = 29500
MOST_PROCESSES, MOST_MACHINES, LAST_PORT = 1024, 100_000, 65_535


def read_count(environment: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    """Return a variable that holds a whole number. Raises UsageError where it is none, or not from ``least`` to ``most``."""
    text = (environment.get(name) or "").strip() or str(default)
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(most)) + 3
    if not is_number or not least <= int(text) <= most:
        raise UsageError(
            f"{name}={text} is not a number from {least} to {most}",
            remedy=f"set {name} to one number such as {min(max(least, 1, default), most)}",
        )
    return int(text)


def read_address(environment: Mapping[str, str], name: str) -> str:
    """Return a variable that holds the name or IP address of a machine. Raises UsageError where it is none."""
    text = environment[name].strip()
    has_port = text.count(":") == 1  # an IPv6 address has more
    if has_port or not re.fullmatch(r"[\w.:%-]+", text, re.ASCII) or text.startswith("-"):
        hint = ", and the port as MASTER_PORT" if has_port else ""
        raise UsageError(
            f"{name}={text} is not the name or IP address of a machine",
            remedy=f"set {name} to an address such as 10.0.0.1{hint}",
        )
    return text


def read_port(environment: Mapping[str, str]) -> int:
    """Return MASTER_PORT, by default 29500. Raises UsageError where it is no port."""
    return read_count(environment, "MASTER_PORT", MASTER_PORT, 1, LAST_PORT)


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


def start_command(arguments: list[str], environment: Mapping[str, str], processes: int) -> list[str]:
    """Return the command that starts `senna` with ``arguments`` in every process of a run.

    Args:
        processes: processes on this machine.

    Raises:
        UsageError: HOSTFILE does not exist, or a variable that torchrun needs is missing or wrong.
    """
    python = sys.executable
    if hostfile := environment.get("HOSTFILE"):
        if not Path(hostfile).is_file():
            raise UsageError(f"HOSTFILE={hostfile}: no such file", remedy="write one line per machine: NAME slots=GPUS")
        # Without --no_local_rank DeepSpeed puts --local_rank=N before the name of the command.
        launcher = ["deepspeed.launcher.runner", "--hostfile", hostfile, "--no_local_rank", "--module"]
        return [python, "-m", *launcher, "senna", *arguments]
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
    elif processes > 1:
        rendezvous = ["--standalone"]
    else:
        return [python, "-m", "senna", *arguments]
    return [
        python,
        "-m",
        "torch.distributed.run",
        *rendezvous,
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
