"""Select the scenes of a run."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from senna.errors import UsageError

if TYPE_CHECKING:
    from nuscenes.nuscenes import NuScenes

TRAIN, DEV = "train", "dev"
SPLITS = (TRAIN, DEV, "val", "test")


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


def split_off_dev(splits: Mapping[str, Sequence[str]], count: int) -> dict[str, list[str]]:
    """Return the splits with ``count`` scenes of train as a split of their own, at equal distances in the order of the table.

    Raises:
        UsageError: train has not more scenes than that.
    """
    train = splits.get(TRAIN, ())
    if not 0 <= count < max(len(train), 1):
        raise UsageError(
            f"--dev-scenes {count} is not possible: the training split has {len(train)} scenes",
            remedy=f"choose between 0 and {max(len(train) - 1, 0)}",
        )
    chosen = {train[(2 * number + 1) * len(train) // (2 * count)] for number in range(count)}
    parts = {TRAIN: [name for name in train if name not in chosen], DEV: [name for name in train if name in chosen]}
    return {name: list(scenes) for name, scenes in {**splits, **parts}.items()}


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
