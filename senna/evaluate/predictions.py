"""Predictions on disk, one JSON line each, appended batch by batch, so that an interrupted evaluation can be continued.

While an evaluation runs, each process appends to a file of its own, ``NAME.part-RANK.jsonl``. A batch is done if all its
lines are complete in any of these files. Another batch is computed again with the same records, so that its numbers do not
change.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict

from senna import run_folder
from senna.contents import absolute
from senna.errors import SennaError, UsageError
from senna.files import atomic_write, stamp, write_json

PREDICTIONS, BLACKOUT = "predictions", "predictions_blackout"
RESULTS = ("metrics.json", "report.html")
"""The files that are computed from the predictions of a folder."""

PATHS = ("model", "base", "data")
"""Settings that are paths of files whose contents are settings too; the paths alone do not make another evaluation."""

RECORDED = "recorded"
"""The value of ``plan_source`` where the question about a trajectory states the recorded plan, as in training."""

_RUN = "run"  # key of the id of the evaluation, in the files of the processes
_EVALUATE_AGAIN = "give predictions.jsonl of a completed `senna evaluate`, or run the evaluation again"
_START_ANEW = "choose another --out, or start anew with --overwrite"


class _RecordFacts(TypedDict):
    index: int  # of the record in its file
    id: str
    token: str  # of the nuScenes key frame; "" if unknown
    scene: str  # "" if unknown
    kind: str  # of the question
    images: list[str]  # paths in the order of the prompt
    question: str  # without the image block
    truth: str  # the recorded answer
    trajectory: list[list[float]]  # recorded ego positions ahead in metres, x right and y forward, 0.5 s apart


class Prediction(_RecordFacts, total=False):
    """A line of predictions.jsonl: facts of the record, and the answer. An unusable record has only index and error."""

    view: str  # that the question is about; this field and the next two are present if the record has them
    command: str  # navigation command
    speed: float  # m/s
    plan: str  # of a trajectory: the plan that its question states
    plan_source: str  # of a trajectory: "predicted" or "recorded"
    log_probs: list[float]  # (20,), see `senna.evaluate.score.PlanScores`; the first of four fields of score mode
    sum: str  # the most probable meta-action
    greedy: str  # the meta-action of greedy decoding within the twenty answers
    left_tree: str | None  # how unconstrained greedy text begins if it is none of the twenty answers
    text: str  # the generated answer, in generate mode
    tries: int  # of a trajectory: the number of answers that were generated
    balanced: str  # the balanced meta-action; like the next field it is not stored, see `senna.evaluate.decisions`
    headline: str  # the name of the field that has the decision
    error: str  # why the record cannot be used


class Store:
    """The predictions ``NAME.jsonl`` of a folder, and the files of each process while they are being made."""

    def __init__(self, folder: Path, name: str = PREDICTIONS, run_id: str = "") -> None:
        """Open the predictions of an evaluation.

        Args:
            run_id: the return value of `claim`. The lines of another evaluation, whose process may still be running after
                its first process was killed, are ignored.
        """
        self.run_id = run_id
        self.folder, self.path, self._parts = folder, folder / f"{name}.jsonl", f"{name}.part-*.jsonl"
        self._name = name

    def missing(self, batches: Sequence[Sequence[int]]) -> list[Sequence[int]]:
        """Return the batches (lists of record indices) that are not completely stored."""
        done = {line["index"] for line in self}
        return [batch for batch in batches if not done.issuperset(batch)]

    def append(self, rank: int, lines: Iterable[Mapping[str, Any]]) -> None:
        """Append a batch to the file of this process and sync it to disk. Raises SennaError if that fails."""
        lines = ({**line, _RUN: self.run_id} if self.run_id else line for line in lines)
        data = b"".join(json.dumps(line, ensure_ascii=False, allow_nan=False).encode() + b"\n" for line in lines)
        path = self.folder / f"{self._name}.part-{rank}.jsonl"
        try:
            with path.open("ab+") as file:
                end = file.seek(0, os.SEEK_END)
                if end:
                    file.seek(end - 1)
                    data = data if file.read(1) == b"\n" else b"\n" + data  # keep a cut-off line separate
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise SennaError(
                f"{path} cannot be written: {error.strerror or error}",
                remedy="make room and run the same command again; the batches before it are safe",
            ) from error

    def join(self) -> list[Prediction]:
        """Return all predictions in the order of their records, and merge the files of the processes into ``path``."""
        lines = {line["index"]: line for line in self}
        ordered = [lines[index] for index in sorted(lines)]
        parts = list(self.folder.glob(self._parts))
        if parts:
            write_lines(self.path, ordered)
            for part in parts:
                part.unlink()
        return ordered

    def is_empty(self) -> bool:
        """Return whether no prediction is stored."""
        return next(iter(self), None) is None

    def discard(self) -> None:
        """Delete all predictions."""
        for path in [self.path, *self.folder.glob(self._parts)]:
            path.unlink(missing_ok=True)

    def discard_some(self, is_unwanted: Callable[[Prediction], bool]) -> None:
        """Delete some predictions, if there are any such, and first the results of the folder. Raises SennaError."""
        if any(map(is_unwanted, self)):
            with _deleting(self.folder):
                _delete_results(self.folder)
                write_lines(self.path, [row for row in self.join() if not is_unwanted(row)])

    def __iter__(self) -> Iterator[Prediction]:
        """Iterate over the predictions so far, in no particular order."""
        for path in [self.path, *sorted(self.folder.glob(self._parts))]:
            if path.is_file():
                for line in _complete_lines(path):
                    if line.pop(_RUN, self.run_id) == self.run_id or not self.run_id:
                        yield line


def read_predictions(path: Path) -> list[Prediction]:
    """Return the predictions in a file, or in the folder of an evaluation.

    Raises:
        UsageError: the file is missing, or a line is not a prediction.
    """
    path = path / f"{PREDICTIONS}.jsonl" if path.is_dir() else path
    if not path.is_file():
        raise UsageError(f"{path} does not exist", remedy="give the --out folder of a completed `senna evaluate`")
    with path.open(encoding="utf-8") as file:
        found = []
        for number, line in enumerate(file, 1):
            try:
                prediction = json.loads(line)
            except ValueError as error:
                raise UsageError(f"{path}: line {number} is not JSON ({error})", remedy=_EVALUATE_AGAIN) from None
            if not isinstance(prediction, dict) or "index" not in prediction:
                raise UsageError(
                    f"{path}: line {number} is not a prediction of `senna evaluate`", remedy=_EVALUATE_AGAIN
                )
            found.append(prediction)
    return found


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON Lines; the file appears only when it is complete. Raises SennaError."""
    with atomic_write(path) as partial, partial.open("w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")


def claim(folder: Path, settings: Mapping[str, Any], overwrite: bool = False) -> str:
    """Start an evaluation with these settings in a folder, or continue the one that is there, and return its id.

    Args:
        settings: with a `senna.contents` hash of each of `PATHS`, or "" where only the name is known.
        overwrite: delete an earlier evaluation.

    Raises:
        UsageError: the folder cannot be made, or holds an evaluation with other settings, another run, or predictions
            without settings.
        SennaError: a file cannot be deleted or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"--out {folder} cannot be made: {error.strerror or error}", remedy="choose another --out"
        ) from None
    settings_file = folder / run_folder.RUN_FILE
    before = run_folder.read_settings(settings_file)
    if before and "mode" not in before:
        raise UsageError(f"--out {folder} holds a run of another command", remedy="choose another --out")
    stores = [Store(folder, name) for name in (PREDICTIONS, BLACKOUT)]
    is_empty = all(store.is_empty() for store in stores)
    if before is None and not is_empty and not overwrite:
        raise UsageError(f"--out {folder} holds predictions, but no {settings_file.name}", remedy=_START_ANEW)
    # An evaluation that stopped before its first prediction, for example at a wrong --model, is not worth keeping.
    if overwrite or (is_empty and before is not None):
        _discard(folder, stores)
    elif before is not None and (continued := _with_contents(before, settings)) != before:
        write_json(settings_file, continued)
    shown = [name for name in PATHS if name != "model" or settings.get("model_files")]
    run_folder.claim(folder, settings, where=f"--out {folder}", remedy=_START_ANEW, shown=shown)
    return run_folder.fingerprint(settings_file.read_bytes())


def _discard(folder: Path, stores: Sequence[Store]) -> None:
    """Delete an evaluation: results first and settings last, so that no moment shows results of other predictions."""
    with _deleting(folder):
        _delete_results(folder)
        for store in stores:
            store.discard()
        (folder / run_folder.RUN_FILE).unlink(missing_ok=True)


def _delete_results(folder: Path) -> None:
    for name in RESULTS:
        (folder / name).unlink(missing_ok=True)


@contextmanager
def _deleting(folder: Path) -> Iterator[None]:
    """Raise SennaError for a file that cannot be deleted."""
    try:
        yield
    except OSError as error:
        raise SennaError(
            f"{error.filename or folder} cannot be deleted: {error.strerror or error}", remedy="choose another --out"
        ) from error


def _with_contents(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of an earlier version of Senna, which compared modification times, as they are written now.

    They stay as they are if a file has changed since.
    """
    found = dict(before)
    for name in ("model", "data"):
        known = found.get(f"{name}_files")
        if known and known == stamp(Path(now[name])):
            found[f"{name}_files"] = now[f"{name}_files"]
    if found.get("data_files") != before.get("data_files"):
        found["image_folder"] = absolute(found.get("image_folder") or Path(found["data"]).parent)
    return found


def _complete_lines(path: Path) -> Iterator[Any]:
    """Yield the lines of a file, without a line that was cut off when its process was killed."""
    with path.open("rb") as file:
        for line in file:
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if line.endswith(b"\n"):
                yield found
