"""What an epoch consists of: the records of one or several files, each file with a weight, chosen by the stage of training."""

import math
import os.path
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from senna.errors import DataError, UsageError
from senna.record_file import RecordFile, open_records
from senna.records import Record

PLAN = "plan"  # the kind that stage 3 trains on, and stage 2 leaves to it
_STAGES = {None: "every kind", 1: "every kind", 2: f"every kind but {PLAN}", 3: f"the kind {PLAN} alone"}


class Mixture:
    """The records of several files as if they were one, and what an epoch takes of them. Picklable as ``RecordFile`` is.

    A file's weight says how often an epoch takes each of its N records: 2.0 twice, 0.5 a random half, 1.5 each once and
    a random half again. An epoch takes ``round(weight * N)`` of them, the same number every time.

    Attributes:
        words, images: as of ``RecordFile``, of the records that are taken (N,), file after file.
        kinds: int16 (N,), places in ``kind_names``.
        kind_names: the kinds there are, in the order of their first record.
        starts: int64 (files + 1,), where among the records each file's begin.
        epoch_size: how many samples an epoch has.
    """

    def __init__(self, files: Sequence[tuple[RecordFile, float]], stage: int | None = None) -> None:
        """``stage`` 2 leaves out the kind "plan", 3 takes nothing else, None and 1 take all.

        Raises ``DataError`` when that leaves no record, ``UsageError`` when a weight is so small that an epoch takes
        none of a file.
        """
        if stage not in _STAGES:
            raise UsageError(f"stage {stage} is not known; use 1, 2 or 3")
        self.files = tuple(file for file, _ in files)
        self.weights = tuple(weight for _, weight in files)
        taken = [_taken(file, stage) for file in self.files]
        sizes = [len(indices) for indices in taken]
        if not sum(sizes):
            raise DataError(_nothing_left(self.files, stage))
        self._taken = _joined(taken).astype(np.int32)
        self.starts = np.cumsum([0, *sizes])
        self.words = _joined([file.words[indices] for file, indices in zip(self.files, taken, strict=True)])
        self.images = _joined([file.images[indices] for file, indices in zip(self.files, taken, strict=True)])
        self.kinds, self.kind_names = _join_kinds(self.files, taken)
        self._draws = _Draws(self.files, self.weights, sizes, "records")
        self.epoch_size = self._draws.size

    def __len__(self) -> int:
        return len(self._taken)

    def __getitem__(self, index: int) -> Record:
        file, place = self._place(index)
        return file[place]

    def name(self, index: int) -> str:
        """How messages name a record, by its own file and its place there."""
        file, place = self._place(index)
        return file.name(place)

    def folder(self, index: int) -> Path:
        """The folder of the file that a record is from."""
        return self.files[self._number(index)].path.parent

    def weight(self, index: int) -> float:
        """How often an epoch takes a record, on average."""
        return self.weights[self._number(index)]

    def epoch(self, seed: int, epoch: int) -> np.ndarray:
        """int64 (epoch_size,): the records of an epoch, file after file; which they are depends on the arguments alone."""
        return self._draws.epoch(seed, epoch)

    def frame_codes(self) -> np.ndarray:
        """int64 (N,): equal for records of one frame of one file, ascending by file and first appearance."""
        offsets = np.cumsum([0, *(len(file) for file in self.files[:-1])])  # a file has no more frames than records
        frames = [
            file.frames[self._taken[start:stop]] + offset
            for file, offset, start, stop in zip(self.files, offsets, self.starts, self.starts[1:], strict=False)
        ]
        return _joined(frames)

    def counts_by_kind(self, seed: int = 0, epoch: int = 0) -> dict[str, int]:
        """Samples of each kind in one epoch. Where weights are not whole, chance moves a few from epoch to epoch."""
        counts = np.bincount(self.kinds[self.epoch(seed, epoch)], minlength=len(self.kind_names)).tolist()
        return {name: count for name, count in zip(self.kind_names, counts, strict=True) if count}

    def _number(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"the data have {len(self)} records, there is no record {index}")
        return int(np.searchsorted(self.starts, index, side="right")) - 1

    def _place(self, index: int) -> tuple[RecordFile, int]:
        return self.files[self._number(index)], int(self._taken[index])


class Frames:
    """The records of a ``Mixture`` by frame, and what an epoch takes of these. Picklable as ``Mixture`` is.

    Which records are of one frame is what ``RecordFile.frames`` says. A file's weight says how often an epoch takes each
    of its frames, in the way that ``Mixture`` takes records.

    Attributes:
        order: int32 (N,), the records frame after frame, ascending within each.
        starts: int32 (F,), where in ``order`` each frame begins. Frames stand file after file, by first appearance.
        epoch_size: how many frames an epoch has.
    """

    def __init__(self, records: Mixture, together: bool = True) -> None:
        """``together=False``: each record is a frame of its own. Raises ``UsageError`` as ``Mixture`` does."""
        codes = records.frame_codes() if together else np.arange(len(records))
        self.order = np.argsort(codes, kind="stable").astype(np.int32)
        begins = np.diff(codes[self.order], prepend=-1) > 0
        self.starts = np.flatnonzero(begins).astype(np.int32)
        sizes = np.diff(np.searchsorted(self.starts, records.starts)).tolist()
        self._draws = _Draws(records.files, records.weights, sizes, "frames")
        self.epoch_size = self._draws.size

    def __len__(self) -> int:
        return len(self.starts)

    def members(self, frame: int) -> np.ndarray:
        """int64 (records,): a frame's records, ascending places in the mixture."""
        if not 0 <= frame < len(self):
            raise IndexError(f"the data have {len(self)} frames, there is no frame {frame}")
        stop = self.starts[frame + 1] if frame + 1 < len(self) else len(self.order)
        return self.order[self.starts[frame] : stop].astype(np.int64)

    def epoch(self, seed: int, epoch: int) -> np.ndarray:
        """int64 (epoch_size,): the frames of an epoch, file after file; which they are depends on the arguments alone."""
        return self._draws.epoch(seed, epoch)


class _Draws:
    """What an epoch takes of things that stand file after file, each file with a weight."""

    def __init__(self, files: Sequence[RecordFile], weights: Sequence[float], sizes: Sequence[int], what: str) -> None:
        self.starts = np.cumsum([0, *sizes])
        self.draws = [_draw_size(*of, what) for of in zip(files, weights, sizes, strict=True)]
        self.size = sum(self.draws)

    def epoch(self, seed: int, epoch: int) -> np.ndarray:
        return np.concatenate([self._draw(number, seed, epoch) for number in range(len(self.draws))])

    def _draw(self, number: int, seed: int, epoch: int) -> np.ndarray:
        start, stop = self.starts[number : number + 2].tolist()
        everything = np.arange(start, stop)
        if start == stop:
            return everything
        whole, rest = divmod(self.draws[number], stop - start)
        # Never 0 at the end: numpy takes (seed, epoch) and (seed, epoch, 0) for the same, and the sampler uses the former.
        random = np.random.default_rng((seed, epoch, number + 1))
        part = random.choice(everything, rest, replace=False) if rest else everything[:0]
        return np.concatenate([np.tile(everything, whole), np.sort(part)])


def open_mixture(data_path: str, stage: int | None = None) -> Mixture:
    """Index and validate the files of ``--data_path`` (see ``parse_data_path``) and choose a stage's records.

    Raises ``UsageError`` and ``DataError`` as ``parse_data_path``, ``open_records`` and ``Mixture`` do.
    """
    return Mixture([(open_records(path), weight) for path, weight in parse_data_path(data_path)], stage)


def parse_data_path(data_path: str) -> list[tuple[Path, float]]:
    """The files of ``a.json:1.0,b.jsonl:0.5`` and their weights, 1.0 where none is given.

    An existing file of that very name, colons and commas included, wins over what the text could mean. Raises
    ``UsageError`` with the remedy: no such file, a weight that is no positive number, a file given twice.
    """
    if os.path.isfile(data_path):  # Path.is_file raises where a list of files is too long for a name
        return [(Path(data_path), 1.0)]
    files = [_parse_part(part, data_path) for part in data_path.split(",")]
    seen: set[Path] = set()
    for path, _ in files:
        if path.resolve() in seen:
            raise UsageError(f"--data_path names {path} twice; name it once, with the sum of the weights")
        seen.add(path.resolve())
    return files


def _parse_part(part: str, data_path: str) -> tuple[Path, float]:
    part = part if os.path.isfile(part) else part.strip()
    if os.path.isfile(part):
        return Path(part), 1.0
    name, colon, text = part.rpartition(":")
    if not colon or not os.path.isfile(name):
        weighted = bool(colon) and _number(text) is not None
        raise UsageError(_no_file(name if weighted else part, data_path))
    weight = _number(text)
    if weight is None or not 0 < weight < math.inf:
        raise UsageError(
            f"--data_path {part}: the weight {text!r} is not a number above 0; write for example {name}:0.5, which "
            "takes a random half of the file every epoch, or leave the file out"
        )
    return Path(name), weight


def _no_file(name: str, data_path: str) -> str:
    if not name:
        return f"--data_path {data_path!r} has an empty name; write a.json, or a.json:1.0,b.jsonl:0.5"
    if os.path.isdir(name):
        return f"--data_path {name} is a folder, not a file of records; give the .json or .jsonl file in it"
    return (
        f"--data_path {name}: no such file; give a JSON list or JSON Lines file, or several as a.json:1.0,b.jsonl:0.5"
    )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _taken(file: RecordFile, stage: int | None) -> np.ndarray:
    """Places in a file of the records that a stage trains on."""
    if stage not in (2, 3):
        return np.arange(len(file))
    is_plan = np.array([name == PLAN for name in file.kind_names])[file.kinds]
    return np.flatnonzero(is_plan if stage == 3 else ~is_plan)


def _draw_size(file: RecordFile, weight: float, size: int, what: str) -> int:
    draw = round(weight * size)
    if size and not draw:
        raise UsageError(
            f"--data_path {file.path}:{weight:g}: that is less than one of its {size} {what} an epoch; give a weight of "
            f"{1 / size:.2g} or more, or leave the file out"
        )
    return draw


def _join_kinds(files: Sequence[RecordFile], taken: Sequence[np.ndarray]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Kinds of the records taken, in one numbering: that of their first appearance."""
    codes: dict[str, int] = {}
    joined = []
    for file, indices in zip(files, taken, strict=True):
        kinds = file.kinds[indices]
        present, first = np.unique(kinds, return_index=True)
        renumbered = np.zeros(len(file.kind_names), dtype=np.int16)
        for kind in present[np.argsort(first)]:
            renumbered[kind] = codes.setdefault(file.kind_names[kind], len(codes))
        joined.append(renumbered[kinds])
    return _joined(joined), tuple(codes)


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _nothing_left(files: Sequence[RecordFile], stage: int | None) -> str:
    found: dict[str, int] = {}
    for file in files:
        for name, count in zip(file.kind_names, np.bincount(file.kinds).tolist(), strict=True):
            found[name] = found.get(name, 0) + count
    kinds = ", ".join(f"{count} {name}" for name, count in found.items())
    return (
        f"{', '.join(str(file.path) for file in files)}: nothing to train on: stage {stage} takes {_STAGES[stage]}, and the "
        f"kinds here are: {kinds}. Give other data or another --stage; a record says its kind in 'kind', else by the form "
        "of its answer"
    )
