"""The download of one file: resumed at the byte where it was interrupted, verified, and only then renamed to its final name."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

from senna.download.hub import Failure, RemoteFile, is_transient
from senna.download.store import new_hash
from senna.errors import SennaError

RETRY_DELAYS = (1, 2, 4, 8, 16)  # seconds before each retry; after progress the delays start again from the first

Source = Callable[[int], AbstractContextManager[tuple[int, Iterator[bytes]]]]
"""Opens a file at an offset and yields the actual offset, which may be 0, and blocks of bytes."""

_CHUNK = 1 << 20


class _Truncated(Exception):
    """The response ended before the file did."""


class _TooLong(Exception):
    """The response continues after the stated end of the file."""


class PartialFile:
    """The bytes of a file that have arrived so far, and their hash.

    Its name contains the file's digest, so that only the same content is resumed. Partial files of other contents are deleted.
    """

    def __init__(self, path: Path, file: RemoteFile) -> None:
        self.path, self._file = path, file
        for old in path.parent.glob(f".{file.name}.*.part"):
            if old != path:
                old.unlink()
        self._stream = path.open("a+b")
        self._stream.seek(0)
        self._hash, self.size = new_hash(file), 0
        while block := self._stream.read(_CHUNK):
            self._hash.update(block)
            self.size += len(block)
        if self.size > file.size:
            self.restart()

    @staticmethod
    def path_of(target: Path, file: RemoteFile) -> Path:
        """Return the path of the partial file of ``target``."""
        return target.with_name(f".{file.name}.{file.digest[:12]}.part")

    def restart(self) -> None:
        """Delete all bytes."""
        self._stream.truncate(0)
        self._hash, self.size = new_hash(self._file), 0

    def write(self, block: bytes) -> None:
        """Append a block."""
        self._stream.write(block)
        self._hash.update(block)
        self.size += len(block)

    def is_verified(self) -> bool:
        """Return whether the file is complete and has the digest that the hub states."""
        return self.size == self._file.size and self._hash.hexdigest() == self._file.digest

    def rename(self, target: Path) -> None:
        """Flush the file to the disk and give it its final name."""
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
    log: Callable[[str], None],
    explain: Callable[[Exception], Failure],
) -> None:
    """Download ``file`` to ``target``, resuming from what an earlier run left.

    Args:
        source: opens the file at an offset, see ``hub.open_file``.
        advance: called with the number of bytes that arrived, or with a negative number if bytes had to be deleted.
        log: called with messages for the user.
        explain: describes an error of the hub, see ``hub.explain``.

    Raises:
        SennaError: the connection keeps failing, the hub refuses, the disk is full, or the content is longer or has another
            hash than the hub states. In the last two cases the content is deleted; bytes after the stated end are not written.
    """
    partial = PartialFile(PartialFile.path_of(target, file), file)
    try:
        _download(partial, file, source, advance, log, explain)
        if not partial.is_verified():
            raise _deleted(partial, target, file, "differs from")
        partial.rename(target)
    except _TooLong as error:
        raise _deleted(partial, target, file, "is longer than") from error
    except OSError as error:
        raise SennaError(
            f"{target} cannot be written: {error.strerror or error}",
            remedy="make room and run the same command again",
        ) from error
    finally:
        partial.close()


def _deleted(partial: PartialFile, target: Path, file: RemoteFile, relation: str) -> SennaError:
    """Delete content that is not the hub's, and return the error that says so."""
    partial.path.unlink()
    algorithm = "sha256" if len(file.digest) == 64 else "git"
    return SennaError(
        f"{target}: the content that arrived was deleted because it {relation} what the hub states "
        f"({algorithm} {file.digest[:12]}..., {file.size} bytes)",
        remedy="run the same command again, or name another mirror with --endpoint",
    )


def _download(
    partial: PartialFile,
    file: RemoteFile,
    source: Source,
    advance: Callable[[int], None],
    log: Callable[[str], None],
    explain: Callable[[Exception], Failure],
) -> None:
    """Append to ``partial`` until it has the size of ``file``; retry transient errors after RETRY_DELAYS."""
    failures, furthest = 0, partial.size
    while partial.size < file.size:
        try:
            with source(partial.size) as (start, blocks):
                if start != partial.size:
                    advance(-partial.size)
                    partial.restart()
                for block in blocks:
                    if partial.size + len(block) > file.size:
                        raise _TooLong
                    partial.write(block)
                    advance(len(block))
            if partial.size < file.size:
                raise _Truncated(f"it ended after {partial.size} of {file.size} bytes")
        except (HTTPError, OfflineModeIsEnabled, _Truncated) as error:
            failures, furthest = (0, partial.size) if partial.size > furthest else (failures, furthest)
            if isinstance(error, _Truncated) or is_transient(error):
                failures += 1
                if failures <= len(RETRY_DELAYS):
                    delay = RETRY_DELAYS[failures - 1]
                    log(f"{file.name}: interrupted ({_first_line(error)}); retrying in {delay} s")
                    time.sleep(delay)
                    continue
            failure = explain(error)
            raise SennaError(
                f"{file.name}: {failure.message} ({partial.size / 1e6:.1f} of {file.size / 1e6:.1f} MB are kept)",
                remedy=f"{failure.remedy}; the same command continues from there",
            ) from error


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
