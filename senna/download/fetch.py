"""One file, continued at the byte where it was cut off, checked, and only then given its name."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

from senna.download.hub import RemoteFile, may_pass
from senna.download.store import hasher
from senna.errors import SennaError

PAUSES = (1, 2, 4, 8, 16)  # seconds before each further try, counted anew after every byte that came

Source = Callable[[int], AbstractContextManager[tuple[int, Iterator[bytes]]]]
_CHUNK = 1 << 20


class _Cut(Exception):
    """The answer ended before the file did."""


class Partial:
    """The bytes of a file that came so far, and their hash. Its name holds the digest, so that only the same is continued."""

    def __init__(self, path: Path, file: RemoteFile) -> None:
        self.path, self._file = path, file
        for old in path.parent.glob(f".{file.name}.*.part"):
            if old != path:
                old.unlink()
        self._stream = path.open("a+b")
        self._stream.seek(0)
        self._hash, self.size = hasher(file), 0
        while block := self._stream.read(_CHUNK):
            self._hash.update(block)
            self.size += len(block)
        if self.size > file.size:
            self.restart()

    @staticmethod
    def path_of(target: Path, file: RemoteFile) -> Path:
        """Where the bytes of ``target`` are kept until it is whole."""
        return target.with_name(f".{file.name}.{file.digest[:12]}.part")

    def restart(self) -> None:
        """Forget what came."""
        self._stream.truncate(0)
        self._hash, self.size = hasher(self._file), 0

    def write(self, block: bytes) -> None:
        """Append what came."""
        self._stream.write(block)
        self._hash.update(block)
        self.size += len(block)

    def is_the_hubs(self) -> bool:
        """Whether it is whole and has the digest that the hub states."""
        return self.size == self._file.size and self._hash.hexdigest() == self._file.digest

    def name_it(self, target: Path) -> None:
        """Give the whole file its name, once it is on the disk."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self.path.replace(target)

    def close(self) -> None:
        self._stream.close()


def fetch(
    file: RemoteFile,
    target: Path,
    source: Source,
    advance: Callable[[int], None],
    say: Callable[[str], None],
    explain: Callable[[Exception], str],
) -> None:
    """Make ``target`` the hub's ``file``, going on from what an earlier run left.

    Args:
        source: the file's bytes from a place on, as ``hub.opened``.
        advance: is told of every byte that came, and of a negative number where they had to be forgotten.
        explain: what a failure means.

    Raises:
        SennaError: the connection is cut again and again, the hub refuses, the disk takes no more, or what came has another
            hash; then it is removed.
    """
    partial = Partial(Partial.path_of(target, file), file)
    try:
        _fill(partial, file, source, advance, say, explain)
        if not partial.is_the_hubs():
            partial.path.unlink()
            raise SennaError(
                f"{target}: what came is not what the hub states ({_kind(file)} {file.digest[:12]}..., {file.size} bytes), "
                "and was removed; run the same command again to fetch it anew, or name another mirror with --endpoint"
            )
        partial.name_it(target)
    except OSError as error:
        raise SennaError(
            f"{target} cannot be written: {error.strerror or error}; make room and run the same command again"
        ) from error
    finally:
        partial.close()


def _fill(
    partial: Partial,
    file: RemoteFile,
    source: Source,
    advance: Callable[[int], None],
    say: Callable[[str], None],
    explain: Callable[[Exception], str],
) -> None:
    failures, furthest = 0, partial.size
    while partial.size < file.size:
        try:
            with source(partial.size) as (start, blocks):
                if start != partial.size:
                    advance(-partial.size)
                    partial.restart()
                for block in blocks:
                    partial.write(block)
                    advance(len(block))
            if partial.size < file.size:
                raise _Cut(f"it ended after {partial.size} of {file.size} bytes")
        except (HTTPError, OfflineModeIsEnabled, _Cut) as error:
            failures, furthest = (0, partial.size) if partial.size > furthest else (failures, furthest)
            if isinstance(error, _Cut) or may_pass(error):
                failures += 1
                if failures <= len(PAUSES):
                    say(f"{file.name}: cut off ({_first_line(error)}); going on in {PAUSES[failures - 1]} s")
                    time.sleep(PAUSES[failures - 1])
                    continue
            raise SennaError(
                f"{file.name}: {explain(error)}; {partial.size / 1e6:.1f} of {file.size / 1e6:.1f} MB are kept, "
                "and the same command goes on from there"
            ) from error


def _kind(file: RemoteFile) -> str:
    return "sha256" if len(file.digest) == 64 else "git"


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
