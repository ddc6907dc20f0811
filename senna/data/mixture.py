"""The records of one or several weighted files, filtered by training stage, and the choice of an epoch's samples."""

import math
import os.path
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from senna.errors import DataError, UsageError
from senna.kinds import all_kinds, is_on_request, stage_of
from senna.record_file import RecordFile, open_records
from senna.records import Record

_SYNTAX = "a.json, or several files with weights as a.json:1.0,b.jsonl:0.5"


class Mixture:
    """The records of several files as one sequence, and the choice of an epoch's samples. Picklable like ``RecordFile``.

    The weight of a file is how often an epoch takes each of its N records: 2.0 means twice, 0.5 a random half, 1.5 every
    record once and a random half again. An epoch always takes ``round(weight * N)`` of them.

    Attributes:
        words, images: as in ``RecordFile``, for the records of the stage (N,), file after file.
        kinds: int16 (N,), indices in ``kind_names``.
        kind_names: the kinds of these records, in the order of their first record.
        starts: int64 (files + 1,), the index of the first record of each file.
        epoch_size: the number of samples of an epoch.
    """

    def __init__(
        self,
        files: Sequence[tuple[RecordFile, float]],
        stage: int | None = None,
        kinds: Collection[str] | None = None,
    ) -> None:
        """Combine files and their weights.

        Args:
            stage: 2 or 3 takes the records whose kind belongs to this stage (``senna.kinds.stage_of``), except for kinds
                that are used on request; None and 1 take all records.
            kinds: the kinds to take instead.

        Raises:
            DataError: the stage takes no record.
            UsageError: the stage is unknown, no file has a kind of ``kinds``, or a weight is so small that an epoch takes no
                record of a file.
        """
        if stage not in (None, 1, 2, 3):
            raise UsageError(f"stage {stage} is not known", remedy="use 1, 2 or 3")
        self.files = tuple(file for file, _ in files)
        self.weights = tuple(weight for _, weight in files)
        if kinds is not None:
            _check_kinds(self.files, kinds)
        taken = [_of_stage(file, stage) if kinds is None else _of_kinds(file, kinds) for file in self.files]
        sizes = [len(indices) for indices in taken]
        if not sum(sizes):
            raise _no_records(self.files, stage)
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
        file, number = self._find(index)
        return file[number]

    def name(self, index: int) -> str:
        """Return text that names a record and its file, see ``RecordFile.name``."""
        file, number = self._find(index)
        return file.name(number)

    def label(self, index: int) -> str:
        """Return text that names a record in its file, see ``RecordFile.label``."""
        file, number = self._find(index)
        return file.label(number)

    def path(self, index: int) -> Path:
        """Return the path of the file that holds a record."""
        return self.files[self._file_number(index)].path

    def folder(self, index: int) -> Path:
        """Return the folder of the file that holds a record."""
        return self.path(index).parent

    def weight(self, index: int) -> float:
        """Return how often an epoch takes a record, on average."""
        return self.weights[self._file_number(index)]

    def epoch(self, seed: int, epoch: int) -> np.ndarray:
        """Return the records of an epoch, int64 (epoch_size,), file after file, determined by the arguments alone."""
        return self._draws.epoch(seed, epoch)

    def frame_codes(self) -> np.ndarray:
        """Return int64 (N,): equal for records of one frame of one file, ascending by file and first appearance."""
        offsets = np.cumsum([0, *(len(file) for file in self.files[:-1])])  # a file has no more frames than records
        frames = [
            file.frames[self._taken[start:stop]] + offset
            for file, offset, start, stop in zip(self.files, offsets, self.starts, self.starts[1:], strict=False)
        ]
        return _joined(frames)

    def counts_by_kind(self, seed: int = 0, epoch: int = 0) -> dict[str, int]:
        """Return the samples of each kind in one epoch; with fractional weights they vary a little between epochs."""
        counts = np.bincount(self.kinds[self.epoch(seed, epoch)], minlength=len(self.kind_names)).tolist()
        return {name: count for name, count in zip(self.kind_names, counts, strict=True) if count}

    def scene(self, index: int) -> str:
        """Return the scene of a record, "" if it has none."""
        file, number = self._find(index)
        return file.scene_names[file.scenes[number]]

    def scenes(self) -> list[str]:
        """Return the scenes of these records without repetition, in the order of their first record; "" is no scene."""
        found: dict[str, None] = {}
        for file, start, stop in zip(self.files, self.starts, self.starts[1:], strict=False):
            codes, first = np.unique(file.scenes[self._taken[start:stop]], return_index=True)
            found |= dict.fromkeys(file.scene_names[code] for code in codes[np.argsort(first)])
        return list(found)

    def _file_number(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"the data have {len(self)} records, there is no record {index}")
        return int(np.searchsorted(self.starts, index, side="right")) - 1

    def _find(self, index: int) -> tuple[RecordFile, int]:
        return self.files[self._file_number(index)], int(self._taken[index])


class Frames:
    """The records of a ``Mixture`` grouped by frame (``RecordFile.frames``), and the choice of an epoch's frames. Picklable.

    The weight of a file is how often an epoch takes each of its frames, as ``Mixture`` takes records.

    Attributes:
        order: int32 (N,), the records frame after frame, ascending within each frame.
        starts: int32 (F,), the index in ``order`` of each frame's first record. Frames are ordered by file and first record.
        epoch_size: the number of frames of an epoch.
    """

    def __init__(self, records: Mixture, together: bool = True) -> None:
        """Group records by frame, or make each record a frame of its own (``together=False``).

        Raises:
            UsageError: a weight is so small that an epoch takes no frame of a file.
        """
        codes = records.frame_codes() if together else np.arange(len(records))
        self.order = np.argsort(codes, kind="stable").astype(np.int32)
        is_first = np.diff(codes[self.order], prepend=-1) > 0
        self.starts = np.flatnonzero(is_first).astype(np.int32)
        sizes = np.diff(np.searchsorted(self.starts, records.starts)).tolist()
        self._draws = _Draws(records.files, records.weights, sizes, "frames")
        self.epoch_size = self._draws.size

    def __len__(self) -> int:
        return len(self.starts)

    def members(self, frame: int) -> np.ndarray:
        """Return the records of a frame as ascending indices in the mixture, int64 (records,)."""
        if not 0 <= frame < len(self):
            raise IndexError(f"the data have {len(self)} frames, there is no frame {frame}")
        stop = self.starts[frame + 1] if frame + 1 < len(self) else len(self.order)
        return self.order[self.starts[frame] : stop].astype(np.int64)

    def epoch(self, seed: int, epoch: int) -> np.ndarray:
        """Return the frames of an epoch, int64 (epoch_size,), file after file, determined by the arguments alone."""
        return self._draws.epoch(seed, epoch)


class _Draws:
    """The choice of an epoch's items (records or frames), which are ordered by file; each file has a weight.

    Attributes:
        starts: int64 (files + 1,), the index of the first item of each file.
        counts: the number of items that an epoch takes from each file.
        size: the number of items of an epoch.
    """

    def __init__(self, files: Sequence[RecordFile], weights: Sequence[float], sizes: Sequence[int], items: str) -> None:
        self.starts = np.cumsum([0, *sizes])
        self.counts = [_count_taken(*file, items) for file in zip(files, weights, sizes, strict=True)]
        self.size = sum(self.counts)

    def epoch(self, seed: int, epoch: int) -> np.ndarray:
        """Return the items of an epoch, int64 (size,), file after file."""
        return np.concatenate([self._draw(number, seed, epoch) for number in range(len(self.counts))])

    def _draw(self, number: int, seed: int, epoch: int) -> np.ndarray:
        start, stop = self.starts[number : number + 2].tolist()
        items = np.arange(start, stop)
        if start == stop:
            return items
        repeats, rest = divmod(self.counts[number], stop - start)
        # The last number is never 0: numpy treats (seed, epoch, 0) like (seed, epoch), which the sampler uses.
        random = np.random.default_rng((seed, epoch, number + 1))
        chosen = random.choice(items, rest, replace=False) if rest else items[:0]
        return np.concatenate([np.tile(items, repeats), np.sort(chosen)])


def open_mixture(
    data_path: str,
    stage: int | None = None,
    skip_bad: int = 0,
    flag: str = "--data_path",
    kinds: Collection[str] | None = None,
) -> Mixture:
    """Index and validate the files of ``--data_path`` (see ``parse_data_path``) and take the records of a stage.

    Args:
        skip_bad: the number of records of all files that may be unusable, see ``open_records``.
        flag: the flag that gives ``data_path``, for errors.
        kinds: the kinds of records to take; None for those of the stage.

    Raises:
        UsageError, DataError: see ``parse_data_path``, ``open_records`` and ``Mixture``.
    """
    files: list[tuple[RecordFile, float]] = []
    for path, weight in parse_data_path(data_path, flag):
        try:
            file = open_records(path, skip_bad)
        except DataError as error:
            if error.record is not None:
                error.remedy = (
                    f"{error.remedy or 'correct or remove it'}; or skip such records with --skip_bad_samples N"
                )
            raise
        skip_bad -= len(file.bad)
        files.append((file, weight))
    return Mixture(files, stage, kinds)


def parse_data_path(data_path: str, flag: str = "--data_path") -> list[tuple[Path, float]]:
    """Return the files of ``a.json:1.0,b.jsonl:0.5`` and their weights, 1.0 if none is given.

    If a file has exactly that name, with colons and commas, it is this file.

    Raises:
        UsageError: there is no such file, a weight is not a positive number, or a file is given twice.
    """
    if os.path.isfile(data_path):  # Path.is_file raises an error if a list of files is too long for a name
        return [(Path(data_path), 1.0)]
    files = [_parse_file(part, data_path, flag) for part in data_path.split(",")]
    seen: set[Path] = set()
    for path, _ in files:
        if path.resolve() in seen:
            raise UsageError(f"{flag} names {path} twice", remedy="name it once, with the sum of the weights")
        seen.add(path.resolve())
    return files


def _parse_file(text: str, data_path: str, flag: str) -> tuple[Path, float]:
    text = text if os.path.isfile(text) else text.strip()
    if os.path.isfile(text):
        return Path(text), 1.0
    name, colon, weight_text = text.rpartition(":")
    if not colon or not os.path.isfile(name):
        has_weight = bool(colon) and _parse_number(weight_text) is not None
        raise _no_file(name if has_weight else text, data_path, flag)
    weight = _parse_number(weight_text)
    if weight is None or not 0 < weight < math.inf:
        raise UsageError(
            f"{flag} {text}: the weight {weight_text!r} is not a number above 0",
            remedy=f"write for example {name}:0.5, which takes a random half of the file every epoch, or leave the file out",
        )
    return Path(name), weight


def _no_file(name: str, data_path: str, flag: str) -> UsageError:
    if not name:
        return UsageError(f"{flag} {data_path!r} has an empty name", remedy=f"write {_SYNTAX}")
    if os.path.isdir(name):
        return UsageError(
            f"{flag} {name} is a folder, not a file of records", remedy="give the .json or .jsonl file in it"
        )
    return UsageError(
        f"{flag} {name}: no such file", remedy=f"give a JSON list or JSON Lines file of records: {_SYNTAX}"
    )


def _parse_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _of_stage(file: RecordFile, stage: int | None) -> np.ndarray:
    """Return the indices of the records of a file that a stage trains on."""
    if stage not in (2, 3):
        return np.arange(len(file))
    return _of_kinds(file, [name for name in file.kind_names if stage_of(name) == stage and not is_on_request(name)])


def _of_kinds(file: RecordFile, kinds: Collection[str]) -> np.ndarray:
    """Return the indices of the records of a file that have one of these kinds."""
    return np.flatnonzero(np.array([name in kinds for name in file.kind_names])[file.kinds])


def _check_kinds(files: Sequence[RecordFile], kinds: Collection[str]) -> None:
    found = list(dict.fromkeys(name for file in files for name in file.kind_names))
    if missing := [kind for kind in kinds if kind not in found]:
        raise UsageError(
            f"--kinds: no record of {', '.join(str(file.path) for file in files)} is of kind {', '.join(missing)}",
            remedy=f"choose from {', '.join(found)}, or convert the data again with this version of senna",
        )


def _count_taken(file: RecordFile, weight: float, size: int, items: str) -> int:
    """Return the number of a file's ``size`` items that an epoch takes. Raises UsageError if there are items and it is 0."""
    count = round(weight * size)
    if size and not count:
        raise UsageError(
            f"{file.path}:{weight:g}: that is less than one of its {size} {items} an epoch",
            remedy=f"give a weight of {1 / size:.2g} or more, or leave the file out",
        )
    return count


def _join_kinds(files: Sequence[RecordFile], taken: Sequence[np.ndarray]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the kinds of the records taken as numbers by first appearance, and the names of these numbers."""
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


def _joined(arrays: list[np.ndarray]) -> np.ndarray:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _no_records(files: Sequence[RecordFile], stage: int | None) -> DataError:
    found: dict[str, int] = {}
    for file in files:
        for name, count in zip(file.kind_names, np.bincount(file.kinds).tolist(), strict=True):
            found[name] = found.get(name, 0) + count
    present = ", ".join(f"{count} {name}" for name, count in found.items())
    stage_3 = " and ".join(kind.name for kind in all_kinds() if kind.stage == 3 and not kind.on_request)
    taken = f"the kind {stage_3} alone" if stage == 3 else f"every kind but {stage_3}"
    return DataError(
        f"nothing to use: stage {stage} takes {taken}, and the records are: {present}",
        remedy="give other data or another --stage; the kind of a record is its 'kind', or follows from its answers",
        file=", ".join(str(file.path) for file in files),
    )
