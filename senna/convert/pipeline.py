"""nuScenes to records: frame by frame, so that memory does not grow with their number and a run may stop at any moment."""

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
from senna.convert.captioners import Captioner, Request
from senna.convert.facts import Frame
from senna.convert.frames import frames_of
from senna.convert.journal import Part, open_part
from senna.convert.quality import asked_view, facts_of
from senna.convert.questions import Answer, Templates, questions_of, records_of
from senna.convert.shards import Scene
from senna.errors import DataError, UsageError
from senna.views import VIEWS

if TYPE_CHECKING:
    from nuscenes.nuscenes import NuScenes

ANNOTATIONS = "annotations"
_LINE_SECONDS = 10.0  # between two lines of progress where there is no terminal


@dataclass(frozen=True)
class Source:
    """Where frames come from.

    Attributes:
        tables: the data set's, loaded (``senna.convert.frames.load_tables``).
        can_bus: the folder of its CAN bus messages, None without.
    """

    tables: "NuScenes"
    can_bus: Path | None = None
    compat: str | None = None

    def frames(self, scenes: Sequence[str]) -> Iterator[Frame]:
        """The key frames of scenes, in the order of their names here."""
        return frames_of(self.tables, self.can_bus, scenes, self.compat)


class Images:
    """Which image files are there. A folder is listed once: asking for each file takes long on a network's disk."""

    def __init__(self, dataroot: Path) -> None:
        self.dataroot = dataroot
        self._folders: dict[str, set[str]] = {}

    def has(self, path: str) -> bool:
        """Whether there is a file of this path, relative to the data set's root."""
        folder, name = os.path.split(path)
        if folder not in self._folders:
            try:
                self._folders[folder] = set(os.listdir(self.dataroot / folder))
            except OSError:
                self._folders[folder] = set()
        return name in self._folders[folder]


def check_images(source: Source, scenes: Sequence[Scene], images: Images) -> None:
    """Raise UsageError where image files of the scenes are missing, naming the first and how many they are."""
    missing, first, total = 0, "", 0
    samples = {one["name"]: one["first_sample_token"] for one in source.tables.scene}
    for scene in scenes:
        token = samples[scene.name]
        for _ in range(scene.frames):
            sample = source.tables.get("sample", token)
            token = sample["next"]
            for view in VIEWS:
                data = sample["data"].get(f"CAM_{view.upper().replace(' ', '_')}")
                path = source.tables.get("sample_data", data)["filename"] if data else ""
                total += 1
                if path and not images.has(path):
                    missing, first = missing + 1, first or path
            if not token:
                break
    if missing:
        raise UsageError(
            f"{missing} of {total} image files are not in {images.dataroot}; the first is {first}. Unpack the missing "
            "parts of nuScenes there, or go on without them: --allow-missing-images"
        )


@dataclass
class _Waiting:
    """A frame, what the captioner is to be asked about it, and what is missing."""

    frame: Frame
    split: str
    requests: list[Request]
    missing: int  # image files


def convert_part(
    source: Source, scenes: Sequence[Scene], folder: Path, captioner: Captioner, templates: Templates, images: Images
) -> Part:
    """Convert a shard's scenes into ``folder``, from where an earlier run of it stopped.

    Raises SennaError as the captioner, the data and the disk do; what is finished by then is kept.
    """
    total = sum(scene.frames for scene in scenes)
    part = open_part(folder)
    try:
        if part.frames or part.lost:
            lost = f"; {part.lost} were not whole and are made again" if part.lost else ""
            print(f"going on: {part.frames} of {total} frames are there already{lost}", flush=True)
        with _progress(total, part.frames) as advance:
            frames = _to_do(source, scenes, part)
            waiting = (_wait(frame, split, captioner, templates, images) for frame, split in frames)
            for batch in _batches(waiting, captioner.window):
                requests = [request for one in batch for request in one.requests]
                captions = iter(ask(captioner, requests) if requests else [])
                for one in batch:
                    _append(part, one, [next(captions) for _ in one.requests], captioner.name, templates)
                    advance()
        if part.frames != total:
            raise DataError(
                f"{source.tables.dataroot}: {total} frames were to be read, and the chains of its scenes have "
                f"{part.frames}; the tables do not hold together, unpack them anew"
            )
        part.finish()
    finally:
        part.close()
    return part


def _to_do(source: Source, scenes: Sequence[Scene], part: Part) -> Iterator[tuple[Frame, str]]:
    """Frames that the part does not have yet, with the split of each."""
    done, rest = part.frames, list(scenes)
    while rest and done >= rest[0].frames:
        done -= rest.pop(0).frames
    wanted = {scene.name: scene for scene in rest}
    for name, frames in groupby(source.frames(list(wanted)), key=lambda frame: frame.scene):
        for place, frame in enumerate(frames):
            if place == done - 1 and frame.token != part.last:
                raise DataError(
                    f"{part.folder} ends with frame {part.last} where {source.tables.dataroot} has {frame.token}: another "
                    "data set, or it changed; delete the folder to begin anew"
                )
            if done <= place < wanted[name].frames:
                yield frame, wanted[name].split
        done = 0


def _wait(frame: Frame, split: str, captioner: Captioner, templates: Templates, images: Images) -> _Waiting:
    there = {view: images.has(path) for view, path in zip(VIEWS, frame.images, strict=True)}
    paths = dict(zip(VIEWS, frame.images, strict=True))
    blind = captioner.name == ANNOTATIONS  # it reads the tables, so that it can answer without the picture
    requests = [
        Request(frame, one.view, images.dataroot / paths[one.view], one.kind, one.text)
        for one in questions_of(frame, templates)
        if one.answer is None and (blind or there[one.view])
    ]
    return _Waiting(frame, split, requests, sum(not here for here in there.values()))


def _batches(waiting: Iterable[_Waiting], window: int) -> Iterator[list[_Waiting]]:
    """As many frames at a time as give the captioner enough to do."""
    batch: list[_Waiting] = []
    for one in waiting:
        batch.append(one)
        if sum(len(each.requests) for each in batch) >= window:
            yield batch
            batch = []
    if batch:
        yield batch


def _append(part: Part, one: _Waiting, captions: Sequence[Caption], name: str, templates: Templates) -> None:
    """Make a frame's records and write them. A caption that cannot be used stays, marked; an empty one is left out."""
    answers, problems, blind = {}, {}, name == ANNOTATIONS
    for request, caption in zip(one.requests, captions, strict=True):
        if caption.text:
            answers[request.kind, request.view] = Answer(caption.text, name)
        elif blind:
            continue  # it has nothing to say about this, and no more was promised
        if caption.problems:
            problems[request.kind, request.view] = list(caption.problems)
    records = records_of(one.frame, answers, templates)
    for record in records:
        if found := problems.get((record["kind"], asked_view(record))):
            record["problems"] = found
    said = [f"caption {trouble}: {kind}, {view} view" for (kind, view), found in problems.items() for trouble in found]
    part.append(one.split, records, facts_of(one.frame, records, said, one.missing))


@contextmanager
def _progress(total: int, done: int) -> Iterator[Callable[[], None]]:
    """A bar with frames a second and time left on a terminal; elsewhere a line now and then. Call what it gives, each frame."""
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
