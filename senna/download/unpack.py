"""A zip into a folder that gets its name when everything is in it, going on where it was stopped."""

import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from senna.errors import SennaError
from senna.files import free_space

_BLOCK = 4096  # a file takes whole blocks of the disk
_CHUNK = 1 << 20


def staging(folder: Path) -> Path:
    """Where the content is until it is whole."""
    return folder if folder.exists() else folder.with_name(f"{folder.name}.partial")


def bytes_in(folder: Path) -> int:
    """What the files of a folder take on the disk; 0 where there is none."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*")) if folder.is_dir() else 0


def unpack(archive: Path, folder: Path, progress: Callable[[int], Callable[[int], None]]) -> int:
    """Unpack ``archive`` into ``folder``; the number of its files.

    What an earlier run wrote is kept where size and CRC agree.

    Args:
        progress: given the total of bytes, gives what is told of each few.

    Raises:
        SennaError: a damaged zip, a member that would leave the folder, or too little room; nothing is written then.
    """
    place = staging(folder)
    try:
        with zipfile.ZipFile(archive) as pack:
            members = [member for member in pack.infolist() if not member.is_dir()]
            for member in members:
                _refuse_to_leave(archive, member)
            _check_room(archive, place, members)
            advance = progress(sum(member.file_size for member in members))
            for member in members:
                target = place / member.filename
                if not _is_whole(target, member):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with pack.open(member) as source, target.open("wb") as sink:
                        shutil.copyfileobj(source, sink, _CHUNK)
                advance(member.file_size)
    except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError) as error:
        raise SennaError(f"{archive} cannot be unpacked: {error}; delete it and run the same command again") from error
    except OSError as error:
        raise SennaError(
            f"{place} cannot be written: {error.strerror or error}; make room and run the same command again"
        ) from error
    os.sync()  # once for half a million files
    place.rename(folder)
    return len(members)


def _refuse_to_leave(archive: Path, member: zipfile.ZipInfo) -> None:
    path = PurePosixPath(member.filename)
    climbs = path.is_absolute() or ".." in path.parts or "\\" in member.filename
    if climbs or stat.S_ISLNK(member.external_attr >> 16):
        raise SennaError(
            f"{archive} holds {member.filename!r}, which would leave its folder; nothing of it was unpacked"
        )


def _check_room(archive: Path, place: Path, members: list[zipfile.ZipInfo]) -> None:
    wanted = sum(-(-member.file_size // _BLOCK) * _BLOCK for member in members)
    lacking, free = wanted - bytes_in(place), free_space(place)
    if free < lacking:
        raise SennaError(
            f"{archive} needs {lacking / 1e9:.1f} GB to be unpacked, {free / 1e9:.1f} GB are free; make room and run the "
            "same command again"
        )


def _is_whole(path: Path, member: zipfile.ZipInfo) -> bool:
    if not path.is_file() or path.stat().st_size != member.file_size:
        return False
    crc = 0
    with path.open("rb") as stream:
        while block := stream.read(_CHUNK):
            crc = zlib.crc32(block, crc)
    return crc == member.CRC
