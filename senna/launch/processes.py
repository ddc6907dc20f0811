"""Number of processes of a run, and the launcher that starts them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from senna.errors import UsageError

MASTER_PORT = "29500"


def read_count(environment: Mapping[str, str], name: str, default: int, least: int = 0) -> int:
    """Return a variable that holds a number of GPUs or machines, or ``default`` if it is not set.

    Raises UsageError if it is not a number of at least ``least``.
    """
    text = environment.get(name) or str(default)
    if not text.isascii() or not text.isdigit() or int(text) < least:
        raise UsageError(
            f"{name}={text} is not a number of at least {least}",
            remedy=f"set {name} to a number such as {max(least, 1)}",
        )
    return int(text)


def count_gpus(environment: Mapping[str, str]) -> int:
    """Return the number of GPUs in CUDA_VISIBLE_DEVICES if it is set, else the number that nvidia-smi lists."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return 0 if visible.strip() in ("", "-1") else len(visible.split(","))
    if shutil.which("nvidia-smi") is None:
        return 0
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout
    return sum(line.startswith("GPU") for line in listed.splitlines())


def number_of_gpus(environment: Mapping[str, str]) -> int:
    """Return NUM_GPUS if it is set, else ``count_gpus``."""
    return read_count(environment, "NUM_GPUS", count_gpus(environment))


def uses_several_processes(environment: Mapping[str, str], processes: int) -> bool:
    """Return whether a run has several processes, here or on several machines."""
    return bool(environment.get("HOSTFILE")) or read_count(environment, "NNODES", 1, 1) > 1 or processes > 1


def start_command(arguments: list[str], environment: Mapping[str, str], processes: int) -> list[str]:
    """Return the command that starts `senna` with ``arguments`` in every process of a run.

    Args:
        environment: the environment variables; HOSTFILE and NNODES select several machines.
        processes: number of processes on this machine.

    Raises:
        UsageError: HOSTFILE does not exist, or a variable that torchrun needs is missing.
    """
    python = sys.executable
    if hostfile := environment.get("HOSTFILE"):
        if not Path(hostfile).is_file():
            raise UsageError(f"HOSTFILE={hostfile}: no such file", remedy="write one line per machine: NAME slots=GPUS")
        # Without --no_local_rank DeepSpeed puts --local_rank=N before the name of the command.
        launcher = ["deepspeed.launcher.runner", "--hostfile", hostfile, "--no_local_rank", "--module"]
        return [python, "-m", *launcher, "senna", *arguments]
    nodes = read_count(environment, "NNODES", 1, 1)
    if nodes > 1:
        for name, meaning in {
            "MASTER_ADDR": "the address of the first machine",
            "NODE_RANK": "0 on the first machine, then 1, 2, ...",
        }.items():
            if not environment.get(name):
                raise UsageError(f"NNODES={nodes} needs {name}", remedy=f"set {name}: {meaning}")
        port = environment.get("MASTER_PORT") or MASTER_PORT
        rendezvous = ["--nnodes", str(nodes), "--node_rank", environment["NODE_RANK"]]
        rendezvous += ["--master_addr", environment["MASTER_ADDR"], "--master_port", port]
    elif processes > 1:
        rendezvous = ["--standalone"]
    else:
        return [python, "-m", "senna", *arguments]
    launcher = ["torch.distributed.run", *rendezvous, "--nproc_per_node", str(processes)]
    return [python, "-m", *launcher, "-m", "senna", *arguments]


def replace_process(command: list[str], changes: Mapping[str, str]) -> None:
    """Replace this process by ``command``, with ``changes`` in its environment. Does not return."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execvpe(command[0], command, {**os.environ, **changes})
