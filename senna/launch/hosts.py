"""Start a run on the machines of HOSTFILE: torchrun on each of them, through pdsh or ssh.

``senna launch hosts HOSTFILE WORDS`` runs in place of DeepSpeed's launcher, whose format of a HOSTFILE it reads.
The variables that a run depends on arrive on every machine. With ssh, secrets travel on standard input, so that no list of
processes shows them; pdsh has no standard input.
"""

import ipaddress
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

from senna.errors import SennaError, UsageError
from senna.launch.variables import SAVE_SECONDS, Host, read_address, read_hostfile, read_port

_PREFIXES = """HF_ HUGGING TRANSFORMERS_ TOKENIZERS_ OMP_ MKL_ KMP_ GOMP_ NCCL_ GLOO_ UCX_ MV2_ PYTHON TORCH PYTORCH_ CUDA_
TRITON_ DS_ BNB_ MLFLOW WANDB_ ACCELERATE_ SENNA_ XDG_CACHE LD_LIBRARY_PATH""".split()
_SECRET = re.compile(r"TOKEN$|_KEY$|SECRET|PASSWORD", re.IGNORECASE)
_GRACE = 30.0  # seconds that the other machines have to end after one has failed, and again after a first request
_LAST_GRACE = 10.0  # seconds that a machine has to end its processes at once


def passed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that every machine of a run gets: those of Python, the libraries and the hub, proxies, and those in
    DeepSpeed's ``.deepspeed_env`` (in the home folder, then in this one)."""
    passed = {
        name: value
        for name, value in environment.items()
        if (name.startswith(tuple(_PREFIXES)) and not name.startswith("TORCHELASTIC_"))
        or name.lower().endswith("_proxy")
    }
    for folder in (Path.home(), Path()):
        file = folder / environment.get("DS_ENV_FILE", ".deepspeed_env")
        if file.is_file():
            assignments = (line.partition("=") for line in file.read_text(encoding="utf-8").splitlines())
            passed |= {
                name.strip(): value for name, equals, value in assignments if equals and name.strip().isidentifier()
            }
    return passed


def remote_shell(environment: Mapping[str, str]) -> str:
    """Return the program that reaches other machines: pdsh where it is installed, else ssh."""
    for program in ("pdsh", "ssh"):
        if shutil.which(program, path=environment.get("PATH")):
            return program
    raise UsageError(
        "HOSTFILE needs pdsh or ssh, and neither is installed",
        remedy="install an ssh client, or start the script on each machine with NNODES, NODE_RANK and MASTER_ADDR",
    )


def remote_command(program: str, host: str, script: str) -> list[str]:
    """Return the command that runs a shell script on a machine."""
    command = f"sh -c {shlex.quote(script)}"
    if program == "pdsh":  # which replaces %h, %n and %u
        return ["pdsh", "-S", "-f", "1024", "-w", host, command.replace("%", "%%")]
    return ["ssh", "-o", "BatchMode=yes", host, command]


def node_script(words: list[str], variables: Mapping[str, str], reads_secrets: bool) -> str:
    """Return the shell script that starts torchrun with ``words`` on a machine, in the folder of the same name as this one."""
    assignments = [f"{name}={value}" for name, value in sorted(variables.items())]
    node = [sys.executable, "-m", "senna.launch.node", *(["--stdin"] if reads_secrets else []), *words]
    return f"cd {shlex.quote(os.getcwd())} && exec env {shlex.join([*assignments, *node])}"


def main_address(hosts: list[Host], environment: Mapping[str, str], program: str) -> str:
    """Return the address at which all machines reach the first: MASTER_ADDR, else its name, else the first that it has."""
    if environment.get("MASTER_ADDR"):
        return read_address(environment, "MASTER_ADDR")
    name = hosts[0].name.rpartition("@")[2]
    if (is_local := _is_loopback(name)) is not None and (
        not is_local or all(_is_loopback(host.name.rpartition("@")[2]) for host in hosts)
    ):
        return name
    # An alias of ssh's configuration, or a name that is a loopback address on the machine itself.
    script = "hostname -I 2>/dev/null || hostname -i"
    command = remote_command(program, hosts[0].name, script)
    answer = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=_shell_environment())
    for word in answer.stdout.split():
        if (is_local := _is_loopback(word)) is not None and not is_local:
            return word
    raise SennaError(
        f"the address of {hosts[0].name}, the first machine of HOSTFILE, could not be found. {answer.stderr.strip()}",
        remedy=f"check that `{program} {hosts[0].name} hostname` works without a password, or set MASTER_ADDR",
    )


def _is_loopback(name: str) -> bool | None:
    """Return whether a name means this machine itself, to every machine; None for an unknown name."""
    try:
        address = socket.getaddrinfo(name, None)[0][4][0]
        return ipaddress.ip_address(str(address).partition("%")[0]).is_loopback
    except (OSError, ValueError):
        return None


def _shell_environment() -> dict[str, str]:
    return {"PDSH_RCMD_TYPE": "ssh", **os.environ}


def start(hosts: list[Host], words: list[str]) -> dict[str, subprocess.Popen]:
    """Start `senna` with ``words`` on every machine. Returns the remote shell's process of each machine."""
    program, variables = remote_shell(os.environ), passed_on(os.environ)
    secrets = {name: value for name, value in variables.items() if program == "ssh" and _SECRET.search(name)}
    plain = {name: value for name, value in variables.items() if name not in secrets}
    address, port = main_address(hosts, os.environ, program), read_port(os.environ)
    shells: dict[str, subprocess.Popen] = {}
    for rank, host in enumerate(hosts):
        torchrun = [
            *("--nnodes", str(len(hosts)), "--node_rank", str(rank), "--nproc_per_node", str(host.slots)),
            *("--master_addr", address, "--master_port", str(port), "-m", "senna"),
        ]
        command = remote_command(program, host.name, node_script([*torchrun, *words], plain, program == "ssh"))
        stdin = subprocess.PIPE if program == "ssh" else subprocess.DEVNULL
        shells[host.name] = subprocess.Popen(command, stdin=stdin, text=True, env=_shell_environment())
        if pipe := shells[host.name].stdin:  # it stays open: its end tells the machine to stop
            with suppress(BrokenPipeError):  # the machine could not be reached: `wait` reports it
                pipe.write(json.dumps(secrets) + "\n")
                pipe.flush()
    return shells


def wait(shells: Mapping[str, subprocess.Popen]) -> tuple[str, int] | None:
    """Wait until all machines have ended. Returns name and exit code of the first that failed; the others are then stopped."""
    failure, deadline = None, float("inf")
    while None in [shell.poll() for shell in shells.values()] and time.monotonic() < deadline:
        failure = failure or _failure(shells)
        if failure and deadline == float("inf"):
            deadline = time.monotonic() + _GRACE
        time.sleep(0.2)
    return failure or _failure(shells)


def _failure(shells: Mapping[str, subprocess.Popen]) -> tuple[str, int] | None:
    return next(((name, shell.returncode) for name, shell in shells.items() if shell.poll()), None)


def stop(shells: Mapping[str, subprocess.Popen], seconds: float = _GRACE) -> None:
    """Stop the run on all machines, and at once if it has not ended after some seconds, or at a second signal."""
    try:
        _tell(shells, lambda pipe: print(file=pipe, flush=True))
        deadline = time.monotonic() + seconds
        for shell in shells.values():
            with suppress(subprocess.TimeoutExpired):
                shell.wait(max(deadline - time.monotonic(), 0) if shell.stdin else 0)
    finally:
        _tell(shells, lambda pipe: pipe.close())
        for shell in shells.values():
            try:
                shell.wait(_LAST_GRACE if shell.stdin else 0)
            except subprocess.TimeoutExpired:
                shell.terminate()


def _tell(shells: Mapping[str, subprocess.Popen], message: Callable[[IO[str]], object]) -> None:
    for shell in shells.values():
        if shell.stdin:
            with suppress(BrokenPipeError, ValueError):  # the machine has ended
                message(shell.stdin)


def main(argv: list[str]) -> int:
    """Run ``HOSTFILE WORDS`` and return the exit code: 0, or 1 if a machine failed."""
    hosts = read_hostfile(argv[0])
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    shells = start(hosts, argv[1:])
    seconds = SAVE_SECONDS  # after a signal, all machines write a checkpoint together
    try:
        failure = wait(shells)
        seconds = _GRACE
    finally:
        stop(shells, seconds)
    if failure:
        name, code = failure
        raise SennaError(
            f"{name}: the run ended with exit code {code}",
            remedy=f"read its messages above; without one, check that `{remote_shell(os.environ)} {name} hostname` works "
            "without a password and that the repository, the interpreter and this folder have the same paths there",
        )
    return 0
