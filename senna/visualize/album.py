"""From a key frame to its picture: the files it names, what its records say, what the model says."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from senna.errors import DataError
from senna.evaluate.metrics.plan_prompt import Situation, parse_situation
from senna.meta_actions import MetaAction, parse_meta_action
from senna.record_file import RecordFile
from senna.records import prompt_images
from senna.templates import Templates
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
)
from senna.visualize.predictions import Answer, Question, Turns
from senna.visualize.road import camera_of_car

Ask = Callable[[KeyFrame, Question, Question | None], Answer]
"""Who answers: plan question, and description question where a description is wanted."""


@dataclass(frozen=True)
class Plan:
    """What is asked about a frame's plan, and what the records know of the answer.

    Attributes:
        turns: up to the answer.
        paths: of the images, in the order of the prompt.
        truth: None where no record has it.
        note: what is to be said of the question, "" for a record's own.
    """

    turns: Turns
    paths: Sequence[str]
    situation: Situation
    truth: MetaAction | None
    trajectory: Sequence[Sequence[float]]
    note: str = ""


def plan_of(records: RecordFile, frame: KeyFrame, templates: Templates) -> Plan:
    """The plan question of a frame: its record's, else one of ours, with what nobody knows called "not known"."""
    if frame.plan is not None:
        record = records[frame.plan]
        turns, answer = asked_and_answered(record)
        truth = parse_meta_action(answer) if answer else None
        trajectory = trajectory_of(record)
        return Plan(turns, images_of(records, frame.plan), parse_situation(question_of(record)), truth, trajectory)
    slots = {"command": "not known", "speed": templates["words"]["speed_unknown"]}
    turns = make_question(templates["plan"]["question"].format(**slots), frame.paths)
    trajectory = next((found for place in frame.records if (found := trajectory_of(records[place]))), [])
    note = "The records ask for no plan here. In the question that was asked, speed and route are called not known."
    return Plan(turns, list(frame.paths.values()), Situation(None, None), None, trajectory, note)


def images_of(records: RecordFile, place: int) -> list[str]:
    """The images of a record in the order of its prompt. Raises DataError, which names the record."""
    record = records[place]
    try:
        paths = prompt_images(record)
    except DataError as error:
        raise DataError(f"{records.name(place)}: {error}") from None
    shown = sum(turn["value"].count(IMAGE_TOKEN) for turn in record["conversations"])
    if shown != len(paths):
        raise DataError(
            f"{records.name(place)}: the text has {shown} {IMAGE_TOKEN}, the record names {len(paths)} images"
        )
    return paths


def trajectory_of(record: Mapping[str, Any]) -> list[list[float]]:
    """(T, 2): a record's ``ego_fut_trajs``; [] where there is none, or one that is not finite numbers."""
    try:
        points = np.asarray(record.get("ego_fut_trajs") or [], dtype=np.float64)
    except (TypeError, ValueError):
        return []
    fits = points.ndim == 2 and points.shape[1] >= 2 and np.isfinite(points).all()
    return points[:, :2].tolist() if fits else []


def open_upload(path: Path) -> Image.Image:
    """The image, RGB. Raises DataError, which says why it cannot be read but not where it is."""
    try:
        with Image.open(path) as image:
            image.load()
            return image.convert("RGB")
    except FileNotFoundError:
        raise DataError("no such image") from None
    except Image.UnidentifiedImageError:
        why = "an empty file" if not path.stat().st_size else "not an image"
        raise DataError(why) from None
    except Exception as error:  # Pillow's parsers raise what they stumble over: SyntaxError, struct.error, EOFError...
        raise DataError(f"damaged or truncated ({error})") from None


class Album:
    """Draws key frames of one file of records.

    Attributes:
        problems: a sentence for each image that could not be read, as they were met.
    """

    def __init__(
        self,
        records: RecordFile,
        folders: Sequence[Path],
        templates: Templates,
        ask: Ask | None,
        describe: bool = False,
    ) -> None:
        self.records, self.folders, self.templates = records, folders, templates
        self.ask, self.describe = ask, describe
        self.problems: list[str] = []

    def draw(self, frame: KeyFrame) -> tuple[Image.Image, int]:
        """The frame's picture, and how many of its images could not be read."""
        views, reasons = self._open(frame)
        pictures = {path: views[view] for view, path in frame.paths.items()}
        plan = plan_of(self.records, frame, self.templates)
        described = front_description(self.records, frame)
        wanted = self._description_question(frame, described, pictures) if self.describe else None
        said = self.ask(frame, Question(plan.turns, self._seen(plan.paths, pictures)), wanted)
        return draw_frame(views, self._facts(frame, plan, said, described, reasons)), len(reasons)

    def _open(self, frame: KeyFrame) -> tuple[dict[str, Image.Image | None], dict[str, str]]:
        views: dict[str, Image.Image | None] = {}
        reasons: dict[str, str] = {}
        for view, path in frame.paths.items():
            file = find_image(path, self.folders)
            try:
                views[view] = open_upload(file)
            except DataError as error:
                views[view], reasons[view] = None, f"{file.name}: {error}"
                self.problems.append(f"{file}: {error}")
        return views, reasons

    def _seen(self, paths: Sequence[str], pictures: Mapping[str, Image.Image | None]) -> list[Image.Image | None]:
        """The pictures at paths, from those that are open where they are among them; None for one that cannot be read."""
        found = []
        for path in paths:
            try:
                found.append(pictures[path] if path in pictures else open_upload(find_image(path, self.folders)))
            except DataError:
                found.append(None)
        return found

    def _description_question(
        self, frame: KeyFrame, described: int | None, pictures: Mapping[str, Image.Image | None]
    ) -> Question:
        if described is not None:
            turns, paths = asked_and_answered(self.records[described])[0], images_of(self.records, described)
        else:
            text = self.templates["description"]["question"].format(view="front")
            turns, paths = make_question(text, frame.paths), list(frame.paths.values())
        return Question(turns, self._seen(paths, pictures))

    def _facts(
        self, frame: KeyFrame, plan: Plan, said: Answer, described: int | None, reasons: Mapping[str, str]
    ) -> FrameFacts:
        descriptions = []
        if said.description is not None:
            descriptions.append(("The model describes the front view", said.description or "(nothing)"))
        record = {} if described is None else self.records[described]
        if record and (text := asked_and_answered(record)[1]):
            by = record.get("captioner")
            descriptions.append((f"The record describes it{f' (captioner: {by})' if by else ''}", text.strip()))
        notes = [*([plan.note] if plan.note and said.predicted else []), *said.notes]
        notes += [f"{view}: {reason}." for view, reason in reasons.items()]
        return FrameFacts(
            title=f"Scene {frame.scene}, frame {frame.number} of {frame.count}"
            if frame.scene
            else f"Frame {frame.number} of {frame.count}",
            subtitle=frame.token,
            predicted=said.predicted,
            truth=plan.truth,
            probabilities=said.probabilities,
            outside=said.outside,
            answer=said.answer,
            speed=plan.situation.speed,
            command=plan.situation.command,
            descriptions=descriptions,
            trajectory=plan.trajectory,
            camera=camera_of_car(frame.paths.get("front", "")),
            reasons=reasons,
            notes=notes,
        )
