"""Frames to try the page with, from a file of records."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from senna.demo.questions import MOST_SPEED
from senna.errors import DataError
from senna.evaluate.metrics.plan_prompt import parse_situation
from senna.meta_actions import MetaAction, parse_meta_action
from senna.navigation import COMMANDS
from senna.record_file import RecordFile, open_records
from senna.records import Record, image_paths
from senna.views import IMAGE_TOKEN, VIEWS, paths_by_camera, prompt_views

ROOT = Path(__file__).resolve().parents[2]
EMBEDDED = (ROOT / "outputs/embedded/qa/senna_nusc_val.jsonl", ROOT / "outputs/embedded/nuscenes")

_THUMBNAIL = (320, 180)


@dataclass(frozen=True)
class Example:
    """A frame.

    Attributes:
        pictures: a file a view, in the order of VIEWS.
        thumbnail: of the front view.
        speed, command: of its plan question; None where it has none.
        truth: what its driver did, where that is recorded.
    """

    pictures: tuple[Path, ...]
    thumbnail: Image.Image
    speed: float | None = None
    command: str | None = None
    truth: MetaAction | None = None


def find_examples(data: str | None, image_folder: str | None, count: int = 6) -> list[Example]:
    """Up to ``count`` frames of a record file, else of the embedded world, else none.

    Args:
        image_folder: where relative paths start; else beside the file.

    Raises DataError where ``data`` is given and has no frame of six views whose files are there.
    """
    if data is None:
        file, folder = EMBEDDED
        return choose_examples(open_records(file), folder, count) if file.is_file() else []
    records = open_records(data)
    folder = Path(image_folder) if image_folder else records.path.parent
    if examples := choose_examples(records, folder, count):
        return examples
    raise DataError(
        f"--data {data}: no record has six views whose files are in {folder}; give their folder with --image-folder"
    )


def choose_examples(records: RecordFile, folder: Path, count: int) -> list[Example]:
    """Frames spread evenly over the file, one a frame; those with a plan question where there are some."""
    plan = records.kind_names.index("plan") if "plan" in records.kind_names else None
    candidates = np.flatnonzero(records.kinds == plan) if plan is not None else np.arange(len(records))
    _, first = np.unique(records.frames[candidates], return_index=True)
    candidates = candidates[np.sort(first)]
    usable: list[Example] = []
    for index in _spread(len(candidates), count):
        if example := _example(records[int(candidates[index])], folder):
            usable.append(example)
        if len(usable) == count:
            break
    return usable


def _spread(length: int, count: int) -> Iterator[int]:
    """``count`` indices spread over 0 ... length - 1, in order; then, as stand-ins, some of the rest."""
    chosen = list(dict.fromkeys(np.linspace(0, length - 1, min(count, length)).round().astype(int).tolist()))
    yield from chosen
    yield from [index for index in range(length) if index not in set(chosen)][: 10 * count]


def _example(record: Record, folder: Path) -> Example | None:
    """None where the record does not show six views whose files are there."""
    try:
        pictures = _six_pictures(record, folder)
        if len(pictures) != len(VIEWS) or not all(path.is_file() for path in pictures):
            return None
        thumbnail = _thumbnail(pictures[0])
    except (DataError, OSError):  # no six views, or a damaged picture
        return None
    turns = record["conversations"]
    situation = parse_situation(turns[0]["value"].rpartition(IMAGE_TOKEN)[2])
    speed = None if situation.speed is None else min(max(float(situation.speed), 0.0), MOST_SPEED)
    command = situation.command if situation.command in COMMANDS else None
    truth = parse_meta_action(turns[-1]["value"]) if turns[-1]["from"] == "gpt" else None
    return Example(pictures, thumbnail, speed, command, truth)


def _thumbnail(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        picture.draft("RGB", (2 * _THUMBNAIL[0], 2 * _THUMBNAIL[1]))
        small = picture.convert("RGB")
    small.thumbnail(_THUMBNAIL)
    return small


def _six_pictures(record: Record, folder: Path) -> tuple[Path, ...]:
    """In the order of VIEWS: by the cameras that the paths name, else by the prompt's tags."""
    named = record.get("images")
    paths: Sequence[str] = named if isinstance(named, list) and len(named) == len(VIEWS) else image_paths(record)
    by_view = paths_by_camera(paths)
    if not by_view:
        views = [view for turn in record["conversations"] for view in prompt_views(turn["value"])]
        by_view = dict(zip(views, paths, strict=False)) if len(views) == len(paths) else {}
    return tuple(folder / by_view[view] for view in VIEWS if view in by_view)
