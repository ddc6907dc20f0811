"""Random access to a file of records: an index in memory, the records in a memory map."""

import json
import mmap
import os
import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from senna.errors import DataError
from senna.frame_keys import frame_key, numbered
from senna.records import Record, _measure, record_kind, record_name

_CHUNK = 1 << 20


_BOM = b"\xef\xbb\xbf"


_BLANK = re.compile(r"[ \t\r\n]*")


_DECODER = json.JSONDecoder()


_MOST_KINDS = 1000  # their names are held in memory; a `kind` that differs from record to record is a mistake


class RecordFile:
    """Random access to the records of one file; made by ``open_records``. Picklable: the copy maps the file anew.

    Attributes:
        path: the file.
        words: int32 (N,), words in each record's conversation.
        images: int16 (N,), ``<image>`` placeholders in each record's conversation.
        kinds: int16 (N,), the place in ``kind_names`` of each record's kind (``record_kind``).
        kind_names: the kinds in the order of their first record.
        frames: int32 (N,), equal for records that show the same images, numbered by first appearance (``frame_key``).
    """

    def __init__(self, path: Path, index: "_Index", size: int) -> None:
        self.path = path
        self.words = np.array(index.words, dtype=np.int32)
        self.images = np.array(index.images, dtype=np.int16)
        self.kinds = np.array(index.kinds, dtype=np.int16)
        self.kind_names = tuple(index.kind_codes)
        self.frames = numbered(np.array(index.frame_keys, dtype=np.int64))
        self._starts = np.array(index.starts, dtype=np.int64)
        self._sizes = np.array(index.sizes, dtype=np.int32)
        self._lines = np.array(index.lines, dtype=np.int32)  # empty for a JSON list
        self._file_size = size
        self._map: mmap.mmap | None = None

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path} has {len(self)} records, there is no record {index}")
        start = int(self._starts[index])
        raw = self._mapped()[start : start + int(self._sizes[index])]
        try:
            return json.loads(raw)
        except ValueError as error:
            raise DataError(f"{self.path}: record {index} is no longer JSON; did the file change? ({error})") from error

    def __iter__(self) -> Iterator[Record]:
        return (self[index] for index in range(len(self)))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None}

    def name(self, index: int) -> str:
        """How messages name a record: file, index, line (of JSON Lines), and its id or token."""
        line = f", line {self._lines[index]}" if len(self._lines) else ""
        return f"{self.path}: record {index}{line} ({record_name(self[index], index)})"

    def _mapped(self) -> mmap.mmap:
        if self._map is None:
            try:
                with self.path.open("rb") as file:
                    self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:
                raise DataError(f"{self.path} cannot be read any more: {error}") from error
            if len(self._map) != self._file_size:
                raise DataError(f"{self.path} changed after it was opened; start again")
        return self._map


class _Index:
    """Where the records are, how long, and of what kind, as they are found."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.starts, self.sizes, self.lines = array("q"), array("l"), array("l")
        self.words, self.images, self.kinds = array("l"), array("h"), array("h")
        self.frame_keys = array("q")
        self.kind_codes: dict[str, int] = {}

    def add(self, record: object, start: int, stop: int, line: int | None) -> None:
        """Validate a record and note its place in the file (bytes)."""
        try:
            words, images = _measure(record)
            kind = record_kind(record)
            code = self.kind_codes[kind] if kind in self.kind_codes else self._new_code(kind)
        except DataError as error:
            place = "" if line is None else f", line {line}"
            name = f" ({record_name(record, '')})" if isinstance(record, dict) and record_name(record, "") else ""
            raise DataError(f"{self.path}: record {len(self.starts)}{place}{name} {error}") from None
        self.starts.append(start)
        self.sizes.append(stop - start)
        self.words.append(words)
        self.images.append(images)
        self.kinds.append(code)
        self.frame_keys.append(frame_key(record, images, len(self.frame_keys)))
        if line is not None:
            self.lines.append(line)

    def _new_code(self, kind: str) -> int:
        if len(self.kind_codes) == _MOST_KINDS:
            raise DataError(
                f"has another 'kind', {kind!r}, than {_MOST_KINDS} before it; 'kind' names a sort of question: remove it, or "
                "call it 'id' where it names the record"
            )
        return self.kind_codes.setdefault(kind, len(self.kind_codes))


def open_records(path: str | Path) -> RecordFile:
    """Index and validate a file of records in one pass whose memory does not grow with the file.

    Raises ``DataError``, naming file, record, line and id as far as there are: no such file, a folder, an empty file,
    not JSON, a record that is not an object or has no proper ``conversations``.
    """
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{path} is a folder, not a file of records; give the .json or .jsonl file in it")
    if not path.is_file():
        raise DataError(f"{path} does not exist; give a JSON list or JSON Lines file of records")
    index = _Index(path)
    with path.open("rb") as file:
        head = file.read(_CHUNK).removeprefix(_BOM).lstrip()
        file.seek(0)
        if head.startswith(b"["):
            _index_list(file, index)
        else:
            _index_lines(file, index)
        size = os.fstat(file.fileno()).st_size
    if not index.starts:
        raise DataError(f"{path} holds no records")
    return RecordFile(path, index, size)


def _index_lines(file: Any, index: _Index) -> None:
    start = 0
    for number, line in enumerate(file, start=1):
        text = line.removeprefix(_BOM) if number == 1 else line
        if text.strip():
            try:
                record = json.loads(text.decode("utf-8"))
            except ValueError as error:
                raise DataError(
                    f"{index.path}: line {number} is not JSON: {error}; the file must be a JSON list of records, or "
                    "JSON Lines with one record a line"
                ) from error
            index.add(record, start + len(line) - len(text), start + len(line), number)
        start += len(line)


def _index_list(file: Any, index: _Index) -> None:
    window = _Window(file, index.path)
    window.expect("[")
    ends = window.take("]")
    while not ends:
        start, stop, record = window.value()
        index.add(record, start, stop, None)
        ends = window.take("]")
        if not ends:
            window.expect(",")
    if window.peek():
        window.fail("there is something after the list")


class _Window:
    """A part of the file that slides over a JSON list.

    Bytes are decoded as Latin-1, one character each, so that places in the text are places in the file; JSON's own
    characters are ASCII. A record whose text is not is decoded once more, properly.
    """

    def __init__(self, file: Any, path: Path) -> None:
        self._file, self._path = file, path
        self._text, self._place, self._base, self._ended = "", 0, 0, False
        self._more()
        if self._text.startswith(_BOM.decode("latin-1")):
            self._place = len(_BOM)

    def peek(self) -> str:
        """The next character that is not blank, or "" at the end of the file."""
        while True:
            self._place = _BLANK.match(self._text, self._place).end()
            if self._place < len(self._text) or self._ended:
                return self._text[self._place : self._place + 1]
            self._more()

    def take(self, character: str) -> bool:
        """Step over the next character if it is this one."""
        found = self.peek() == character
        self._place += found
        return found

    def expect(self, character: str) -> None:
        if not self.take(character):
            self.fail(f"expected {character!r}, found {self.peek()!r}" if self.peek() else "the list does not end")

    def value(self) -> tuple[int, int, object]:
        """The next value and the bytes ``[start, stop)`` it takes in the file."""
        if not self.peek():
            self.fail("the list does not end")
        while True:
            try:
                record, stop = _DECODER.raw_decode(self._text, self._place)
            except json.JSONDecodeError as error:
                # A value cut off by the window's edge fails there, or inside a string that began before it.
                is_cut = error.pos >= len(self._text) - len("\\ud800\\udc00") or error.msg.startswith("Unterminated")
                if self._ended or not is_cut:
                    self._place = error.pos
                    self.fail(error.msg if self._text[error.pos :].strip() else "the file is cut off")
                self._more()
                continue
            text = self._text[self._place : stop]
            if not text.isascii():
                record = self._decode(text)
            start, self._place = self._place, stop
            return self._base + start, self._base + stop, record

    def fail(self, what: str) -> NoReturn:
        """Raise ``DataError`` with the line and column of this place."""
        place, line, start_of_line = self._base + self._place, 1, 0
        self._file.seek(0)
        read = 0
        while read < place and (chunk := self._file.read(min(_CHUNK, place - read))):
            line += chunk.count(b"\n")
            if (newline := chunk.rfind(b"\n")) >= 0:
                start_of_line = read + newline + 1
            read += len(chunk)
        raise DataError(f"{self._path} is not JSON: {what}, line {line} column {place - start_of_line + 1}")

    def _more(self) -> None:
        """Drop what has been read and add a chunk, at least as much as is kept, so that a long record costs little."""
        kept = self._text[self._place :]
        self._base += self._place
        chunk = self._file.read(max(_CHUNK, len(kept)))
        self._text, self._place, self._ended = kept + chunk.decode("latin-1"), 0, not chunk

    def _decode(self, text: str) -> object:
        """The value as it is meant; ``fail`` where it is not UTF-8."""
        raw = text.encode("latin-1")
        try:
            return json.loads(raw.decode("utf-8"))
        except UnicodeDecodeError as error:
            self._place += error.start
            self.fail("this is not UTF-8")
