"""Random access to a file of records: a small index in memory, the records in a memory map.

A record is parsed on access, so memory does not grow with the length of the texts. The index holds the byte
offset, length, kind, frame and scene of each record, about 30 bytes together.
"""

import json
import mmap
import os
import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np

from senna.errors import DataError
from senna.frame_keys import frame_key, number_keys
from senna.kinds import OTHER
from senna.record_checks import has_surrogate, replace_surrogates
from senna.records import Record, record_kind, record_name, record_scene, validate_record

_CHUNK = 1 << 20  # bytes that are read at a time
_BOM = b"\xef\xbb\xbf"
_BLANK = re.compile(r"[ \t\r\n]*")
_BRACKETS = re.compile(r'[\[\]{}]|"(?:[^"\\]|\\.)*"')  # or a string, whose brackets do not count
_DROP = "remove it"
_DECODER = json.JSONDecoder()
_TOO_DEEP = "is nested too deeply"
_MOST_KINDS = 1000  # names of kinds are held in memory; a `kind` that differs from record to record is a mistake


class NoRecordFile(DataError):
    """A path that leads to no file of records, which is wrong use of a command and no fault of a record."""

    exit_code = 2


class RecordFile:
    """Random access to the records of one file; made by ``open_records``. Picklable: a copy maps the file again.

    Attributes:
        path: the file.
        words: int32 (N,), words in each record's conversation.
        images: int16 (N,), ``<image>`` placeholders in each record's conversation.
        kinds: int16 (N,), index in ``kind_names`` of each record's kind (``record_kind``).
        kind_names: the kinds in the order of their first record.
        frames: int32 (N,), equal for records that show the same images (``frame_key``), numbered by first appearance.
        scenes: integers (N,), index in ``scene_names`` of each record's ``scene_token``, whose name is "" if it has none.
        scene_names: the scenes in the order of their first record.
        bad: index -> error of the records that cannot be used; empty unless ``open_records`` may skip some. Reading such a
            record raises its error. It has no words and images, and the kind ``OTHER`` if its own cannot be known.
    """

    def __init__(self, path: Path, index: "_Index", size: int) -> None:
        self.path = path
        self.words = np.array(index.words, dtype=np.int32)
        self.images = np.array(index.images, dtype=np.int16)
        self.kinds = np.array(index.kinds, dtype=np.int16)
        self.kind_names = tuple(index.kind_codes)
        self.bad = index.bad
        self.scenes = np.array(index.scenes, dtype=np.min_scalar_type(len(index.scene_codes)))
        self.scene_names = tuple(index.scene_codes)
        self.frames = number_keys(np.array(index.frame_keys, dtype=np.int64))
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
        if index in self.bad:
            raise self.bad[index]
        start = int(self._starts[index])
        raw = self._mapped()[start : start + int(self._sizes[index])]
        try:
            return json.loads(raw)
        except RecursionError as error:
            raise DataError(_TOO_DEEP, remedy=_DROP, file=self.path, record=index) from error
        except ValueError as error:
            raise DataError(
                f"is no longer JSON ({error})",
                remedy="the file has changed since it was opened: start again",
                file=self.path,
                record=index,
            ) from error

    def __iter__(self) -> Iterator[Record]:
        return (self[index] for index in range(len(self)))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None}

    def label(self, index: int) -> str:
        """Return text that names a record in its file: index, line (of JSON Lines), and id or token."""
        if index in self.bad:
            return str(self.bad[index].record)
        line = int(self._lines[index]) if len(self._lines) else None
        return _label(index, line, record_name(self[index], index))

    def name(self, index: int) -> str:
        """Return text that names a record and its file, as errors do: "FILE: record 2, line 3 (id)"."""
        return f"{self.path}: record {self.label(index)}"

    def _mapped(self) -> mmap.mmap:
        if self._map is None:
            try:
                with self.path.open("rb") as file:
                    self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:
                raise DataError(
                    f"can no longer be read: {error}", remedy="restore the file and start again", file=self.path
                ) from error
            if len(self._map) != self._file_size:
                raise DataError("changed after it was opened", remedy="start again", file=self.path)
        return self._map


def _label(index: int, line: int | None, name: str) -> str:
    return f"{index}{'' if line is None else f', line {line}'}{f' ({replace_surrogates(name)})' if name else ''}"


class _Index:
    """Position, size and properties of the records found so far."""

    def __init__(self, path: Path, skip_bad: int) -> None:
        self.path, self.skip_bad = path, skip_bad
        self.bad: dict[int, DataError] = {}
        self.starts, self.sizes, self.lines = array("q"), array("l"), array("l")
        self.words, self.images, self.kinds = array("l"), array("h"), array("h")
        self.frame_keys, self.scenes = array("q"), array("l")
        self.kind_codes: dict[str, int] = {}
        self.scene_codes: dict[str, int] = {}

    def add(self, value: object, start: int, stop: int, line: int | None) -> None:
        """Validate a record and add it, with the bytes ``[start, stop)`` that it takes in the file."""
        index = len(self.starts)
        try:
            record, words, images = validate_record(value)
            kind = record_kind(record)
            code = self.kind_codes[kind] if kind in self.kind_codes else self._new_code(kind)
            key = frame_key(record, images, index)
        except DataError as error:
            self.add_bad(error, value, start, stop, line)
            return
        self._append(start, stop, line, words, images, code, key, record_scene(record))

    def add_bad(self, error: DataError, value: object, start: int, stop: int, line: int | None) -> None:
        """Add a record that cannot be used, or raise its error if there are more of them than may be skipped."""
        index = len(self.starts)
        name = record_name(value, "") if isinstance(value, dict) else ""
        located = error.located(self.path, _label(index, line, name))
        if len(self.bad) >= self.skip_bad:
            raise located from None
        self.bad[index] = located
        code = self.kind_codes.setdefault(self._kind_of_bad(value), len(self.kind_codes))
        self._append(start, stop, line, 0, 0, code, hash((index,)))

    def _kind_of_bad(self, value: Any) -> str:
        try:
            kind = record_kind(value)
        except (DataError, KeyError, TypeError, IndexError, AttributeError):
            return OTHER
        is_new = kind not in self.kind_codes
        return OTHER if has_surrogate(kind) or (is_new and len(self.kind_codes) >= _MOST_KINDS) else kind

    def _append(
        self, start: int, stop: int, line: int | None, words: int, images: int, code: int, key: int, scene: str = ""
    ) -> None:
        self.starts.append(start)
        self.sizes.append(stop - start)
        self.words.append(words)
        self.images.append(images)
        self.kinds.append(code)
        self.frame_keys.append(key)
        self.scenes.append(self.scene_codes.setdefault(scene, len(self.scene_codes)))
        if line is not None:
            self.lines.append(line)

    def _new_code(self, kind: str) -> int:
        if len(self.kind_codes) == _MOST_KINDS:
            raise DataError(
                f"has the 'kind' {kind!r}, and {_MOST_KINDS} other kinds came before it",
                remedy="'kind' names a kind of question: remove it, or call it 'id' if it names the record",
            )
        return self.kind_codes.setdefault(kind, len(self.kind_codes))


def open_records(path: str | Path, skip_bad: int = 0) -> RecordFile:
    """Index and validate a file of records in one pass, in memory that does not grow with the texts.

    Args:
        skip_bad: the number of records that may be unusable; they are in ``RecordFile.bad``.

    Raises:
        NoRecordFile: there is no such file, it is a folder or a pipe, or it cannot be read.
        DataError: it is empty, it is not JSON, or more than ``skip_bad`` records cannot be used (``validate_record``). The
            error names the file, and the record by index, line and id.
    """
    path = Path(path)
    if path.is_dir():
        raise NoRecordFile(
            "is a folder, not a file of records", remedy="give the .json or .jsonl file in it", file=path
        )
    if not path.exists():
        raise NoRecordFile("does not exist", remedy="give a JSON list or JSON Lines file of records", file=path)
    if not path.is_file():
        raise NoRecordFile("is not a regular file", remedy="write the records to a file first", file=path)
    index = _Index(path, skip_bad)
    with _open(path) as file:
        head = file.read(_CHUNK).removeprefix(_BOM).lstrip()
        file.seek(0)
        if head.startswith(b"["):
            _index_list(file, index)
        else:
            _index_lines(file, index)
        size = os.fstat(file.fileno()).st_size
    if not index.starts:
        raise DataError("holds no records", remedy="give a file with at least one record", file=path)
    return RecordFile(path, index, size)


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise NoRecordFile(
            f"cannot be read: {error.strerror or error}", remedy="check its permissions", file=path
        ) from error


def _index_lines(file: BinaryIO, index: _Index) -> None:
    start = 0
    for number, line in enumerate(file, start=1):
        text = line.removeprefix(_BOM) if number == 1 else line
        if text.strip():
            begin, end = start + len(line) - len(text), start + len(line)
            try:
                record = json.loads(text.decode("utf-8"))
                index.add(record, begin, end, number)
            except RecursionError:
                index.add_bad(DataError(_TOO_DEEP, remedy=_DROP), None, begin, end, number)
            except ValueError as error:
                raise DataError(
                    f"line {number} is not JSON: {error}",
                    remedy="give a JSON list of records, or JSON Lines with one record on each line",
                    file=index.path,
                ) from error
        start += len(line)


def _index_list(file: BinaryIO, index: _Index) -> None:
    window = _Window(file, index.path)
    window.expect("[")
    ends = window.take("]")
    while not ends:
        start, stop, record = window.value()
        if record is _TOO_DEEP:
            index.add_bad(DataError(_TOO_DEEP, remedy=_DROP), None, start, stop, None)
        else:
            index.add(record, start, stop, None)
        ends = window.take("]")
        if not ends:
            window.expect(",")
    if window.peek():
        window.fail("there is something after the list")


class _Window:
    """A section of the file that slides over a JSON list.

    Bytes are decoded as Latin-1, one character each, so that positions in the text are offsets in the file; JSON's own
    characters are ASCII. The text of a record that is not ASCII is decoded again, as UTF-8.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self._text, self._position, self._base, self._ended = "", 0, 0, False
        self._more()
        if self._text.startswith(_BOM.decode("latin-1")):
            self._position = len(_BOM)

    def peek(self) -> str:
        """Return the next character that is not blank, or "" at the end of the file."""
        while True:
            blank = _BLANK.match(self._text, self._position)
            self._position = blank.end() if blank else self._position
            if self._position < len(self._text) or self._ended:
                return self._text[self._position : self._position + 1]
            self._more()

    def take(self, character: str) -> bool:
        """Step over the next character if it is ``character``, and return whether it was."""
        found = self.peek() == character
        self._position += found
        return found

    def expect(self, character: str) -> None:
        """Step over ``character``, or fail if the next character is another one."""
        if not self.take(character):
            self.fail(f"expected {character!r}, found {self.peek()!r}" if self.peek() else "the list does not end")

    def value(self) -> tuple[int, int, object]:
        """Return the bytes ``[start, stop)`` of the next value in the file, and the value; ``_TOO_DEEP`` for one that the
        parser cannot read.
        """
        if not self.peek():
            self.fail("the list does not end")
        while True:
            try:
                record, stop = _DECODER.raw_decode(self._text, self._position)
            except json.JSONDecodeError as error:
                # A value cut off by the window's edge fails there, or inside a string that began before it.
                is_cut = error.pos >= len(self._text) - len("\\ud800\\udc00") or error.msg.startswith("Unterminated")
                if self._ended or not is_cut:
                    self._position = error.pos
                    self.fail(error.msg if self._text[error.pos :].strip() else "the file is cut off")
                self._more()
                continue
            except ValueError as error:  # a number with thousands of digits
                self.fail(str(error))
            except RecursionError:
                record, stop = _TOO_DEEP, _end_of_value(self._text, self._position)
                if not stop:
                    if self._ended:
                        self.fail("the file is cut off")
                    self._more()
                    continue
            text = self._text[self._position : stop]
            if record is not _TOO_DEEP and not text.isascii():
                record = self._decode(text)
            start, self._position = self._position, stop
            return self._base + start, self._base + stop, record

    def fail(self, message: str) -> NoReturn:
        """Raise ``DataError`` with the line and column of the current position."""
        offset, line, start_of_line = self._base + self._position, 1, 0
        self._file.seek(0)
        read = 0
        while read < offset and (chunk := self._file.read(min(_CHUNK, offset - read))):
            line += chunk.count(b"\n")
            if (newline := chunk.rfind(b"\n")) >= 0:
                start_of_line = read + newline + 1
            read += len(chunk)
        column = offset - start_of_line + 1
        raise DataError(
            f"is not JSON: {message}, line {line} column {column}",
            remedy="correct the file there, or fetch it again",
            file=self._path,
        )

    def _more(self) -> None:
        """Drop what has been read and append a chunk, at least as long as the rest, so that long records stay cheap."""
        kept = self._text[self._position :]
        self._base += self._position
        chunk = self._file.read(max(_CHUNK, len(kept)))
        self._text, self._position, self._ended = kept + chunk.decode("latin-1"), 0, not chunk

    def _decode(self, text: str) -> object:
        """Parse a value that was decoded as Latin-1 as the UTF-8 that it is; fail if it is not UTF-8."""
        raw = text.encode("latin-1")
        try:
            return json.loads(raw.decode("utf-8"))
        except UnicodeDecodeError as error:
            self._position += error.start
            self.fail("this is not UTF-8")


def _end_of_value(text: str, start: int) -> int:
    """Return the position after an object or a list, found by its brackets; 0 if it does not end in the text."""
    depth = 0
    for found in _BRACKETS.finditer(text, start):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(found[0], 0)
        if not depth:
            return found.end()
    return 0
