"""Select the scenes of a run."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nuscenes.nuscenes import NuScenes

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Scene:
    """A scene to convert.

    Attributes:
        frames: how many of its first frames are wanted.
        done: how many of these are finished already.
    """

    name: str
    split: str
    frames: int
    done: int = 0


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
