"""From nuScenes to records, frame by frame: memory does not grow with the number of frames, and a run can stop anytime."""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from senna.convert.caption_checks import Caption, ask
from senna.convert.caption_limits import DEFAULT_MAX_REFUSED, CaptionLimits
from senna.convert.captioners import ANNOTATIONS, Captioner, Request
from senna.convert.facts import Frame
from senna.convert.frames import frames_of
from senna.convert.journal import ShardWriter, open_shard
from senna.convert.quality import LEFT_OUT, facts_of
from senna.convert.questions import Answer, Question, questions_of, records_of
from senna.convert.shards import Scene
from senna.errors import DataError, UsageError
from senna.image_file import check_image_file
from senna.templates import Templates
from senna.views import VIEWS

if TYPE_CHECKING:
    from nuscenes.nuscenes import NuScenes

_LINE_SECONDS = 10.0  # between two lines of progress where there is no terminal


@dataclass(frozen=True)
class Source:
    """The data set that is converted.

    Attributes:
        tables: its tables (``senna.convert.frames.load_tables``).
        can_bus: the folder of its CAN bus messages, None where there is none.
        compat: see ``senna.convert.frames.read_frames``.
    """

    tables: "NuScenes"
    can_bus: Path | None = None
    compat: str | None = None

    def frames(self, scenes: Sequence[str]) -> Iterator[Frame]:
        """Yield the key frames of the named scenes in the given order."""
        return frames_of(self.tables, self.can_bus, scenes, self.compat)


class Images:
    """Lookup of existing image files. Each folder is listed once, because single lookups are slow on network disks."""

    def __init__(self, dataroot: Path) -> None:
        self.dataroot = dataroot
        self._folders: dict[str, set[str]] = {}

    def has(self, path: str) -> bool:
        """Return whether the file exists; ``path`` is relative to the data set's root."""
        folder, name = os.path.split(path)
        if folder not in self._folders:
            try:
                self._folders[folder] = set(os.listdir(self.dataroot / folder))
            except OSError:
                self._folders[folder] = set()
        return name in self._folders[folder]

    def check(self, path: str) -> None:
        """Raise DataError if a captioner must not get the file, which may send it to a server: it is in no subfolder of the
        data set's root, or no regular file."""
        if os.path.isabs(path) or ".." in Path(path).parts:
            raise DataError(
                f"the image {path} is outside of the data set",
                remedy="correct its filename in sample_data.json, which begins with samples/",
                file=self.dataroot,
            )
        check_image_file(self.dataroot / path)


@dataclass
class MissingImages:
    """The image files of some scenes that do not exist.

    Attributes:
        missing, total: number of missing files, and of all.
        first: the first missing path, "" where none is missing.
        frames, complete: number of frames, and of those whose six images exist.
    """

    missing: int = 0
    total: int = 0
    first: str = ""
    frames: int = 0
    complete: int = 0


def find_missing(source: Source, scenes: Sequence[Scene], images: Images) -> MissingImages:
    """Look for the image files of scenes."""
    found = MissingImages()
    first_samples = {scene["name"]: scene["first_sample_token"] for scene in source.tables.scene}
    for scene in scenes:
        token = first_samples[scene.name]
        for _ in range(scene.frames):
            sample = source.tables.get("sample", token)
            token = sample["next"]
            data = [sample["data"].get(f"CAM_{view.upper().replace(' ', '_')}") for view in VIEWS]
            paths = [source.tables.get("sample_data", row)["filename"] for row in data if row]
            missing = [path for path in paths if not images.has(path)]
            found.total += len(VIEWS)
            found.missing += len(missing)
            found.first = found.first or next(iter(missing), "")
            found.frames += 1
            found.complete += not missing
            if not token:
                break
    return found


def check_images(source: Source, scenes: Sequence[Scene], images: Images, allow_missing: bool = False) -> bool:
    """Return whether some image files of the scenes exist and others do not; then frames without theirs are left out.

    Where no image file exists at all, the tables alone are converted, for images that are elsewhere.

    Raises:
        UsageError: image files are missing and ``allow_missing`` is not set, or no frame has all of its images. It names
            the first missing file and the number of missing files.
    """
    found = find_missing(source, scenes, images)
    if not found.missing:
        return False
    message = f"{found.missing} of {found.total} image files are not in {images.dataroot}; the first is {found.first}"
    remedy = "unpack the missing parts of nuScenes there"
    if not allow_missing:
        raise UsageError(message, remedy=f"{remedy}, or continue without their frames: --allow-missing-images")
    if found.missing == found.total:
        print(f"{message}: the records name images that are not there", flush=True)
        return False
    if not found.complete:
        raise UsageError(f"{message}; no frame has all six, so every frame would be left out", remedy=remedy)
    return True


@dataclass
class _PendingFrame:
    """A frame whose captions are not known yet.

    Attributes:
        requests: the questions for the captioner.
        missing: number of its image files that do not exist.
        is_left_out: whether it gets no records, because an image is missing.
    """

    frame: Frame
    split: str
    questions: list[Question]
    requests: list[Request]
    missing: int
    is_left_out: bool = False


def convert_shard(
    source: Source,
    scenes: Sequence[Scene],
    folder: Path,
    captioner: Captioner,
    templates: Templates,
    images: Images,
    max_refused: str = DEFAULT_MAX_REFUSED,
    leave_out: bool = False,
) -> ShardWriter:
    """Convert a shard's scenes into ``folder``, starting where an earlier, interrupted call stopped.

    Args:
        max_refused: how many images the captioner may refuse, see ``senna.convert.caption_limits.allowed_refusals``.
        leave_out: write no records of frames with a missing image, and ask no questions about them.

    Raises:
        SennaError: the captioner, the data set or the disk failed. Finished frames stay saved.
    """
    total = sum(scene.frames for scene in scenes)
    shard = open_shard(folder)
    try:
        if shard.frames or shard.discarded:
            again = f"; {shard.discarded} incomplete frames are converted again" if shard.discarded else ""
            print(f"resuming: {shard.frames} of {total} frames are done{again}", flush=True)
        limits = CaptionLimits(max_refused, total * len(VIEWS), has_text=shard.frames > 0)
        with _progress(total, shard.frames) as advance:
            remaining = _remaining_frames(source, scenes, shard)
            pending = (_prepare(frame, split, captioner, templates, images, leave_out) for frame, split in remaining)
            for batch in _batches(pending, captioner.window):
                requests = [request for item in batch for request in item.requests]
                captions = ask(captioner, requests) if requests else []
                if captioner.name != ANNOTATIONS:
                    limits.check(requests, captions)
                remaining_captions = iter(captions)
                for item in batch:
                    _append(shard, item, [next(remaining_captions) for _ in item.requests], captioner.name)
                    advance()
        if shard.frames != total:
            raise DataError(
                f"the tables are inconsistent: they list {total} frames, but the chains of their scenes have {shard.frames}",
                remedy="unpack the tables again",
                file=source.tables.dataroot,
            )
        shard.finish()
    finally:
        shard.close()
    return shard


def _remaining_frames(source: Source, scenes: Sequence[Scene], shard: ShardWriter) -> Iterator[tuple[Frame, str]]:
    """Yield the frames that the shard does not have yet, each with its split."""
    done, rest = shard.frames, list(scenes)
    while rest and done >= rest[0].frames:
        done -= rest.pop(0).frames
    wanted = {scene.name: scene for scene in rest}
    for name, frames in groupby(source.frames(list(wanted)), key=lambda frame: frame.scene):
        for index, frame in enumerate(frames):
            if index == done - 1 and frame.token != shard.last:
                raise DataError(
                    f"the shard ends with frame {shard.last}, where {source.tables.dataroot} has {frame.token}: the data set "
                    "is another one, or it changed",
                    remedy="delete the folder to start again",
                    file=shard.folder,
                )
            if done <= index < wanted[name].frames:
                yield frame, wanted[name].split
        done = 0


def _prepare(
    frame: Frame, split: str, captioner: Captioner, templates: Templates, images: Images, leave_out: bool
) -> _PendingFrame:
    """Select the questions for the captioner: those that the tables do not answer and whose image exists."""
    paths: dict[str, str] = dict(zip(VIEWS, frame.images, strict=True))
    exists = {view: images.has(path) for view, path in paths.items()}
    missing = sum(not found for found in exists.values())
    if leave_out and missing:
        return _PendingFrame(frame, split, [], [], missing, is_left_out=True)
    needs_images = captioner.name != ANNOTATIONS
    for view in VIEWS if needs_images else ():
        images.check(paths[view])
    questions = questions_of(frame, templates)
    requests = [
        Request(frame, question.view, images.dataroot / paths[question.view], question.kind, question.text)
        for question in questions
        if question.answer is None and (exists[question.view] or not needs_images)
    ]
    return _PendingFrame(frame, split, questions, requests, missing)


def _batches(pending: Iterable[_PendingFrame], window: int) -> Iterator[list[_PendingFrame]]:
    """Group frames until a group has ``window`` requests or more, which keeps the captioner busy."""
    batch: list[_PendingFrame] = []
    for item in pending:
        batch.append(item)
        if sum(len(waiting.requests) for waiting in batch) >= window:
            yield batch
            batch = []
    if batch:
        yield batch


def _append(shard: ShardWriter, item: _PendingFrame, captions: Sequence[Caption], captioner: str) -> None:
    """Write a frame's records. Captions with problems stay, marked; empty captions are left out."""
    answers, problems = {}, {}
    for request, caption in zip(item.requests, captions, strict=True):
        if caption.text:
            answers[request.kind, request.view] = Answer(caption.text, captioner)
        elif captioner == ANNOTATIONS:
            continue  # this captioner leaves some questions unanswered by design, which is no problem
        if caption.problems:
            problems[request.kind, request.view] = list(caption.problems)
    records = records_of(item.frame, item.questions, answers)
    for record in records:
        if found := problems.get((record["kind"], record["view"])):
            record["problems"] = found
    reported = [
        f"caption {problem}: {kind}, {view} view" for (kind, view), found in problems.items() for problem in found
    ]
    facts = facts_of(item.frame, records, reported, item.missing)
    shard.append(item.split, records, {**facts, LEFT_OUT: True, "problems": []} if item.is_left_out else facts)


@contextmanager
def _progress(total: int, done: int) -> Iterator[Callable[[], object]]:
    """Show a progress bar on a terminal, and print a line every few seconds elsewhere.

    Yields:
        A function to call after each frame.
    """
    if sys.stderr.isatty():
        with tqdm(total=total, initial=done, unit="frame", dynamic_ncols=True) as bar:
            yield bar.update
        return
    start = last = time.monotonic()
    made = 0

    def advance() -> None:
        nonlocal made, last
        made, now = made + 1, time.monotonic()
        if now - last >= _LINE_SECONDS or done + made == total:
            last, rate = now, made / max(now - start, 1e-9)
            left = (total - done - made) / rate
            print(f"frame {done + made}/{total}: {rate:.1f} frames/s, {left / 60:.1f} min left", flush=True)

    yield advance
