"""Predictions on disk, a JSON line each: appended batch by batch, so that an evaluation killed at any moment goes on.

While it runs each process appends to a file of its own, ``NAME.part-RANK.jsonl``. A batch is done when all its lines are
whole in any of them; a batch that is not is computed again, as it was cut before, so that its numbers are the same.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from senna.errors import SennaError, UsageError
from senna.files import atomic_write, write_json

Prediction = dict[str, Any]
RUN = "run.json"


class Store:
    """The predictions ``NAME.jsonl`` of a folder, and their parts while they are being made."""

    def __init__(self, folder: Path, name: str = "predictions") -> None:
        self.folder, self.path, self._parts = folder, folder / f"{name}.jsonl", f"{name}.part-*.jsonl"
        self._name = name

    def missing(self, batches: Sequence[Sequence[int]]) -> list[Sequence[int]]:
        """The batches, lists of records' places, that are not wholly there."""
        done = {line["index"] for line in self._lines()}
        return [batch for batch in batches if not done.issuperset(batch)]

    def append(self, rank: int, lines: Iterable[Prediction]) -> None:
        """Write a batch to the part of this process, and to the disk. Raises SennaError where it does not take it."""
        data = b"".join(json.dumps(line, ensure_ascii=False, allow_nan=False).encode() + b"\n" for line in lines)
        path = self.folder / f"{self._name}.part-{rank}.jsonl"
        try:
            with path.open("ab+") as file:
                end = file.seek(0, os.SEEK_END)
                if end:
                    file.seek(end - 1)
                    data = data if file.read(1) == b"\n" else b"\n" + data  # what was cut off stays a line of its own
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise SennaError(
                f"{path} cannot be written: {error.strerror or error}; the batches before it are safe; make room and run the "
                "same command again"
            ) from error

    def join(self) -> list[Prediction]:
        """All predictions, in the order of their records; the parts become one file, ``path``, where there are some."""
        lines = {line["index"]: line for line in self._lines()}
        ordered = [lines[index] for index in sorted(lines)]
        parts = list(self.folder.glob(self._parts))
        if parts:
            write_lines(self.path, ordered)
            for part in parts:
                part.unlink()
        return ordered

    def discard(self) -> None:
        """Delete them."""
        for path in [self.path, *self.folder.glob(self._parts)]:
            path.unlink(missing_ok=True)

    def _lines(self) -> Iterator[Prediction]:
        for path in [self.path, *sorted(self.folder.glob(self._parts))]:
            if path.is_file():
                yield from _whole_lines(path)


def read_predictions(path: Path) -> list[Prediction]:
    """The predictions of a file. Raises UsageError where it is none, with the line."""
    if not path.is_file():
        raise UsageError(f"{path} is not there: `senna evaluate --out {path.parent}` writes it")
    with path.open(encoding="utf-8") as file:
        found = []
        for number, line in enumerate(file, 1):
            try:
                prediction = json.loads(line)
            except ValueError as error:
                raise UsageError(f"{path}: line {number} is not JSON ({error})") from None
            if not isinstance(prediction, dict) or "index" not in prediction:
                raise UsageError(f"{path}: line {number} is no prediction of `senna evaluate`")
            found.append(prediction)
    return found


def write_lines(path: Path, lines: Iterable[Prediction]) -> None:
    """Write JSON Lines whole or not at all. Raises SennaError."""
    with atomic_write(path) as partial, partial.open("w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")


def claim(folder: Path, settings: dict[str, Any], overwrite: bool = False) -> None:
    """Make the folder of an evaluation with these settings, or go on with one.

    Raises UsageError where it holds an evaluation with others, unless ``overwrite``, which deletes that.
    """
    known = folder / RUN
    try:
        folder.mkdir(parents=True, exist_ok=True)
        before = json.loads(known.read_text(encoding="utf-8")) if known.is_file() else None
    except ValueError:
        before = {}
    except OSError as error:
        raise UsageError(f"--out {folder}: {error.strerror or error}") from None
    if overwrite or before is None:
        for name in ("predictions", "predictions_blackout"):
            Store(folder, name).discard()
        write_json(known, settings)
        return
    changed = [
        f"{key} {before.get(key)!r} -> {settings.get(key)!r}"
        for key in sorted({*before, *settings})
        if before.get(key) != settings.get(key)
    ]
    if changed:
        raise UsageError(
            f"--out {folder} holds another evaluation ({'; '.join(changed)}): another --out, or --overwrite to start anew"
        )


def _whole_lines(path: Path) -> Iterator[Prediction]:
    """What can be read: a line that was being written when the process was killed is left aside."""
    with path.open("rb") as file:
        for line in file:
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if line.endswith(b"\n"):
                yield found
