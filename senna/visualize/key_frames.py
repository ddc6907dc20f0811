"""The key frames of a file of records, in driving order."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from senna.kinds import TRAJECTORY
from senna.record_file import RecordFile
from senna.records import Record, asked_views
from senna.views import VIEWS, image_block, paths_by_camera, prompt_views

_LONGEST = 80  # characters of a scene token in a file name


@dataclass(frozen=True)
class KeyFrame:
    """A key frame with its images and records.

    Attributes:
        scene: the scene_token of its records, "" without one.
        token: the token of its records, "" without one.
        number: position in the scene, from 1.
        count: number of frames of the scene.
        paths: view -> image path as in the records, in the order of ``VIEWS``.
        records: indices of its records in the file, ascending.
        plan: index of its plan record, None without one.
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
        """Return the file name of its picture, without suffix."""
        return f"{file_name(self.scene)}_{self.number:04d}"


def file_name(scene: str) -> str:
    """Return a scene token as a part of a file name; where characters must be replaced, a hash keeps names distinct."""
    if not scene:
        return "frames"
    plain = re.sub(r"[^A-Za-z0-9.-]+", "-", scene)[:_LONGEST].strip(".-")
    return plain if plain == scene else f"{plain}-{hashlib.sha256(scene.encode()).hexdigest()[:8]}"


@dataclass
class _Group:
    record: Record  # the record with the most images
    paths: dict[str, str]
    records: list[int]


def key_frames(records: RecordFile) -> list[KeyFrame]:
    """Return the frames that have images: scenes in file order, the frames of a scene in driving order.

    Records belong to one frame if they show the same images (``RecordFile.frames``) or have the same token. One record is
    read per set of images.
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
        driven = driving_order([(_text(group.record, "token"), _text(group.record, "prev")) for group in members])
        for number, group in enumerate((members[index] for index in driven), 1):
            indices = sorted(group.records)
            plan = next((index for index in indices if records.kinds[index] == plan_kind), None)
            token = _text(group.record, "token")
            found.append(KeyFrame(scene, token, number, len(members), group.paths, indices, plan))
    return found


def driving_order(frames: Sequence[tuple[str, str]]) -> list[int]:
    """Return indices of (token, previous token) pairs such that each frame follows its predecessor; else in given order."""
    index_of = {token: index for index, (token, _) in enumerate(frames) if token}
    after = {index_of[previous]: index for index, (_, previous) in enumerate(frames) if previous in index_of}
    followers, ordered, seen = set(after.values()), [], set()
    heads = [index for index in range(len(frames)) if index not in followers]
    for head in [*heads, *range(len(frames))]:  # the second: frames that form a ring
        index: int | None = head
        while index is not None and index not in seen:
            seen.add(index)
            ordered.append(index)
            index = after.get(index)
    return ordered


def view_paths(record: Mapping[str, Any]) -> dict[str, str]:
    """Return view -> path for the images of a record, at most six.

    Views come from the cameras in the paths, else from the prompt's tags, else from the order of ``VIEWS``.
    """
    several, single = record.get("images"), record.get("image")
    named = several if isinstance(several, list) and several else [single]
    paths = [path for path in named if isinstance(path, str) and path]
    if by_camera := paths_by_camera(paths):
        return by_camera
    asked = asked_views(record)
    tagged = len(asked) == len(paths) == len(set(asked)) and None not in asked
    found = dict(zip(asked if tagged else VIEWS, paths, strict=False))
    return {view: found[view] for view in VIEWS if view in found}


def front_description(records: RecordFile, frame: KeyFrame) -> int | None:
    """Return the index of the frame's description of the front view, None without one."""
    if "description" not in records.kind_names:
        return None
    kind = records.kind_names.index("description")
    return next((index for index in frame.records if records.kinds[index] == kind and _is_front(records[index])), None)


def trajectory_record(records: RecordFile, frame: KeyFrame) -> int | None:
    """Return the index of the frame's record of a trajectory, None without one."""
    return next((index for index in frame.records if records.kind_names[records.kinds[index]] == TRAJECTORY), None)


def _is_front(record: Record) -> bool:
    """Return whether a description is about the front view: by its field ``view``, else by its id or its only image."""
    if "view" in record:
        return record["view"] == "front"
    # Records written before the field existed: their ids end with the view.
    views = "|".join(sorted(VIEWS, key=len, reverse=True)).replace(" ", "-")
    if found := re.search(rf"-({views})$", _text(record, "id")):
        return found[1] == "front"
    return prompt_views(question_of(record)) == ("front",)


def question_of(record: Mapping[str, Any]) -> str:
    """Return the last question with its image block, "" without one."""
    return next((turn["value"] for turn in reversed(record["conversations"]) if turn["from"] == "human"), "")


def asked_and_answered(record: Mapping[str, Any]) -> tuple[list[dict[str, str]], str | None]:
    """Return the turns before the last answer, and the answer; None where the record ends with a question."""
    turns = record["conversations"]
    return (turns[:-1], turns[-1]["value"]) if turns[-1]["from"] == "gpt" else (list(turns), None)


def make_question(text: str, views: Iterable[str]) -> list[dict[str, str]]:
    """Return a conversation that asks a question about the given views."""
    return [{"from": "human", "value": image_block(tuple(views)) + text}]


def find_image(path: str, folders: Sequence[Path]) -> Path:
    """Return the path of an image in the first folder that has it, else its path in the first folder."""
    candidates = [folder / path for folder in folders]
    return next((candidate for candidate in candidates if candidate.exists()), candidates[0])


def _text(record: Mapping[str, Any], key: str) -> str:
    value = record.get(key)
    return value if isinstance(value, str) else ""
