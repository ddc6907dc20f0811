"""A process with a /dev/shm of its own, as a container has one, made without privileges. The machine's own is not touched."""

import ctypes
import os
from collections.abc import Callable
from pathlib import Path

from senna import cli

_NEW_MOUNTS, _NEW_USER = 0x00020000, 0x10000000  # CLONE_NEWNS, CLONE_NEWUSER of sched.h
REFUSED = 77
"""The exit code if this machine allows no user namespace in which a tmpfs can be mounted."""


def mount(size: str) -> bool:
    """Mount a tmpfs over /dev/shm for this process, which must have a single thread. Return False if it may not."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(_NEW_USER | _NEW_MOUNTS):
        return False
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    except OSError:
        return False
    return libc.mount(b"none", b"/dev/shm", b"tmpfs", 0, f"size={size}".encode()) == 0


def run(words: list[str], main: Callable[[list[str]], int] = cli.main) -> int:
    """Run ``senna``. ``words`` are the size of /dev/shm, and then the arguments."""
    size, *arguments = words
    return main(arguments) if mount(size) else REFUSED
