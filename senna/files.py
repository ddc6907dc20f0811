"""Files that are whole or absent at any moment at which the power may go: written aside, synced, then renamed."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from senna.errors import SennaError, UsageError

SAVING = ".saving"  # where a folder's content is being written


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Flush every file of a folder, and the folder itself, to the disk, and let others read what the umask lets them.

    (safetensors writes files that only their owner can read.)
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
    """Where to write a file, which gets its name when it is complete and on disk; one that was there stays till then.

    Raises SennaError where the disk does not take it.
    """
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield partial
        _sync(partial)
        partial.replace(path)
    except OSError as error:
        why = error.strerror or error
        raise SennaError(f"{path} cannot be written: {why}; make room and run the same command again") from error
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: dict) -> None:
    """Write a JSON file whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def stamp(path: Path) -> str:
    """Changes with a file, or with the files of a folder: a hash of their sizes and times. "" for what is not there."""
    files = [path] if path.is_file() else sorted(file for file in path.glob("*.*") if file.is_file())
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16] if facts else ""


def publish(staged: Path, target: Path) -> None:
    """Give a folder that is completely written its name. An older folder of that name is replaced."""
    sync_tree(staged)
    if target.exists():
        shutil.rmtree(target)
    staged.rename(target)
    _sync(target.parent)


def publish_files(staged: Path, target: Path, last: str = "config.json") -> None:
    """Move the files of a complete folder into ``target``; ``last`` says that the folder is whole, so it comes last."""
    sync_tree(staged)
    for path in sorted(staged.iterdir(), key=lambda path: path.name == last):
        path.replace(target / path.name)
    staged.rmdir()
    _sync(target)


def nearest_existing(folder: Path) -> Path:
    """``folder``, absolute, or the nearest of its parents that exists."""
    place = folder.resolve()
    while not place.exists():
        place = place.parent
    return place


def free_space(folder: Path) -> int:
    """Bytes free on the disk where ``folder`` is, or would be made."""
    return shutil.disk_usage(nearest_existing(folder)).free


def check_free_space(folder: Path, needed: int) -> None:
    """Raise UsageError where the disk of ``folder`` (or its nearest existing parent) has less than ``needed`` bytes free."""
    free = free_space(folder)
    if free < needed:
        raise UsageError(
            f"--output_dir {folder}: {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB needed for the run's files"
        )


@contextmanager
def writing(folder: Path, kept: Callable[[], str] = str) -> Iterator[None]:
    """Turn a failure to write (a full disk, most of all) into one message, and make room of what was half written.

    ``kept`` says, where there is something to say, what is safe ("...; "). torch and safetensors report a full disk as
    RuntimeError and SafetensorError.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(folder / SAVING, ignore_errors=True)
        free = shutil.disk_usage(folder).free / 1e6
        raise SennaError(
            f"saving to {folder} failed ({str(error).splitlines()[0]}; {free:.1f} MB free now); {kept()}"
            "make room and run the same command again"
        ) from error
