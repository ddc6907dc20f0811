"""The finished frames of a run, on disk: appended one by one, so that a process killed at any moment loses none of them.

A part (one shard of a run) is a folder: a JSON Lines file of records for each split, and ``journal.jsonl``, one line a
frame, written after the frame's records. What has no line in the journal is cut off when the part is opened again.
"""

import fcntl
import json
import os
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from senna.errors import SennaError, UsageError
from senna.files import write_json
from senna.records import Record

JOURNAL, FINISHED = "journal.jsonl", "finished.json"
_SYNC_SECONDS = 0.5  # a power cut costs at most the frames of this time; a killed process none


@dataclass(frozen=True)
class Entry:
    """What the journal says of one frame.

    Attributes:
        split: whose file its records are in.
        start, size: the bytes they take there.
        crc: of these bytes.
        facts: of ``quality.facts_of``; "token" among them.
    """

    split: str
    start: int
    size: int
    crc: int
    facts: dict[str, Any]


@dataclass
class Part:
    """A part open for writing; made by ``open_part``.

    Attributes:
        frames: how many are finished.
        last: the token of the last of them, "" where there is none.
        lost: how many lines of the journal were given up, because their records were not whole.
    """

    folder: Path
    frames: int = 0
    last: str = ""
    lost: int = 0
    _files: dict[str, int] = field(default_factory=dict)  # descriptors
    _synced: float = field(default_factory=time.monotonic)

    def append(self, split: str, records: list[Record], facts: dict[str, Any]) -> None:
        """Write a frame. Raises SennaError, with what is safe and how to go on, where the disk does not take it."""
        data = b"".join(json.dumps(r, ensure_ascii=False, allow_nan=False).encode() + b"\n" for r in records)
        line = {"split": split, "size": len(data), "crc": zlib.crc32(data), "facts": facts}
        try:
            _write(self._file(f"{split}.jsonl"), data)
            _write(self._file(JOURNAL), json.dumps(line, ensure_ascii=False).encode() + b"\n")
            self.frames += 1
            if time.monotonic() - self._synced > _SYNC_SECONDS:
                self._sync()
        except OSError as error:
            raise SennaError(
                f"{self.folder} cannot be written: {error.strerror or error}; {self.frames} frames are safe there; make "
                "room and run the same command again"
            ) from error

    def finish(self) -> None:
        """Say that the part is whole."""
        try:
            self._sync()
            write_json(self.folder / FINISHED, {"frames": self.frames})
        except OSError as error:
            raise SennaError(
                f"{self.folder} cannot be written: {error.strerror or error}; make room and run the same command again"
            ) from error

    def close(self) -> None:
        """Flush what is written, as far as the disk takes it, and let others open the part."""
        with suppress(
            OSError
        ):  # a full disk is told of where it is met; what did not arrive is cut off at the next start
            self._sync()
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()

    def _file(self, name: str) -> int:
        if name not in self._files:
            self._files[name] = os.open(self.folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        return self._files[name]

    def _sync(self) -> None:
        for name in sorted(self._files, key=lambda name: name == JOURNAL):  # the journal may promise only what is there
            os.fsync(self._files[name])
        self._synced = time.monotonic()


def open_part(folder: Path) -> Part:
    """Make or continue a part: what is not whole at its end is cut off.

    Raises UsageError where another process has it, SennaError where the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part = Part(folder)
        lock = part._files["lock"] = os.open(folder / "lock", os.O_WRONLY | os.O_CREAT, 0o666)  # given up when closed
    except OSError as error:
        raise SennaError(f"{folder} cannot be written: {error.strerror or error}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        part.close()
        raise UsageError(f"another process writes to {folder}; wait for it, or give another --out") from None
    _keep_whole(part)
    return part


def _keep_whole(part: Part) -> None:
    """Count the frames that are whole, and cut off what follows them."""
    ends: dict[str, int] = {}
    journal = 0
    for length, entry in _whole(part.folder):
        ends[entry.split] = entry.start + entry.size
        journal += length
        part.frames, part.last = part.frames + 1, entry.facts["token"]
    part.lost = _count_lines(part.folder / JOURNAL) - part.frames
    for path in part.folder.glob("*.jsonl"):
        keep = journal if path.name == JOURNAL else ends.get(path.stem, 0)
        if path.stat().st_size > keep:
            os.truncate(path, keep)


def read_entries(folder: Path) -> Iterator[Entry]:
    """The frames of a part in their order, one at a time."""
    return (entry for _, entry in _parse(folder))


def read_records(folder: Path, entry: Entry) -> list[Record]:
    """The records of a frame."""
    with (folder / f"{entry.split}.jsonl").open("rb") as file:
        file.seek(entry.start)
        return [json.loads(line) for line in file.read(entry.size).splitlines()]


def is_finished(folder: Path) -> bool:
    return (folder / FINISHED).is_file()


def _parse(folder: Path) -> Iterator[tuple[int, Entry]]:
    """Length of its line in the journal, and the entry, up to the first line that is not whole."""
    ends: dict[str, int] = {}
    if not (folder / JOURNAL).is_file():
        return
    with (folder / JOURNAL).open("rb") as file:
        for line in file:
            try:
                found = json.loads(line)
                entry = Entry(found["split"], ends.get(found["split"], 0), found["size"], found["crc"], found["facts"])
            except (ValueError, KeyError, TypeError):
                return
            if not line.endswith(b"\n"):
                return
            ends[entry.split] = entry.start + entry.size
            yield len(line), entry


def _whole(folder: Path) -> Iterator[tuple[int, Entry]]:
    """``_parse`` up to the first frame whose records are not what was written."""
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
