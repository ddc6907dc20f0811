"""Checks of the records and their images: all records are read, and a sample of the images."""

import os
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from senna.data import Mixture
from senna.data.dataset import find_image
from senna.data.images import PixelRules, load_pixels
from senna.data.mixture import open_mixture, parse_data_path
from senna.doctor.context import RunContext
from senna.doctor.findings import FAIL, OK, WARN, Finding, some
from senna.errors import DataError, UsageError
from senna.records import Record, image_paths, prompt_images
from senna.train.held_out import has_unknown_scenes, open_held_out
from senna.train.plan_loss import check_choice
from senna.views import IMAGE_TOKEN, VIEWS, paths_by_camera

SAMPLE = 64  # records whose images are checked
_MOST_FOLDERS = 300  # subfolders of each depth that are searched for missing images
_RULES = PixelRules(size=336, crop=(336, 336), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))  # the pixels are discarded


class _RecordImages(NamedTuple):
    """The images of one record: their number, and whether their order is known from camera names in the paths."""

    number: int
    has_order: bool

    def __str__(self) -> str:
        if self.number == 1:
            return "one image"
        return f"{self.number} views" if self.has_order else f"{self.number} images without camera names"


def records(context: RunContext) -> Iterator[Finding]:
    """Read and validate all records, and store them in the context.

    Raises:
        UsageError: the image folder does not exist, or an error of `open_mixture` or `check_choice`.
        DataError: a record is invalid.
    """
    args = context.args
    if not args.data_path:
        return
    parse_data_path(args.data_path)  # reports a missing file before any file is read
    if args.image_folder is not None and not Path(args.image_folder).is_dir():
        message = f"--image_folder {args.image_folder} is not a folder"
        raise UsageError(message, remedy="set --image_folder (IMAGE_DATA) to the folder where the image paths start")
    context.records = open_mixture(args.data_path, args.stage, args.skip_bad_samples, kinds=args.chosen_kinds)
    check_choice(args, context.records)
    per_kind = ", ".join(f"{number} {kind}" for kind, number in context.records.counts_by_kind().items())
    files = len(context.records.files)
    stage = "" if args.stage is None else f" of stage {args.stage}"
    message = f"{len(context.records)} records{stage} in {files} file{'s' * (files > 1)}; per epoch: {per_kind}"
    yield Finding(OK, "data", message)
    errors = [str(error) for file in context.records.files for error in file.bad.values()]
    if errors:
        message = f"{len(errors)} records cannot be used: {'; '.join(some(errors))}"
        yield Finding(
            WARN, "data", message, f"repair or remove them; --skip_bad_samples {args.skip_bad_samples} skips them"
        )


def held_out(context: RunContext) -> Iterator[Finding]:
    """Check that the held-out records of validations can be used and are not among the training records.

    Raises:
        UsageError, DataError: an error of `open_held_out`.
    """
    if context.records is None or (records := open_held_out(context.args, context.records)) is None:
        return
    scenes = len(set(records.scenes()) - {""})
    yield Finding(OK, "held-out data", f"{len(records)} records of {scenes} scenes, none of which is trained on")
    if has_unknown_scenes(context.records, records):
        message = "records without a scene_token: they may be among both the training and the held-out records"
        yield Finding(WARN, "held-out data", message, "make sure yourself that --eval_data_path holds other samples")


def images(context: RunContext) -> Iterator[Finding]:
    """Check a sample of records: all images exist, their number fits the prompt, and one image of each can be decoded."""
    records = context.records
    if records is None:
        return
    with_images = np.flatnonzero(records.images > 0)
    if not len(with_images):
        yield Finding(OK, "images", "no record has an image")
        return
    sample = np.random.default_rng(0).choice(with_images, min(SAMPLE, len(with_images)), replace=False)
    types: Counter[_RecordImages] = Counter()
    errors: list[str] = []
    missing = 0
    for turn, index in enumerate(sorted(sample.tolist())):
        try:
            types[_check_record(context, records, index, turn)] += 1
        except DataError as error:
            missing += error.kind == DataError.MISSING_IMAGE
            errors.append(f"{records.name(index)}: {error}")
    if not errors:
        yield _all_usable(types, len(with_images))
    elif missing == len(sample):
        paths = [image_paths(records[int(index)])[0] for index in sample[:3]]
        yield _all_missing(Path(context.args.image_folder or records.folder(0)), paths)
    elif len(errors) == len(sample):
        message = f"none of {len(errors)} sampled records can be used; the first: {errors[0]}"
        yield Finding(FAIL, "images", message, "repair the records, or set --data_path (DATA) to other ones")
    else:
        yield _some_unusable(errors, len(sample), len(records))


def _check_record(context: RunContext, records: Mixture, index: int, turn: int) -> _RecordImages:
    """Check a record, and return its kind of images. Decodes image number ``turn`` (modulo their number).

    Raises:
        DataError: the record cannot be used.
    """
    record: Record = records[index]
    expected = sum(message["value"].count(IMAGE_TOKEN) for message in record["conversations"])
    paths = prompt_images(record)
    if expected != len(paths):
        raise DataError(
            f"the text has {expected} {IMAGE_TOKEN} and the record lists {len(paths)} images",
            remedy=f"write one {IMAGE_TOKEN} for each image into the human turns",
        )
    data_folder = records.folder(index)
    folders = [Path(context.args.image_folder), data_folder] if context.args.image_folder else [data_folder]
    files = [find_image(path, folders) for path in paths]
    for file in files:
        if not os.path.exists(file):
            raise DataError(
                f"no such image: {file}",
                remedy="check the record's path and the image folder",
                kind=DataError.MISSING_IMAGE,
            )
    load_pixels(files[turn % len(files)], _RULES, decode="fast")
    return _RecordImages(len(paths), len(paths) == 1 or bool(paths_by_camera(paths)))


def _all_usable(types: Counter[_RecordImages], total: int) -> Finding:
    counts = ", ".join(f"{number} with {images}" for images, number in types.most_common())
    message = f"{types.total()} of {total} records sampled: {counts}; all images exist, one of each record was decoded"
    if all(images.has_order for images in types):
        return Finding(OK, "images", message)
    return Finding(
        WARN,
        "images",
        f"{message}. The paths do not name cameras, so the order of the views is that of the record",
        f"name the cameras in the paths (CAM_FRONT_LEFT/...), or list the views in this order: {', '.join(VIEWS)}",
    )


def _some_unusable(errors: list[str], sampled: int, total: int) -> Finding:
    skipped = max(len(errors), round(1.5 * len(errors) / sampled * total))
    message = f"{len(errors)} of {sampled} sampled records cannot be used: {'; '.join(some(errors))}"
    remedy = f"repair or remove them, or skip up to {skipped} records with --skip_bad_samples {skipped}"
    return Finding(WARN, "images", message, remedy)


def _all_missing(folder: Path, paths: list[str]) -> Finding:
    """Return the finding for a sample of which no image exists, with the folder that holds the images if it is near."""
    with os.scandir(folder) as entries:
        is_empty = next(entries, None) is None
    message = f"the image folder {folder} is empty" if is_empty else f"{folder} holds none of the sampled images"
    remedy = f"set --image_folder (IMAGE_DATA) to the folder that holds {paths[0]}; unpack the images if necessary"
    nearby = find_folder(folder, paths)
    if nearby is not None:
        folder_text = shlex.quote(str(nearby))
        remedy = f"--image_folder {folder_text}   (IMAGE_DATA={folder_text} for the scripts)"
    return Finding(FAIL, "images", f"{message}; the records list {paths[0]}, ...", remedy)


def find_folder(folder: Path, paths: list[str]) -> Path | None:
    """Return a folder that holds all relative ``paths``, up to three levels above ``folder`` or two below; else None."""
    relative = [path for path in paths if not os.path.isabs(path)]
    if not relative:
        return None
    folder = folder.resolve()
    below = [
        candidate
        for pattern in ("*/", "*/*/")
        for candidate, _ in zip(folder.glob(pattern), range(_MOST_FOLDERS), strict=False)
    ]
    for candidate in [*list(folder.parents)[:3], *below]:
        if all((candidate / path).is_file() for path in relative):
            return candidate
    return None
