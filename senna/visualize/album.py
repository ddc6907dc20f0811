"""From a key frame to its picture: images, facts of the records, predictions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from senna.errors import DataError
from senna.evaluate.metrics.plan_prompt import Situation, parse_situation
from senna.image_file import check_image_file
from senna.meta_actions import MetaAction, parse_meta_action
from senna.record_file import RecordFile
from senna.records import prompt_images
from senna.templates import Templates
from senna.trajectory import with_plan
from senna.views import IMAGE_TOKEN
from senna.visualize.facts import FrameFacts
from senna.visualize.frame import draw_frame
from senna.visualize.key_frames import (
    KeyFrame,
    asked_and_answered,
    find_image,
    front_description,
    make_question,
    question_of,
    trajectory_record,
)
from senna.visualize.predictions import Answer, Question, Turns, with_path
from senna.visualize.road import camera_of_car

_GIVE_IMAGE = "give a JPEG or PNG file"

Ask = Callable[[KeyFrame, Question, Question | None], Answer]
"""(frame, plan question, description question where a description is wanted) -> answers."""


@dataclass(frozen=True)
class Plan:
    """The plan question of a frame and its ground truth.

    Attributes:
        turns: the conversation without the answer.
        paths: image paths, in the order of the prompt.
        truth: the ground-truth plan, None where no record has it.
        note: a remark about the question, "" for a question from a record.
    """

    turns: Turns
    paths: Sequence[str]
    situation: Situation
    truth: MetaAction | None
    trajectory: Sequence[Sequence[float]]
    note: str = ""


def plan_of(records: RecordFile, frame: KeyFrame, templates: Templates) -> Plan:
    """Return the plan question of a frame from its record, else a question of ours that calls speed and command unknown."""
    if frame.plan is not None:
        record = records[frame.plan]
        turns, answer = asked_and_answered(record)
        truth = parse_meta_action(answer) if answer else None
        trajectory = trajectory_of(record)
        return Plan(turns, images_of(records, frame.plan), situation_of(record), truth, trajectory)
    slots = {"command": "not known", "speed": templates["words"]["speed_unknown"]}
    turns = make_question(templates["plan"]["question"].format(**slots), frame.paths)
    trajectory = next((found for index in frame.records if (found := trajectory_of(records[index]))), [])
    note = (
        "The records have no plan question for this frame. The question that was asked calls speed and route not known."
    )
    return Plan(turns, list(frame.paths.values()), Situation(None, None), None, trajectory, note)


def situation_of(record: Mapping[str, Any]) -> Situation:
    """Return command and speed of a plan record: its fields, else what its question says."""
    if "command" in record or "speed" in record:
        return Situation(record.get("command"), record.get("speed"))
    return parse_situation(question_of(record))


def images_of(records: RecordFile, index: int) -> list[str]:
    """Return the images of a record in the order of its prompt. Raises DataError that names the record."""
    record = records[index]
    try:
        paths = prompt_images(record)
    except DataError as error:
        raise DataError(f"{records.name(index)}: {error.message}", remedy=error.remedy, kind=error.kind) from None
    count = sum(turn["value"].count(IMAGE_TOKEN) for turn in record["conversations"])
    if count != len(paths):
        raise DataError(
            f"{records.name(index)}: the text has {count} {IMAGE_TOKEN}, the record names {len(paths)} images",
            remedy="give one image per placeholder",
        )
    return paths


def trajectory_of(record: Mapping[str, Any]) -> list[list[float]]:
    """Return a record's ``ego_fut_trajs``, (T, 2) metres; [] where it is missing or not finite."""
    try:
        points = np.asarray(record.get("ego_fut_trajs") or [], dtype=np.float64)
    except (TypeError, ValueError):
        return []
    fits = points.ndim == 2 and points.shape[1] >= 2 and np.isfinite(points).all()
    return points[:, :2].tolist() if fits else []


def open_upload(path: Path) -> Image.Image:
    """Open an image as RGB. Raises DataError that says why it cannot be read, without its path."""
    if path.exists() and not path.is_file():
        raise DataError("not a regular file", remedy=_GIVE_IMAGE)  # a pipe or a device could be read forever
    try:
        check_image_file(path)
    except DataError as error:
        raise DataError(error.message, remedy=error.remedy) from None
    try:
        with Image.open(path) as image:
            image.load()
            return image.convert("RGB")
    except FileNotFoundError:
        raise DataError(
            "no such image", remedy="copy it there, or correct its path", kind=DataError.MISSING_IMAGE
        ) from None
    except Image.UnidentifiedImageError:
        why = "an empty file" if not path.stat().st_size else "not an image"
        raise DataError(why, remedy=_GIVE_IMAGE) from None
    except Exception as error:  # Pillow's decoders raise many kinds: SyntaxError, struct.error, EOFError, ...
        raise DataError(f"damaged or truncated ({error})", remedy="copy it again") from None


class Album:
    """Draws the key frames of one file of records.

    Args:
        generate: answers a question with text; where it is given, the trajectory is predicted, given the predicted plan.

    Attributes:
        problems: a message for each image that could not be read.
    """

    def __init__(
        self,
        records: RecordFile,
        folders: Sequence[Path],
        templates: Templates,
        ask: Ask | None,
        describe: bool = False,
        generate: Callable[[Question], str | None] | None = None,
    ) -> None:
        self.records, self.folders, self.templates = records, folders, templates
        self.ask, self.describe, self.generate = ask, describe, generate
        self.problems: list[str] = []

    def draw(self, frame: KeyFrame) -> tuple[Image.Image, int]:
        """Return the picture of a frame and the number of its images that could not be read."""
        views, reasons = self._open(frame)
        images = {path: views[view] for view, path in frame.paths.items()}
        plan = plan_of(self.records, frame, self.templates)
        described = front_description(self.records, frame)
        wanted = self._description_question(frame, described, images) if self.describe else None
        answer = self.ask(frame, Question(plan.turns, self._images_at(plan.paths, images)), wanted)
        path = trajectory_record(self.records, frame)
        if self.generate is not None and path is not None and answer.predicted is not None:
            record = with_plan(self.records[path], str(answer.predicted))
            images_of_path = self._images_at(images_of(self.records, path), images)
            text = self.generate(Question(asked_and_answered(record)[0], images_of_path))
            answer = answer if text is None else with_path(answer, text)
        return draw_frame(views, self._facts(frame, plan, answer, described, reasons)), len(reasons)

    def _open(self, frame: KeyFrame) -> tuple[dict[str, Image.Image | None], dict[str, str]]:
        views: dict[str, Image.Image | None] = {}
        reasons: dict[str, str] = {}
        for view, path in frame.paths.items():
            file = find_image(path, self.folders)
            try:
                views[view] = open_upload(file)
            except DataError as error:
                views[view], reasons[view] = None, f"{file.name}: {error.message}"
                self.problems.append(f"{file}: {error.message}")
        return views, reasons

    def _images_at(self, paths: Sequence[str], opened: Mapping[str, Image.Image | None]) -> list[Image.Image | None]:
        """Return the images at paths, reusing opened ones; None for an image that cannot be read."""
        found = []
        for path in paths:
            try:
                found.append(opened[path] if path in opened else open_upload(find_image(path, self.folders)))
            except DataError:
                found.append(None)
        return found

    def _description_question(
        self, frame: KeyFrame, described: int | None, images: Mapping[str, Image.Image | None]
    ) -> Question:
        if described is not None:
            turns, paths = asked_and_answered(self.records[described])[0], images_of(self.records, described)
        else:
            text = self.templates["description"]["question"].format(view="front")
            turns, paths = make_question(text, frame.paths), list(frame.paths.values())
        return Question(turns, self._images_at(paths, images))

    def _facts(
        self, frame: KeyFrame, plan: Plan, answer: Answer, described: int | None, reasons: Mapping[str, str]
    ) -> FrameFacts:
        descriptions = []
        if answer.description is not None:
            descriptions.append(("The model describes the front view", answer.description or "(nothing)"))
        record = {} if described is None else self.records[described]
        if record and (text := asked_and_answered(record)[1]):
            by = record.get("captioner")
            descriptions.append((f"Description in the record{f' (captioner: {by})' if by else ''}", text.strip()))
        notes = [*([plan.note] if plan.note and answer.predicted else []), *answer.notes]
        notes += [f"{view}: {reason}." for view, reason in reasons.items()]
        return FrameFacts(
            title=f"Scene {frame.scene}, frame {frame.number} of {frame.count}"
            if frame.scene
            else f"Frame {frame.number} of {frame.count}",
            subtitle=frame.token,
            predicted=answer.predicted,
            truth=plan.truth,
            probabilities=answer.probabilities,
            outside=answer.outside,
            answer=answer.answer,
            speed=plan.situation.speed,
            command=plan.situation.command,
            descriptions=descriptions,
            trajectory=plan.trajectory,
            predicted_path=answer.path,
            camera=camera_of_car(frame.paths.get("front", "")),
            reasons=reasons,
            notes=notes,
        )
