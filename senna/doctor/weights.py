"""Whether weight files are there and whole, and what they hold: read from their headers, never their weights."""

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

AGAIN = "copy it again, or fetch it with `senna download`, which goes on where it was cut off"
_LFS = b"version https://git-lfs"
_LONGEST_HEADER = 100_000_000  # safetensors' own limit

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Problem:
    """What is wrong with a file, and what to do."""

    says: str
    remedy: str = AGAIN


@dataclass
class Weights:
    """What the weight files of a folder hold.

    Attributes:
        shapes: of every weight by its name; None where only the name is known (a pickle's index).
        complete: whether ``shapes`` names everything: a lone pickle tells no names.
        problems: what is missing or damaged.
    """

    files: list[Path] = field(default_factory=list)
    shapes: dict[str, Shape | None] = field(default_factory=dict)
    complete: bool = True
    problems: list[Problem] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)


def read_weights(folder: Path, stems: tuple[str, str] = ("model", "pytorch_model")) -> Weights:
    """The weights of a folder as transformers would choose them: safetensors before pickles, one file before shards.

    ``stems`` are the names of the files: of a model, or of a LoRA folder ("adapter_model", "adapter_model").
    """
    safe, pickled = stems
    for name in (f"{safe}.safetensors", f"{pickled}.bin"):
        if (folder / name).is_file():
            return _read([folder / name])
        if (folder / f"{name}.index.json").is_file():
            return _read_index(folder / f"{name}.index.json")
    return Weights(
        problems=[
            Problem(
                f"{folder} holds no {safe}.safetensors and no {pickled}.bin",
                "give the folder that holds the weights, or copy them there",
            )
        ]
    )


def _read_index(path: Path) -> Weights:
    try:
        places = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(places.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return Weights(problems=[Problem(f"{path.name} is no index of shards ({error!r})")])
    files = [path.parent / name for name in names]
    missing = [file.name for file in files if not file.is_file()]
    weights = _read([file for file in files if file.is_file()])
    for name in missing[:3]:
        weights.problems.append(Problem(f"shard {name} is missing in {path.parent} ({path.name} names {len(names)})"))
    if len(missing) > 3:
        weights.problems.append(Problem(f"and {len(missing) - 3} other shards of {len(names)}"))
    if not weights.problems:
        lost = sorted(places.keys() - weights.shapes.keys()) if weights.complete else []
        if lost:
            weights.problems.append(Problem(f"{path.name} names {lost[0]} ({len(lost)} such), which no shard holds"))
    for name in places:
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
            weights.problems.append(Problem(*error.args))
    return weights


class DamagedFile(Exception):
    """(what is wrong, what to do)"""


def check_pointer(file: Path) -> None:
    """Raise DamagedFile for what git clones where git-lfs is not installed: a few lines in place of a large file."""
    with file.open("rb") as opened:
        if opened.read(len(_LFS)) == _LFS:
            raise DamagedFile(
                f"{file.name} is a pointer of git-lfs, not the file",
                f"git lfs install && git -C {file.parent} lfs pull",
            )


def _safetensors(file: Path) -> Iterator[tuple[str, Shape]]:
    """Names and shapes of the weights in a safetensors file. Raises DamagedFile, most of all where it is cut off.

    The format: 8 bytes, the header's length; the header, JSON that gives each weight's span; the weights.
    """
    check_pointer(file)
    there = file.stat().st_size
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if not 0 < length <= _LONGEST_HEADER:
                raise DamagedFile(f"{file.name} is not a safetensors file ({there} bytes)", AGAIN)
            text = opened.read(length)
        if len(text) < length:
            raise DamagedFile(f"{file.name} is cut off: {there} bytes, its header alone takes {8 + length}", AGAIN)
        header = json.loads(text)
        header.pop("__metadata__", None)
        shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
        whole = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedFile(f"{file.name} is damaged: its header cannot be read ({error!r})", AGAIN) from error
    if there < whole:
        raise DamagedFile(f"{file.name} is cut off: {there} bytes of {whole}", AGAIN)
    if there > whole:
        raise DamagedFile(f"{file.name} is damaged: {there} bytes, its header says {whole}", AGAIN)
    yield from shapes.items()


def check_pickle(file: Path) -> None:
    """Raise DamagedFile for a torch file that is cut off. Its pickle is not opened.

    Since torch 1.6 the file is a zip archive, whose directory stands at its end. Older ones cannot be judged.
    """
    check_pointer(file)
    with file.open("rb") as opened:
        begins = opened.read(2)
    if begins == b"PK" and not zipfile.is_zipfile(file):
        raise DamagedFile(f"{file.name} is cut off: {file.stat().st_size} bytes, the archive's end is missing", AGAIN)
    if not begins:
        raise DamagedFile(f"{file.name} is empty", AGAIN)
