"""Limits of the control groups that this process is in: those of a container, of a SLURM job, of a systemd unit.

A process belongs to a group somewhere below the root of a hierarchy, and the limit of every group on the way to the root
holds for it (Linux kernel documentation, admin-guide/cgroup-v1 and admin-guide/cgroup-v2.rst).
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

_VERSION_1, _VERSION_2 = "cgroup", "cgroup2"  # types of file systems
_MEMORY_FILES = {
    _VERSION_1: (("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_"),
    _VERSION_2: (("memory.max", "memory.high"), "memory.current", ""),
}
"""Version -> files of limits, file of the usage, and the prefix of the entries of memory.stat that include subgroups."""
_PAGE_CACHE = ("active_file", "inactive_file")  # the kernel frees it before a limit is reached


class Limit(NamedTuple):
    """A group's limit of memory and what is left of it, in bytes."""

    total: int
    free: int


def memory_limits(root: Path = Path("/")) -> Iterator[Limit]:
    """Yield the limits of memory of all groups of this process, in both versions of cgroups.

    Args:
        root: the folder that has proc and sys, for tests.
    """
    for version, folder in _folders("memory", root):
        limit_files, used_file, prefix = _MEMORY_FILES[version]
        statistics = dict(line.split(None, 1) for line in _lines(folder / "memory.stat") if " " in line)
        cache = sum(_number(statistics.get(prefix + name)) or 0 for name in _PAGE_CACHE)
        used = max((_number(_text(folder / used_file)) or 0) - cache, 0)
        for name in limit_files:
            limit = _number(_text(folder / name))
            if limit is not None:
                yield Limit(limit, max(limit - used, 0))


def available_cores(root: Path = Path("/")) -> int:
    """Return the number of cores that this process may use: by its CPU affinity and the quotas of its groups, at least 1.

    Args:
        root: the folder that has proc and sys, for tests.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for version, folder in _folders("cpu", root):
        if version == _VERSION_2:
            quota, _, period = _text(folder / "cpu.max").partition(" ")
        else:
            quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
        time, out_of = _number(quota), _number(period)
        if time and out_of and time > 0:  # "max" or -1: no limit
            cores = min(cores, math.ceil(time / out_of))
    return max(cores, 1)


def _folders(controller: str, root: Path) -> Iterator[tuple[str, Path]]:
    """Yield (version, folder) of all groups of this process that a controller may limit."""
    paths = _own_paths(controller, root / "proc/self/cgroup")
    for version, mount, mounted in _mounts(controller, root / "proc/self/mountinfo"):
        if version in paths:
            for folder in _groups(root / mount.relative_to("/"), mounted, paths[version]):
                yield version, folder


def _own_paths(controller: str, file: Path) -> dict[str, PurePosixPath]:
    """Return version -> path of the group of this process, from /proc/self/cgroup."""
    paths = {}
    for line in _lines(file):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller in controllers.split(","):
            paths[_VERSION_1] = PurePosixPath(path)
        elif number == "0" and not controllers:
            paths[_VERSION_2] = PurePosixPath(path)
    return paths


def _mounts(controller: str, file: Path) -> list[tuple[str, PurePosixPath, PurePosixPath]]:
    """Return (version, mount point, mounted group) of the hierarchies with a controller, from /proc/self/mountinfo."""
    mounts = []
    for line in _lines(file):
        left, _, right = line.partition(" - ")
        fields, system = left.split(), right.split()
        if len(fields) < 5 or len(system) < 3 or system[0] not in (_VERSION_1, _VERSION_2):
            continue
        if system[0] == _VERSION_2 or controller in system[2].split(","):
            mounted, point = (PurePosixPath(field.replace("\\040", " ")) for field in fields[3:5])
            mounts.append((system[0], point, mounted))
    usual = ((_VERSION_2, "/sys/fs/cgroup"), (_VERSION_1, f"/sys/fs/cgroup/{controller}"))
    return mounts or [(version, PurePosixPath(point), PurePosixPath("/")) for version, point in usual]


def _groups(mount: Path, mounted: PurePosixPath, path: PurePosixPath) -> Iterator[Path]:
    """Yield the folders of a group and of all groups above it, up to the one that is mounted.

    A container may see its own group as the root while /proc names the path outside: then only the mounted one is known.
    """
    inside = path.relative_to(mounted) if path.is_relative_to(mounted) else PurePosixPath()
    if ".." in inside.parts:
        inside = PurePosixPath()
    for part in (inside, *inside.parents):
        if part.parts:
            yield mount / part
    yield mount


def _number(text: str | None) -> int | None:
    """Return the number of a text; None if it is none, for example where a limit is "max"."""
    try:
        return int(text or "")
    except ValueError:
        return None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _lines(file: Path) -> list[str]:
    return _text(file).splitlines()
