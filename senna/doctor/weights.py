"""Check weight files by their headers, without reading the weights."""

import json
import shlex
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

COPY_AGAIN = "copy the file again, or run `senna download`, which continues an interrupted download"
_LFS = b"version https://git-lfs"
_LONGEST_HEADER = 100_000_000  # bytes; the limit of safetensors

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Problem:
    """A fault of a weight file, and its remedy."""

    message: str
    remedy: str = COPY_AGAIN


@dataclass
class Weights:
    """The content of the weight files of a folder.

    Attributes:
        files: the weight files. shapes: the shape of each weight by name; None if only the name is known (from the
        index of a pickled checkpoint). complete: False if ``shapes`` may lack names: a single pickle does not list
        them. problems: the missing and damaged files.
    """

    files: list[Path] = field(default_factory=list)
    shapes: dict[str, Shape | None] = field(default_factory=dict)
    complete: bool = True
    problems: list[Problem] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)


def read_weights(folder: Path, stems: tuple[str, str] = ("model", "pytorch_model")) -> Weights:
    """Return the weights of a folder, choosing files as transformers does: safetensors first, a single file before shards.

    Args:
        stems: names of the safetensors file and of the pickle without extension. For a LoRA folder both are
        "adapter_model".
    """
    safe, pickled = stems
    for name in (f"{safe}.safetensors", f"{pickled}.bin"):
        if (folder / name).is_file():
            return _read([folder / name])
        if (folder / f"{name}.index.json").is_file():
            return _read_index(folder / f"{name}.index.json")
    problem = Problem(
        f"{folder} holds no {safe}.safetensors and no {pickled}.bin",
        "use the folder that holds the weights, or copy them into this one",
    )
    return Weights(problems=[problem])


def _read_index(path: Path) -> Weights:
    try:
        shard_of = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(shard_of.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return Weights(problems=[Problem(f"{path.name} is not an index of shards ({error!r})")])
    files = [path.parent / name for name in names]
    missing = [file.name for file in files if not file.is_file()]
    weights = _read([file for file in files if file.is_file()])
    for name in missing[:3]:
        weights.problems.append(Problem(f"shard {name} is missing in {path.parent} ({path.name} lists {len(names)})"))
    if len(missing) > 3:
        weights.problems.append(Problem(f"{len(missing) - 3} more of {len(names)} shards are missing"))
    if not weights.problems and weights.complete:
        absent = sorted(shard_of.keys() - weights.shapes.keys())
        if absent:
            message = f"no shard holds {absent[0]}, which {path.name} lists ({len(absent)} such weights)"
            weights.problems.append(Problem(message))
    for name in shard_of:
        weights.shapes.setdefault(name, None)
    weights.complete = True
    return weights


def _read(files: list[Path]) -> Weights:
    weights = Weights(files)
    for file in files:
        try:
            if file.suffix == ".safetensors":
                weights.shapes |= dict(_safetensors(file))
            else:
                check_pickle(file)
                weights.complete = False
        except DamagedFile as error:
            weights.problems.append(error.problem)
    return weights


class DamagedFile(Exception):
    """A weight or tokenizer file that cannot be used; ``problem`` describes the fault and its remedy."""

    def __init__(self, message: str, remedy: str = COPY_AGAIN) -> None:
        super().__init__(message)
        self.problem = Problem(message, remedy)


def check_pointer(file: Path) -> None:
    """Raise DamagedFile for a git-lfs pointer: the short text that git clones when git-lfs is not installed."""
    with file.open("rb") as opened:
        if opened.read(len(_LFS)) == _LFS:
            raise DamagedFile(
                f"{file.name} is a git-lfs pointer instead of the file itself",
                f"git lfs install && git -C {shlex.quote(str(file.parent))} lfs pull",
            )


def _safetensors(file: Path) -> Iterator[tuple[str, Shape]]:
    """Yield the name and shape of each weight in a safetensors file.

    The file holds 8 bytes (the length of the header), the header (JSON with the byte range of each weight), and the
    weights.

    Raises:
        DamagedFile: the file is cut off, too long, or has an unreadable header.
    """
    check_pointer(file)
    actual = file.stat().st_size
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if not 0 < length <= _LONGEST_HEADER:
                raise DamagedFile(f"{file.name} is not a safetensors file ({actual} bytes)")
            text = opened.read(length)
        if len(text) < length:
            raise DamagedFile(f"{file.name} is cut off: it has {actual} bytes, and its header needs {8 + length}")
        header = json.loads(text)
        header.pop("__metadata__", None)
        shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
        expected = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedFile(f"{file.name} is damaged: its header cannot be read ({error!r})") from error
    if actual < expected:
        raise DamagedFile(f"{file.name} is cut off: it has {actual} of {expected} bytes")
    if actual > expected:
        raise DamagedFile(f"{file.name} is damaged: it has {actual} bytes, and its header describes {expected}")
    yield from shapes.items()


def check_pickle(file: Path) -> None:
    """Raise DamagedFile for an empty or cut off torch file, without unpickling it.

    Since torch 1.6 the file is a zip archive with its directory at the end. Older formats cannot be checked.
    """
    check_pointer(file)
    with file.open("rb") as opened:
        start = opened.read(2)
    if start == b"PK" and not zipfile.is_zipfile(file):
        raise DamagedFile(f"{file.name} is cut off: the end of the archive is missing ({file.stat().st_size} bytes)")
    if not start:
        raise DamagedFile(f"{file.name} is empty")
