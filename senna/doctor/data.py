"""The records of a run and their images: all records are read, some images."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from senna.data.dataset import find_image
from senna.data.images import PixelRules, load_pixels
from senna.data.mixture import open_mixture, parse_data_path
from senna.doctor.context import RunContext
from senna.doctor.findings import FAIL, OK, WARN, Finding, some
from senna.errors import DataError, UsageError
from senna.records import Record, image_paths, prompt_images
from senna.views import IMAGE_TOKEN, VIEWS, paths_by_camera

SAMPLE = 64  # records
_FOLDERS_TRIED = 300  # below and above the image folder, for where the images may be
_RULES = PixelRules(size=336, crop=(336, 336), mean=(0.5,) * 3, std=(0.5,) * 3)  # pictures are decoded, and thrown away


def records(case: RunContext) -> Iterator[Finding]:
    """Reads and validates every record, into the case.

    Raises UsageError for an image folder that is not there, and as `open_mixture` does, DataError too.
    """
    args = case.args
    if not args.data_path:
        return
    parse_data_path(args.data_path)  # what is not there is told before anything is read
    if args.image_folder is not None and not Path(args.image_folder).is_dir():
        raise UsageError(f"--image_folder {args.image_folder}: no such folder")
    case.records = open_mixture(args.data_path, args.stage)
    kinds = ", ".join(f"{number} {kind}" for kind, number in case.records.counts_by_kind().items())
    files = len(case.records.files)
    stage = "" if args.stage is None else f" of stage {args.stage}"
    says = f"{len(case.records)} records{stage} in {files} file{'s' * (files > 1)}; an epoch takes {kinds}"
    yield Finding(OK, "data", says)


def images(case: RunContext) -> Iterator[Finding]:
    """Of a sample of records: that their images are there and as many as the prompt's, and that one of each can be decoded."""
    if case.records is None:
        return
    records = case.records
    seen = np.flatnonzero(records.images > 0)
    if not len(seen):
        yield Finding(OK, "images", "the records are text alone")
        return
    chosen = np.random.default_rng(0).choice(seen, min(SAMPLE, len(seen)), replace=False)
    looks, bad, absent = Counter(), [], 0
    for turn, index in enumerate(sorted(chosen.tolist())):
        try:
            looks[_look(case, records[index], index, turn)] += 1
        except DataError as error:
            absent += "no such image" in str(error)
            bad.append(f"{records.name(index)}: {error}")
    if not bad:
        yield from _whole(looks, len(seen))
    elif absent == len(chosen):
        yield _all_missing(case, [path for index in chosen[:3] for path in image_paths(records[int(index)])[:1]])
    elif len(bad) == len(chosen):
        yield Finding(
            FAIL,
            "images",
            f"none of {len(bad)} records looked at can be used, the first: {bad[0]}",
            "mend the records, or give others with --data_path (DATA)",
        )
    else:
        listed = "; ".join(some(bad, 3))
        many = max(len(bad), round(1.5 * len(bad) / len(chosen) * len(records)))
        yield Finding(
            WARN,
            "images",
            f"{len(bad)} of {len(chosen)} records looked at cannot be used: {listed}",
            f"mend or remove them; --skip_bad_samples {many} goes on without so many",
        )


def _look(case: RunContext, record: Record, index: int, turn: int) -> str:
    """What kind of record it is; raises DataError where it cannot be used. Decodes one of its images, by turns each."""
    wanted = sum(turn["value"].count(IMAGE_TOKEN) for turn in record["conversations"])
    named = prompt_images(record)
    if wanted != len(named):
        raise DataError(f"the text has {wanted} {IMAGE_TOKEN}, the record names {len(named)} images")
    beside = case.records.folder(index)
    folders = [Path(case.args.image_folder), beside] if case.args.image_folder else [beside]
    files = [find_image(path, folders) for path in named]
    for file in files:
        if not os.path.exists(file):
            raise DataError(f"no such image: {file}")
    load_pixels(files[turn % len(files)], _RULES, decode="fast")
    if len(named) == 1:
        return "with one image"
    return f"of {len(named)} views" if paths_by_camera(named) else f"of {len(named)} images without cameras' names"


def _whole(looks: Counter, total: int) -> Iterator[Finding]:
    says = ", ".join(f"{number} {look}" for look, number in looks.most_common())
    says = f"{looks.total()} of {total} records looked at: {says}; each there, one of each opened"
    nameless = sum(number for look, number in looks.items() if "without" in look)
    if nameless:
        yield Finding(
            WARN,
            "images",
            f"{says}. Views are taken in the record's order, which nothing confirms",
            f"paths that name cameras (CAM_FRONT_LEFT/...) are put in the prompt's order: {', '.join(VIEWS)}",
        )
    else:
        yield Finding(OK, "images", says)


def _all_missing(case: RunContext, samples: list[str]) -> Finding:
    """No image was found: why, and where they may be."""
    folder = Path(case.args.image_folder or case.records.folder(0))
    with os.scandir(folder) as entries:
        empty = next(entries, None) is None
    what = f"the image folder {folder} is empty" if empty else f"no image looked at is in {folder}"
    likely = find_folder(folder, samples)
    if likely is not None:
        remedy = f"--image_folder {likely}   (IMAGE_DATA={likely} for the scripts)"
    else:
        remedy = f"--image_folder (IMAGE_DATA): the folder in which {samples[0]} lies; unpack the images first"
    return Finding(FAIL, "images", f"{what}; the records name {samples[0]}, ...", remedy)


def find_folder(folder: Path, samples: list[str]) -> Path | None:
    """A parent of ``folder``, or a folder one or two below it, in which all of the sample paths are; None where none is."""
    relative = [path for path in samples if not os.path.isabs(path)]
    if not relative:
        return None
    folder = folder.resolve()
    below = [
        place
        for pattern in ("*/", "*/*/")
        for place, _ in zip(folder.glob(pattern), range(_FOLDERS_TRIED), strict=False)
    ]
    for place in [*list(folder.parents)[:3], *below]:
        if all((place / path).is_file() for path in relative):
            return place
    return None
