"""Unpacking of a zip into a folder that gets its name only when it is complete; an interrupted unpacking is resumed."""

import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from senna.errors import SennaError
from senna.files import free_space

_BLOCK = 4096  # bytes of a disk block; a file occupies a multiple of them
_CHUNK = 1 << 20
_MAKE_ROOM = "make room and run the same command again"


def staging_folder(folder: Path) -> Path:
    """Return the folder that holds the content until it is complete."""
    return folder if folder.exists() else folder.with_name(f"{folder.name}.partial")


def disk_usage(folder: Path) -> int:
    """Return the bytes that the files of a folder occupy on the disk; 0 without such a folder."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*")) if folder.is_dir() else 0


def unpack(archive: Path, folder: Path, progress: Callable[[int], Callable[[int], None]]) -> int:
    """Unpack ``archive`` into ``folder`` and return the number of its files.

    Files of an earlier run are kept if their size and CRC agree.

    Args:
        progress: called with the total of bytes; returns a function that is called with the size of each unpacked file.

    Raises:
        SennaError: the zip is damaged or the disk is full, or, before anything is written, a member would leave the folder
            or there is too little space.
    """
    staging = staging_folder(folder)
    try:
        with zipfile.ZipFile(archive) as zipped:
            members = [member for member in zipped.infolist() if not member.is_dir()]
            for member in members:
                _check_path(archive, member)
            _check_space(archive, staging, members)
            advance = progress(sum(member.file_size for member in members))
            for member in members:
                target = staging / member.filename
                if not _is_complete(target, member):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with zipped.open(member) as source, target.open("wb") as sink:
                        shutil.copyfileobj(source, sink, _CHUNK)
                advance(member.file_size)
    except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError) as error:
        raise SennaError(
            f"{archive} cannot be unpacked: {error}", remedy="delete it and run the same command again"
        ) from error
    except OSError as error:
        raise SennaError(f"{staging} cannot be written: {error.strerror or error}", remedy=_MAKE_ROOM) from error
    os.sync()  # one call instead of an fsync for each of half a million files
    staging.rename(folder)
    return len(members)


def _check_path(archive: Path, member: zipfile.ZipInfo) -> None:
    """Raise SennaError for a member that would be written outside the folder, and for a symbolic link."""
    path = PurePosixPath(member.filename)
    is_outside = path.is_absolute() or ".." in path.parts or "\\" in member.filename
    if is_outside or stat.S_ISLNK(member.external_attr >> 16):
        raise SennaError(
            f"{archive} contains {member.filename!r}, which would leave its folder; nothing was unpacked",
            remedy="delete the archive and download it from a trusted mirror",
        )


def _check_space(archive: Path, staging: Path, members: list[zipfile.ZipInfo]) -> None:
    required = sum(-(-member.file_size // _BLOCK) * _BLOCK for member in members)
    lacking, free = required - disk_usage(staging), free_space(staging)
    if free < lacking:
        raise SennaError(
            f"unpacking {archive} needs {lacking / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free", remedy=_MAKE_ROOM
        )


def _is_complete(path: Path, member: zipfile.ZipInfo) -> bool:
    if not path.is_file() or path.stat().st_size != member.file_size:
        return False
    crc = 0
    with path.open("rb") as stream:
        while block := stream.read(_CHUNK):
            crc = zlib.crc32(block, crc)
    return crc == member.CRC
