"""The finished frames on disk, appended one by one, so that a killed process loses none of them.

The folder has a JSON Lines file of records for each split, and ``journal.jsonl`` with one line for each frame, written
after the frame's records. Opening it again truncates whatever the journal does not list.
"""

import json
import os
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from senna.errors import DataError, SennaError
from senna.file_lock import Lock, lock_folder
from senna.records import Record

JOURNAL = "journal.jsonl"
FUTURES = "futures"  # key of a frame's facts, for its line in the file of futures
_SYNC_SECONDS = 0.5  # a power failure loses at most the frames of this time; a killed process loses none
_MAKE_ROOM = "make room and run the same command again"


@dataclass(frozen=True)
class Entry:
    """A frame's line in the journal.

    Attributes:
        split: the split whose file has its records.
        start, size: position and length of its records in that file, in bytes.
        crc: CRC-32 of these bytes.
        facts: the result of ``quality.facts_of``, with the frame's "token" and its `FUTURES`.
    """

    split: str
    start: int
    size: int
    crc: int
    facts: dict[str, Any]


@dataclass
class Journal:
    """A folder of frames, open for writing; created by ``open_journal``.

    Attributes:
        frames: number of finished frames.
        last: token of the last finished frame, "" where there is none.
        discarded: number of journal lines that were dropped when the folder was opened, because their records were
            incomplete.
    """

    folder: Path
    frames: int = 0
    last: str = ""
    discarded: int = 0
    _lock: Lock | None = None
    _files: dict[str, int] = field(default_factory=dict)  # file name -> descriptor
    _synced: float = field(default_factory=time.monotonic)

    def append(self, split: str, records: list[Record], facts: dict[str, Any]) -> None:
        """Write a frame's records and its line of the journal.

        Raises:
            DataError: the records cannot be written as JSON.
            SennaError: the disk cannot be written, for example because it is full.
        """
        try:
            data = b"".join(json.dumps(r, ensure_ascii=False, allow_nan=False).encode() + b"\n" for r in records)
            entry = {"split": split, "size": len(data), "crc": zlib.crc32(data), "facts": facts}
            line = json.dumps(entry, ensure_ascii=False).encode() + b"\n"
        except ValueError as error:  # a lone surrogate or NaN in the tables
            raise DataError(
                f"the frame cannot be written as JSON ({error}); {self.frames} finished frames are saved in {self.folder}",
                remedy="unpack the tables again",
                record=facts["token"],
            ) from error
        try:
            _write(self._file(f"{split}.jsonl"), data)
            _write(self._file(JOURNAL), line)
            self.frames += 1
            if time.monotonic() - self._synced > _SYNC_SECONDS:
                self._sync()
        except OSError as error:
            raise SennaError(
                f"{self.folder} cannot be written: {error.strerror or error}; {self.frames} finished frames are saved there",
                remedy=_MAKE_ROOM,
            ) from error

    def finish(self) -> None:
        """Write everything to disk. Raises SennaError where that fails."""
        try:
            self._sync()
        except OSError as error:
            raise SennaError(
                f"{self.folder} cannot be written: {error.strerror or error}", remedy=_MAKE_ROOM
            ) from error

    def close(self) -> None:
        """Flush what is written, as far as the disk allows, and release the folder for other processes."""
        # A full disk was reported by `append` already. The next start truncates whatever did not reach the disk.
        with suppress(OSError):
            self._sync()
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()
        if self._lock is not None:
            self._lock.release()

    def _file(self, name: str) -> int:
        if name not in self._files:
            self._files[name] = os.open(self.folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        return self._files[name]

    def _sync(self) -> None:
        for name in sorted(self._files, key=lambda name: name == JOURNAL):  # the journal last: it vouches for the rest
            os.fsync(self._files[name])
        self._synced = time.monotonic()


def open_journal(folder: Path) -> Journal:
    """Create a folder of frames or continue it; incomplete data at its end is truncated.

    Raises:
        UsageError: another process is writing to the folder, or it cannot be written.
    """
    lock = lock_folder(folder, "lock", remedy="wait until it ends, or give another --out")
    journal = Journal(folder, _lock=lock)
    try:
        _truncate_incomplete(journal)
    except BaseException:
        journal.close()
        raise
    return journal


def _truncate_incomplete(journal: Journal) -> None:
    """Count the complete frames, and cut off what follows them in every file."""
    ends: dict[str, int] = {}
    journal_end = 0
    for length, entry in _complete_entries(journal.folder):
        ends[entry.split] = entry.start + entry.size
        journal_end += length
        journal.frames, journal.last = journal.frames + 1, entry.facts["token"]
    journal.discarded = _count_lines(journal.folder / JOURNAL) - journal.frames
    for path in journal.folder.glob("*.jsonl"):
        keep = journal_end if path.name == JOURNAL else ends.get(path.stem, 0)
        if path.stat().st_size > keep:
            os.truncate(path, keep)


def read_entries(folder: Path) -> Iterator[Entry]:
    """Yield the frames of a folder in order."""
    return (entry for _, entry in _parse(folder))


def read_records(folder: Path, entry: Entry) -> list[Record]:
    """Return the records of a frame."""
    with (folder / f"{entry.split}.jsonl").open("rb") as file:
        file.seek(entry.start)
        return [json.loads(line) for line in file.read(entry.size).splitlines()]


def _parse(folder: Path) -> Iterator[tuple[int, Entry]]:
    """Yield the length in bytes of each line of the journal and its entry, up to the first incomplete line."""
    ends: dict[str, int] = {}
    if not (folder / JOURNAL).is_file():
        return
    with (folder / JOURNAL).open("rb") as file:
        for line in file:
            try:
                values = json.loads(line)
                split, size = values["split"], values["size"]
                entry = Entry(split, ends.get(split, 0), size, values["crc"], values["facts"])
            except (ValueError, KeyError, TypeError):
                return
            if not line.endswith(b"\n"):
                return
            ends[entry.split] = entry.start + entry.size
            yield len(line), entry


def _complete_entries(folder: Path) -> Iterator[tuple[int, Entry]]:
    """Yield the same as ``_parse``, up to the first frame whose records do not match their size and checksum."""
    files: dict[str, Any] = {}
    try:
        for length, entry in _parse(folder):
            path = folder / f"{entry.split}.jsonl"
            if entry.split not in files:
                if not path.is_file():
                    return
                files[entry.split] = path.open("rb")
            data = files[entry.split].read(entry.size)
            if len(data) != entry.size or zlib.crc32(data) != entry.crc:
                return
            yield length, entry
    finally:
        for file in files.values():
            file.close()


def _count_lines(path: Path) -> int:
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        return sum(1 for _ in file)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
