"""From nuScenes to records, frame by frame: memory does not grow with the number of frames, and a run can stop anytime.

`Preparer` turns a scene into frames with their questions, a captioner answers those that the tables do not, and `finish`
makes the records. `convert_here` does this in one process; ``senna.convert.on_ray`` does it on many.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from senna.convert.caption_checks import Caption, ask
from senna.convert.caption_limits import DEFAULT_MAX_REFUSED, CaptionLimits
from senna.convert.captioners import ANNOTATIONS, Captioner, Request
from senna.convert.facts import Frame
from senna.convert.frames import Source
from senna.convert.images import Images
from senna.convert.journal import FUTURES, Journal, open_journal
from senna.convert.progress import Progress
from senna.convert.quality import LEFT_OUT, facts_of
from senna.convert.questions import Answer, Question, questions_of, records_of
from senna.convert.scenes import Scene
from senna.errors import DataError
from senna.records import Record
from senna.templates import Templates
from senna.views import VIEWS

if TYPE_CHECKING:
    from nuscenes.nuscenes import NuScenes


@dataclass
class PreparedFrame:
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


@dataclass(frozen=True)
class FinishedFrame:
    """A frame's records and its facts for the journal (``senna.convert.quality.facts_of``).

    Attributes:
        answers: number of answers that a captioner gave.
    """

    split: str
    records: list[Record]
    facts: dict[str, Any]
    answers: int = 0


@dataclass(frozen=True)
class Preparer:
    """Computes frames and their questions.

    Attributes:
        needs_images: whether a captioner reads the images.
        leave_out: whether frames with a missing image get no records and no questions.
    """

    source: Source
    templates: Templates
    images: Images
    needs_images: bool
    leave_out: bool = False

    def prepare(self, scenes: Iterable[Scene]) -> Iterator[PreparedFrame]:
        """Yield the frames of scenes that are not finished."""
        for scene in scenes:
            for index, frame in enumerate(self.source.frames([scene.name])):
                if scene.done <= index < scene.frames:
                    yield self._prepare(frame, scene.split)

    def _prepare(self, frame: Frame, split: str) -> PreparedFrame:
        """Select the questions for the captioner: those that the tables do not answer and whose image exists."""
        paths: dict[str, str] = dict(zip(VIEWS, frame.images, strict=True))
        exists = {view: self.images.has(path) for view, path in paths.items()}
        missing = sum(not found for found in exists.values())
        if self.leave_out and missing:
            return PreparedFrame(frame, split, [], [], missing, is_left_out=True)
        for view in VIEWS if self.needs_images else ():
            self.images.check(paths[view])
        questions = questions_of(frame, self.templates)
        requests = [
            Request(frame, question.view, self.images.dataroot / paths[question.view], question.kind, question.text)
            for question in questions
            if question.answer is None and (exists[question.view] or not self.needs_images)
        ]
        return PreparedFrame(frame, split, questions, requests, missing)


class Engine(Protocol):
    """Computes the finished frames of scenes, in this process or in others."""

    def convert(self, scenes: Sequence[Scene], limits: CaptionLimits) -> Iterator[FinishedFrame]:
        """Yield the frames of scenes that are not finished, in order. The answers of a model are checked by ``limits``."""
        ...

    def state(self) -> str:
        """Return a few words about the captioners for the progress bar, "" for nothing."""
        ...


@dataclass
class LocalEngine:
    """Converts in this process."""

    preparer: Preparer
    captioner: Captioner

    def convert(self, scenes: Sequence[Scene], limits: CaptionLimits) -> Iterator[FinishedFrame]:
        """Yield the frames of scenes that are not finished, in order."""
        captioned = caption(self.preparer.prepare(scenes), self.captioner)
        if self.captioner.name == ANNOTATIONS:
            return (finish(*pair, ANNOTATIONS) for pair in captioned)
        return finish_checked(captioned, self.captioner.name, limits)

    def state(self) -> str:
        """Return "": there is one captioner, and without it the run ends."""
        return ""


def convert_frames(
    tables: "NuScenes",
    scenes: Sequence[Scene],
    folder: Path,
    engine: Engine,
    max_refused: str = DEFAULT_MAX_REFUSED,
) -> Journal:
    """Convert scenes into ``folder``, starting where an earlier, interrupted call stopped.

    Args:
        max_refused: how many images the captioner may refuse, see ``senna.convert.caption_limits.allowed_refusals``.

    Raises:
        SennaError: the captioner, the data set or the disk failed. Finished frames stay saved.
    """
    total = sum(scene.frames for scene in scenes)
    journal = open_journal(folder)
    try:
        if journal.frames or journal.discarded:
            again = f"; {journal.discarded} incomplete frames are converted again" if journal.discarded else ""
            print(f"resuming: {journal.frames} of {total} frames are done{again}", flush=True)
        limits = CaptionLimits(max_refused, total * len(VIEWS), has_text=journal.frames > 0)
        with Progress(total, journal.frames, engine.state) as progress:
            for frame in engine.convert(unfinished(tables, scenes, journal), limits):
                journal.append(frame.split, frame.records, frame.facts)
                progress.advance(frame.answers)
        if journal.frames != total:
            raise DataError(
                f"the tables are inconsistent: they list {total} frames, but the chains of their scenes have {journal.frames}",
                remedy="unpack the tables again",
                file=tables.dataroot,
            )
        journal.finish()
    finally:
        journal.close()
    return journal


def unfinished(tables: "NuScenes", scenes: Sequence[Scene], journal: Journal) -> list[Scene]:
    """Return the scenes that have frames which the journal does not have.

    Raises:
        DataError: the journal's last frame is not the one that the tables have at this position.
    """
    done = journal.frames
    for index, scene in enumerate(scenes):
        if done <= scene.frames and done:
            _check_last(tables, scene.name, done - 1, journal)
        if done < scene.frames:
            return [replace(scene, done=done), *scenes[index + 1 :]]
        done -= scene.frames
    return []


def _check_last(tables: "NuScenes", scene: str, index: int, journal: Journal) -> None:
    token = next(row["first_sample_token"] for row in tables.scene if row["name"] == scene)
    for _ in range(index):
        token = tables.get("sample", token)["next"] if token else ""
    if token != journal.last:
        raise DataError(
            f"it ends with frame {journal.last}, where {tables.dataroot} has {token}: the data set is another one, or it "
            "changed",
            remedy="delete the folder to start again",
            file=journal.folder,
        )


def caption(
    prepared: Iterable[PreparedFrame], captioner: Captioner
) -> Iterator[tuple[PreparedFrame, Sequence[Caption]]]:
    """Yield each frame with its captions, in order."""
    for batch in _batches(prepared, captioner.window):
        requests = [request for item in batch for request in item.requests]
        captions = iter(ask(captioner, requests) if requests else [])
        for item in batch:
            yield item, [next(captions) for _ in item.requests]


def _batches(prepared: Iterable[PreparedFrame], window: int) -> Iterator[list[PreparedFrame]]:
    """Group frames until a group has ``window`` requests or more, which keeps the captioner busy."""
    batch: list[PreparedFrame] = []
    for item in prepared:
        batch.append(item)
        if sum(len(waiting.requests) for waiting in batch) >= window:
            yield batch
            batch = []
    if batch:
        yield batch


def finish_checked(
    captioned: Iterable[tuple[PreparedFrame, Sequence[Caption]]], captioner: str, limits: CaptionLimits
) -> Iterator[FinishedFrame]:
    """Yield the finished frames of a captioner that may fail: the first ones only after an answer that has text.

    Raises:
        SennaError: see `CaptionLimits`.
    """
    held: list[FinishedFrame] = []
    for item, captions in captioned:
        limits.check(item.requests, captions)
        held.append(finish(item, captions, captioner))
        if not limits.are_all_empty:
            yield from held
            held.clear()
    if held:
        limits.fail()


def finish(item: PreparedFrame, captions: Sequence[Caption], captioner: str) -> FinishedFrame:
    """Return a frame's records. Captions with problems stay, marked; empty captions are left out."""
    answers, problems = {}, {}
    for request, found in zip(item.requests, captions, strict=True):
        if found.text:
            answers[request.kind, request.view] = Answer(found.text, captioner)
        elif captioner == ANNOTATIONS:
            continue  # this captioner leaves some questions unanswered by design, which is no problem
        if found.problems:
            problems[request.kind, request.view] = list(found.problems)
    records = records_of(item.frame, item.questions, answers)
    for record in records:
        if marked := problems.get((record["kind"], record["view"])):
            record["problems"] = marked
    reported = [
        f"caption {problem}: {kind}, {view} view" for (kind, view), texts in problems.items() for problem in texts
    ]
    facts = facts_of(item.frame, records, reported, item.missing)
    if item.is_left_out:
        facts |= {LEFT_OUT: True, "problems": []}
    elif item.frame.futures is not None:
        facts |= {FUTURES: item.frame.futures.as_json()}
    return FinishedFrame(item.split, records, facts, 0 if captioner == ANNOTATIONS else len(captions))
