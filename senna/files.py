"""Files and folders that are complete or absent after a crash: written under another name, synced to disk, then renamed."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from senna.errors import SennaError, UsageError, first_line

SAVING = ".saving"
"""The name of the subfolder in which the content of an output folder is written before it is published."""

_BLOCK = 1 << 22  # bytes that are read at a time
_THREADS = 8  # that compute hashes; hashlib releases the GIL
_MAKE_ROOM = "make room and run the same command again"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Flush a folder and all its files to the disk, and give the files the permissions of the umask.

    safetensors creates files that only their owner can read.
    """
    mask = os.umask(0)
    os.umask(mask)
    for path in [*folder.rglob("*"), folder]:
        if path.is_file():
            path.chmod(0o666 & ~mask)
        if path.is_file() or path.is_dir():
            _sync(path)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to, and rename it to ``path`` once it is complete and on disk.

    An older file at ``path`` is replaced by the rename, and stays if writing fails.

    Raises:
        SennaError: the file cannot be written, for example because the disk is full.
    """
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield partial
        _sync(partial)
        partial.replace(path)
    except OSError as error:
        reason = error.strerror or error
        raise SennaError(f"{path} cannot be written: {reason}", remedy=_MAKE_ROOM) from error
    finally:
        with suppress(OSError):
            partial.unlink()


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write an indented JSON file with sorted keys, atomically (see ``atomic_write``)."""
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(value, indent=2, sort_keys=True), encoding="utf-8")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def hashes_of(paths: Sequence[Path]) -> list[str]:
    """Return the SHA-256 of several files, which are read at the same time."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(sha256, paths))


def stamp(path: Path) -> str:
    """Return a hash of the size and modification time of a file, or of the files in a folder; "" if there is none.

    Earlier versions of Senna compared it in place of contents.
    """
    files = [path] if path.is_file() else sorted(file for file in path.glob("*.*") if file.is_file())
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16] if facts else ""


def publish(staged: Path, target: Path) -> None:
    """Rename a complete folder to its final name, replacing an older folder of that name."""
    sync_tree(staged)
    if target.exists():
        shutil.rmtree(target)
    staged.rename(target)
    _sync(target.parent)


def publish_files(staged: Path, target: Path, last: str = "config.json") -> None:
    """Move the files of a complete folder into ``target``; the presence of ``last`` marks that all have arrived."""
    sync_tree(staged)
    for path in sorted(staged.iterdir(), key=lambda path: path.name == last):
        path.replace(target / path.name)
    staged.rmdir()
    _sync(target)


def nearest_existing(folder: Path) -> Path:
    """Return the absolute path of ``folder``, or of its nearest parent that exists."""
    existing = folder.resolve()
    while not existing.exists():
        existing = existing.parent
    return existing


def free_space(folder: Path) -> int:
    """Return the free bytes on the disk that holds ``folder``, or will hold it."""
    return shutil.disk_usage(nearest_existing(folder)).free


def check_free_space(folder: Path, needed: int, flag: str = "--output_dir") -> None:
    """Raise UsageError if the disk that holds ``folder``, or will hold it, has less than ``needed`` bytes free."""
    free = free_space(folder)
    if free < needed:
        raise UsageError(
            f"{flag} {folder}: {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB needed for the run's files",
            remedy="make room, or choose a folder on another disk",
        )


def is_folder_name(name: str) -> bool:
    """Return whether a model's name is that of a folder, which need not exist, so that the hub need not be asked.

    It is one if it has no form of a hub name (``owner/name`` or ``name``), or if its owner is a folder here.
    """
    path = Path(name)
    return path.is_absolute() or name.startswith(".") or name.count("/") > 1 or ("/" in name and path.parent.is_dir())


@contextmanager
def writing(folder: Path, kept: Callable[[], str] = str) -> Iterator[None]:
    """Turn a failure to write into one SennaError, and delete the half-written ``SAVING`` subfolder.

    torch and safetensors report a full disk as RuntimeError and SafetensorError.

    Args:
        kept: returns what is safe on disk, as the start of the remedy ("...; "); "" if there is nothing to say.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(folder / SAVING, ignore_errors=True)
        free = shutil.disk_usage(folder).free / 1e6
        raise SennaError(
            f"saving to {folder} failed ({first_line(error)}; {free:.1f} MB free now)", remedy=f"{kept()}{_MAKE_ROOM}"
        ) from error
