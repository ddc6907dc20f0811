"""Select the scenes of a run and divide them among its shards."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from senna.errors import UsageError

if TYPE_CHECKING:
    from nuscenes.nuscenes import NuScenes

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Scene:
    """A scene to convert: its name, its split, and how many of its first frames are wanted."""

    name: str
    split: str
    frames: int


def select_scenes(tables: "NuScenes", splits: Mapping[str, Sequence[str]], limit: int | None = None) -> list[Scene]:
    """Return the scenes that belong to a split, in the order of the table, up to ``limit`` frames in total."""
    split_of = {name: split for split, names in splits.items() for name in names}
    lengths = Counter(sample["scene_token"] for sample in tables.sample)
    left = len(tables.sample) if limit is None else limit
    scenes = []
    for row in tables.scene:
        if left > 0 and row["name"] in split_of:
            scenes.append(Scene(row["name"], split_of[row["name"]], min(lengths[row["token"]], left)))
            left -= scenes[-1].frames
    return scenes


def output_path(out: Path, name: str, split: str, form: str) -> Path:
    """Return the path of a split's records: OUT/senna_nusc_train.jsonl and so on."""
    return out / f"{name}_{split}.{form}"


def parse_shard(text: str) -> tuple[int, int]:
    """Return I and N of ``I/N``, the I-th of N shards, counted from 1.

    Raises:
        UsageError: the text is anything else.
    """
    left, slash, right = text.partition("/")
    if slash and left.isdecimal() and right.isdecimal() and 1 <= int(left) <= int(right):
        return int(left), int(right)
    raise UsageError(f"--shard {text} is not a shard", remedy="give I/N with I from 1 to N, for example 1/2 and 2/2")


def shard_of(scenes: Sequence[Scene], shard: int, shards: int) -> list[Scene]:
    """Return the scenes of a shard (counted from 1).

    A shard's scenes are consecutive, so that joining the shards in order gives the order of the table. The shards have
    about the same number of frames.
    """
    total = sum(scene.frames for scene in scenes)
    ends = accumulate(scene.frames for scene in scenes)
    middles = (end - scene.frames / 2 for end, scene in zip(ends, scenes, strict=True))
    return [scene for scene, middle in zip(scenes, middles, strict=True) if int(middle * shards / total) == shard - 1]
