"""From a file of records to key frames in the order in which they were driven: what there is to show, and its names."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from senna.record_file import RecordFile
from senna.records import Record
from senna.views import VIEWS, image_block, paths_by_camera, prompt_views

_LONGEST = 80  # characters of a scene in a file name


@dataclass(frozen=True)
class KeyFrame:
    """A moment with its pictures.

    Attributes:
        scene: the records' scene_token, "" without.
        token: the records' token, "" without.
        number: its place in the scene, from 1.
        count: frames of the scene.
        paths: the image of each view as the records name it, in the order of ``VIEWS``.
        records: the places of its records in the file, in order.
        plan: the place of its plan, None without.
    """

    scene: str
    token: str
    number: int
    count: int
    paths: Mapping[str, str]
    records: Sequence[int]
    plan: int | None

    @property
    def name(self) -> str:
        """How its picture's file is called, without suffix."""
        return f"{file_name(self.scene)}_{self.number:04d}"


def file_name(scene: str) -> str:
    """A scene as a part of a file name: itself where that is possible, else with a few letters that keep scenes apart."""
    if not scene:
        return "frames"
    plain = re.sub(r"[^A-Za-z0-9.-]+", "-", scene)[:_LONGEST].strip(".-")
    return plain if plain == scene else f"{plain}-{hashlib.sha256(scene.encode()).hexdigest()[:8]}"


@dataclass
class _Group:
    record: Record  # the one with the most images
    paths: dict[str, str]
    records: list[int]


def key_frames(records: RecordFile) -> list[KeyFrame]:
    """The frames of a file that have pictures: scene by scene as the file has them, within a scene as they were driven.

    Records belong together that show the same images (``RecordFile.frames``) or have the same token. Of each set of images
    one record is read.
    """
    order = np.argsort(records.frames, kind="stable")
    starts = np.flatnonzero(np.diff(records.frames[order], prepend=-1))
    groups: dict[tuple[str, str | int], _Group] = {}
    for members in np.split(order, starts[1:]):
        record = records[int(members[0])]
        paths = view_paths(record)
        if not paths:
            continue
        token = str(record.get("token") or "")
        key = (str(record.get("scene_token") or ""), token or int(members[0]))
        group = groups.setdefault(key, _Group(record, paths, []))
        if len(paths) > len(group.paths):
            group.record, group.paths = record, paths
        group.records.extend(members.tolist())
    plan_kind = records.kind_names.index("plan") if "plan" in records.kind_names else -1
    scenes: dict[str, list[_Group]] = {}
    for (scene, _), group in groups.items():
        scenes.setdefault(scene, []).append(group)
    found = []
    for scene, members in scenes.items():
        driven = in_order([(_text(one.record, "token"), _text(one.record, "prev")) for one in members])
        for number, group in enumerate((members[place] for place in driven), 1):
            places = sorted(group.records)
            plan = next((place for place in places if records.kinds[place] == plan_kind), None)
            token = _text(group.record, "token")
            found.append(KeyFrame(scene, token, number, len(members), group.paths, places, plan))
    return found


def in_order(frames: Sequence[tuple[str, str]]) -> list[int]:
    """The places of (token, token before it) so that each comes after the one before it; as they are where nothing is said."""
    place_of = {token: place for place, (token, _) in enumerate(frames) if token}
    after = {place_of[before]: place for place, (_, before) in enumerate(frames) if before in place_of}
    followers, ordered, seen = set(after.values()), [], set()
    heads = [place for place in range(len(frames)) if place not in followers]
    for head in [*heads, *range(len(frames))]:  # the second: frames that name each other in a ring
        place: int | None = head
        while place is not None and place not in seen:
            seen.add(place)
            ordered.append(place)
            place = after.get(place)
    return ordered


def view_paths(record: Mapping[str, Any]) -> dict[str, str]:
    """The image of each view that a record names: by the cameras in the paths, else by the prompt's tags, else in the
    order of ``VIEWS``; six at most.
    """
    several, single = record.get("images"), record.get("image")
    named = several if isinstance(several, list) and several else [single]
    paths = [path for path in named if isinstance(path, str) and path]
    if by_camera := paths_by_camera(paths):
        return by_camera
    asked = [view for turn in record["conversations"] for view in prompt_views(turn["value"])]
    tagged = len(asked) == len(paths) == len(set(asked)) and None not in asked
    found = dict(zip(asked if tagged else VIEWS, paths, strict=False))
    return {view: found[view] for view in VIEWS if view in found}


def front_description(records: RecordFile, frame: KeyFrame) -> int | None:
    """The place of the frame's description of the front view, None without."""
    if "description" not in records.kind_names:
        return None
    kind = records.kind_names.index("description")
    return next((place for place in frame.records if records.kinds[place] == kind and _is_front(records[place])), None)


def _is_front(record: Record) -> bool:
    """Ours end their ids with the view (``-description-back-left``); one that shows a single view is about that."""
    if found := re.search(
        rf"-({'|'.join(sorted(VIEWS, key=len, reverse=True)).replace(' ', '-')})$", _text(record, "id")
    ):
        return found[1] == "front"
    return prompt_views(question_of(record)) == ("front",)


def question_of(record: Mapping[str, Any]) -> str:
    """The last question, with its image block; "" without."""
    return next((turn["value"] for turn in reversed(record["conversations"]) if turn["from"] == "human"), "")


def asked_and_answered(record: Mapping[str, Any]) -> tuple[list[dict[str, str]], str | None]:
    """The turns up to the last answer, and that answer; None where the record ends with its question."""
    turns = record["conversations"]
    return (turns[:-1], turns[-1]["value"]) if turns[-1]["from"] == "gpt" else (list(turns), None)


def make_question(text: str, views: Iterable[str]) -> list[dict[str, str]]:
    """A conversation up to the answer: a question of ours about the views that there are."""
    return [{"from": "human", "value": image_block(tuple(views)) + text}]


def find_image(path: str, folders: Sequence[Path]) -> Path:
    """Where an image is: in the first of the folders that has it, else where the first would have it."""
    places = [folder / path for folder in folders]
    return next((place for place in places if place.exists()), places[0])


def _text(record: Mapping[str, Any], key: str) -> str:
    value = record.get(key)
    return value if isinstance(value, str) else ""
