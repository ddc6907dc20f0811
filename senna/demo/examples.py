"""Example frames for the page, from a file of records."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from senna.demo.questions import MOST_SPEED, Refusal
from senna.demo.uploads import MOST_MEGAPIXELS, open_upload
from senna.errors import DataError
from senna.evaluate.metrics.plan_prompt import parse_situation
from senna.meta_actions import MetaAction, parse_meta_action
from senna.navigation import COMMANDS
from senna.record_file import RecordFile, open_records
from senna.records import Record, asked_views, image_paths
from senna.views import IMAGE_TOKEN, VIEWS, paths_by_camera

ROOT = Path(__file__).resolve().parents[2]
EMBEDDED = (ROOT / "outputs/embedded/qa/senna_nusc_val.jsonl", ROOT / "outputs/embedded/nuscenes")

_THUMBNAIL = (320, 180)


@dataclass(frozen=True)
class Example:
    """An example frame.

    Attributes:
        images: an image file for each view, in the order of VIEWS. Each was decoded once; serve copies only (`serve_copy`).
        thumbnail: a small copy of the front image.
        speed, command: speed (m/s) and navigation command of its plan record, None where they are unknown.
        truth: the ground-truth plan, None where it is unknown.
    """

    images: tuple[Path, ...]
    thumbnail: Image.Image
    speed: float | None = None
    command: str | None = None
    truth: MetaAction | None = None


def find_examples(
    data: str | None, image_folder: str | None, count: int = 6, most_megapixels: float = MOST_MEGAPIXELS
) -> list[Example]:
    """Return up to ``count`` frames of a file of records, else of the drawn world, else none.

    Args:
        image_folder: the folder that image paths are relative to; default: the folder of ``data``.

    Raises:
        DataError: ``data`` has no frame with six readable images.
    """
    if data is None:
        file, folder = EMBEDDED
        return choose_examples(open_records(file), folder, count, most_megapixels) if file.is_file() else []
    records = open_records(data)
    folder = Path(image_folder) if image_folder else records.path.parent
    if examples := choose_examples(records, folder, count, most_megapixels):
        return examples
    raise DataError(
        f"no record has six images in {folder} that this page can read (JPEG, PNG or WebP)",
        file=data,
        remedy="give the folder of the images with --image-folder",
    )


def choose_examples(
    records: RecordFile, folder: Path, count: int, most_megapixels: float = MOST_MEGAPIXELS
) -> list[Example]:
    """Return frames that are spread evenly over the file; only frames with a plan record where there are some."""
    plan = records.kind_names.index("plan") if "plan" in records.kind_names else None
    candidates = np.flatnonzero(records.kinds == plan) if plan is not None else np.arange(len(records))
    _, first = np.unique(records.frames[candidates], return_index=True)
    candidates = candidates[np.sort(first)]
    usable: list[Example] = []
    for index in _spread(len(candidates), count):
        if example := _example(records[int(candidates[index])], folder, most_megapixels):
            usable.append(example)
        if len(usable) == count:
            break
    return usable


def _spread(length: int, count: int) -> Iterator[int]:
    """Yield ``count`` indices spread over 0 ... length - 1, then some of the remaining ones as replacements."""
    chosen = list(dict.fromkeys(np.linspace(0, length - 1, min(count, length)).round().astype(int).tolist()))
    yield from chosen
    yield from [index for index in range(length) if index not in set(chosen)][: 10 * count]


def _example(record: Record, folder: Path, most_megapixels: float) -> Example | None:
    """Return the example of a record, None where it has no six readable images."""
    try:
        images = _six_images(record, folder)
        if len(images) != len(VIEWS) or not all(path.is_file() for path in images):
            return None
        thumbnail = _thumbnail(images, most_megapixels)
    except (DataError, OSError, ValueError, Refusal):  # not six views, or a file that is no image
        return None
    turns = record["conversations"]
    situation = parse_situation(turns[0]["value"].rpartition(IMAGE_TOKEN)[2])
    speed = record.get("speed", situation.speed)
    speed = None if speed is None else min(max(float(speed), 0.0), MOST_SPEED)
    command = record.get("command", situation.command)
    command = command if command in COMMANDS else None
    truth = parse_meta_action(turns[-1]["value"]) if turns[-1]["from"] == "gpt" else None
    return Example(images, thumbnail, speed, command, truth)


def _thumbnail(images: Sequence[Path], most_megapixels: float) -> Image.Image:
    """Decode the images of all views and return the first one, made small. Raises Refusal."""
    small = None
    for path, view in zip(images, VIEWS, strict=True):
        image = open_upload(path, view, most_megapixels)
        if small is None:
            image.thumbnail(_THUMBNAIL)
            small = image
    assert small is not None
    return small


def _six_images(record: Record, folder: Path) -> tuple[Path, ...]:
    """Return the images in the order of VIEWS, by the cameras in the paths, else by the prompt's tags."""
    named = record.get("images")
    paths: Sequence[str] = named if isinstance(named, list) and len(named) == len(VIEWS) else image_paths(record)
    by_view = paths_by_camera(paths)
    if not by_view:
        views = asked_views(record)
        by_view = dict(zip(views, paths, strict=False)) if len(views) == len(paths) else {}
    return tuple(folder / by_view[view] for view in VIEWS if view in by_view)
