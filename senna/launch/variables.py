"""Read the variables that say where a run starts. A wrong value raises UsageError, instead of one process on one machine."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from senna.errors import UsageError

MASTER_PORT = 29500
MOST_PROCESSES, MOST_MACHINES, MOST_RESTARTS, LAST_PORT = 1024, 100_000, 1000, 65_535

SAVE_SECONDS = 1800
"""Seconds that processes have to write a checkpoint after a signal, unless TORCH_ELASTIC_SHUTDOWN_TIMEOUT says otherwise."""


class Host(NamedTuple):
    """A machine of a HOSTFILE and its number of processes."""

    name: str
    slots: int


def read_hostfile(path: str | Path) -> list[Host]:
    """Return the machines of a HOSTFILE, one line ``NAME slots=GPUS`` each. Raises UsageError where it cannot be used."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read: {error}"
        raise UsageError(f"HOSTFILE={path}: {reason}", remedy="write one line per machine: NAME slots=GPUS") from error
    hosts: list[Host] = []
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        match = re.fullmatch(r"([\w.:@%][\w.:@%-]*)\s+slots=(\d{1,6})(\s.*)?", text, re.ASCII)
        if match is None or not 1 <= int(match[2]) <= MOST_PROCESSES:
            raise UsageError(
                f"HOSTFILE={path}: line {number} is {text!r}", remedy="write one line per machine: NAME slots=GPUS"
            )
        if match[1] in [host.name for host in hosts]:
            raise UsageError(f"HOSTFILE={path}: line {number} names {match[1]} again", remedy="name each machine once")
        hosts.append(Host(match[1], int(match[2])))
    if not hosts:
        raise UsageError(f"HOSTFILE={path} names no machine", remedy="write one line per machine: NAME slots=GPUS")
    return hosts


def plain_path(value: str) -> str:
    """Return the value of a variable that holds a path, so that no command takes it for a flag."""
    return f"./{value}" if value.startswith("-") else value


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
