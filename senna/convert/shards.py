"""What a run is to do: which scenes, in which order, in which shard; and whether it is the run that has begun there."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senna.errors import SennaError, UsageError

if TYPE_CHECKING:
    from nuscenes.nuscenes import NuScenes

RUN, JOINED = "run.json", "joined.json"  # in OUT's work folder: what the run is, and that OUT is complete
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Scene:
    """A scene to convert: its name, the split it belongs to, and how many of its first frames are wanted."""

    name: str
    split: str
    frames: int


def plan_scenes(tables: "NuScenes", splits: Mapping[str, Sequence[str]], limit: int | None = None) -> list[Scene]:
    """The scenes that have a split, in the order of the table, up to ``limit`` frames in all."""
    split_of = {name: split for split, names in splits.items() for name in names}
    lengths = Counter(sample["scene_token"] for sample in tables.sample)
    left = len(tables.sample) if limit is None else limit
    planned = []
    for scene in tables.scene:
        if left > 0 and scene["name"] in split_of:
            planned.append(Scene(scene["name"], split_of[scene["name"]], min(lengths[scene["token"]], left)))
            left -= planned[-1].frames
    return planned


def output_path(out: Path, name: str, split: str, form: str) -> Path:
    """OUT/senna_nusc_train.jsonl and so on."""
    return out / f"{name}_{split}.{form}"


def parse_shard(text: str) -> tuple[int, int]:
    """``I/N``, the I-th of N shards, I from 1 to N. Raises UsageError."""
    left, slash, right = text.partition("/")
    if slash and left.isdecimal() and right.isdecimal() and 1 <= int(left) <= int(right):
        return int(left), int(right)
    raise UsageError(f"--shard {text}: give I/N, the I-th of N shards, I from 1 to N: 1/2 and 2/2")


def shard_of(scenes: Sequence[Scene], shard: int, shards: int) -> list[Scene]:
    """The scenes of a shard (from 1): neighbours, about as many frames as the others have, so that joining is appending."""
    total = sum(scene.frames for scene in scenes)
    ends = accumulate(scene.frames for scene in scenes)
    middles = (end - scene.frames / 2 for end, scene in zip(ends, scenes, strict=True))
    return [one for one, middle in zip(scenes, middles, strict=True) if int(middle * shards / total) == shard - 1]


def fingerprint(*contents: bytes) -> str:
    """A short name of contents."""
    return hashlib.sha256(b"\0".join(contents)).hexdigest()[:16]


def compare(folder: Path, settings: Mapping[str, Any]) -> None:
    """Raise UsageError, which names what differs, where the run that has begun in ``folder`` is another."""
    path = folder / RUN
    if not path.is_file():
        return
    begun = json.loads(path.read_text(encoding="utf-8"))
    names = [*settings, *(name for name in begun if name not in settings)]
    differs = [name for name in names if begun.get(name) != settings.get(name)]
    if differs:
        told = "; ".join(f"{name} was {begun.get(name)!r} and is {settings.get(name)!r}" for name in differs)
        raise UsageError(
            f"{folder.parent} holds another run, or a part of one: {told}. Give another --out, or delete {folder} and the "
            "files beside it to begin anew"
        )


def claim(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write down what the run in ``folder`` is; where one has begun, ``compare``."""
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / f".{RUN}.{os.getpid()}"
    try:
        made.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        _name(made, folder / RUN)
    except FileExistsError:
        compare(folder, settings)
    except OSError as error:
        raise SennaError(f"{folder} cannot be written: {error.strerror or error}") from error
    finally:
        made.unlink(missing_ok=True)


def _name(made: Path, path: Path) -> None:
    """Give a file its name, whole, unless there is one: the first of several shards that start together wins."""
    try:
        os.link(made, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if path.exists():
            raise FileExistsError(path) from None
        made.rename(path)
