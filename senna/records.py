"""The record of questions and answers: the one file format that both halves of the project share.

A file is a JSON list (the published format) or JSON Lines. A record is a dict with ``conversations``, a list of
``{"from": "human" | "gpt", "value": str}``, and the keys of its source:

- LLaVA-Pretrain: ``id``, ``image``;
- Senna: ``token``, ``image`` (front), ``images`` (six paths; the records we write follow ``senna.views.VIEWS``), ``prev``,
  ``next``, ``scene_token``, ``fut_valid_flag``, ``ego_fut_trajs``;
- written by this project in addition: ``id``, ``kind``, ``view``, ``command``, ``speed``; and for a trajectory ``plan`` and
  ``plan_at``, the plan that its question states and the offsets at which it stands there.

``senna.record_file`` reads files of records.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypedDict

from senna import kinds
from senna.errors import DataError, UsageError
from senna.files import atomic_write
from senna.record_checks import check_count, check_values, shortened
from senna.scripts_without_blanks import count_words
from senna.views import IMAGE_TOKEN, order_paths, paths_by_camera, prompt_views

HUMAN, GPT = "human", "gpt"
"""The two roles of a conversation: questions and answers."""

Turn = TypedDict("Turn", {"from": str, "value": str})
"""One message of a conversation; ``from`` is "human" or "gpt"."""


class _RequiredKeys(TypedDict):
    conversations: list[Turn]


class Record(_RequiredKeys, total=False):
    """A record of questions and answers; only ``conversations`` is required."""

    id: str
    token: str
    image: str | None
    images: list[str]
    kind: str | None
    view: str
    command: str
    speed: float | None
    plan: str
    plan_at: list[int]
    scene_token: str
    prev: str
    next: str
    fut_valid_flag: bool
    ego_fut_trajs: list[list[float]]


_CONVERSATIONS = "give it 'conversations', a list of {'from': 'human' or 'gpt', 'value': text}"

# The start of an answer that may have a known form: "KEEP,", "Object 1", "Red", "0.01,2.51". A quick check that captions fail.
_FORMAL = re.compile(r"\s*(?:\w+(?:\s*,|\s+\d|\.?\s*\Z)|-?\d+\.\d|-\d|\Z)")


def write_records(path: str | Path, records: Iterable[Mapping[str, Any]]) -> int:
    """Write records atomically as JSON Lines (``.jsonl``) or a JSON list (``.json``) and return their number.

    Raises:
        UsageError: the path has another suffix.
        DataError: a record cannot be written as JSON in UTF-8; the error names it.
        SennaError: the file cannot be written, for example because the disk is full; an older file stays as it was.
    """
    path = Path(path)
    if path.suffix not in (".json", ".jsonl"):
        raise UsageError(f"{path}: unknown format of records {path.suffix!r}", remedy="end the name in .json or .jsonl")
    before, between, after = ("[\n", ",\n", "\n]\n") if path.suffix == ".json" else ("", "\n", "\n")
    count = 0
    with atomic_write(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.write(before)
        for count, record in enumerate(records, start=1):
            file.write((between if count > 1 else "") + _as_json(path, record, count - 1))
        file.write(after if count or path.suffix == ".json" else "")
    return count


def _as_json(path: Path, record: Mapping[str, Any], index: int) -> str:
    try:
        text = json.dumps(record, ensure_ascii=False)
        text.encode()
    except (ValueError, TypeError, RecursionError) as error:
        name = shortened(record_name(record, index)).strip('"')
        raise DataError(
            f"cannot be written as JSON: {error}", remedy="correct or remove it", file=path, record=name
        ) from error
    return text


def record_name(record: Mapping[str, Any], index: int | str) -> str:
    """Return a record's ``id``, else its ``token``, else its index."""
    return str(record.get("id") or record.get("token") or index)


def record_scene(record: Mapping[str, Any]) -> str:
    """Return the ``scene_token`` of a record, "" if it has none."""
    return str(record.get("scene_token") or "")


def image_paths(record: Mapping[str, Any]) -> list[str]:
    """Return the image paths that a record's questions refer to: ``images`` if it has several ``<image>``, else ``image``.

    If the preferred key is absent, the other one is used; without both the list is empty. The number of paths may differ
    from the number of ``<image>``, which the dataset reports.

    Raises:
        DataError: a path is not a string.
    """
    placeholders = sum(question.count(IMAGE_TOKEN) for question in _questions(record))
    keys = ("images", "image") if placeholders > 1 else ("image", "images")
    value = next((record[key] for key in keys if record.get(key)), [])
    paths = [value] if isinstance(value, str) else value
    if not isinstance(paths, list) or not all(isinstance(path, str) and path for path in paths):
        raise DataError(
            f"image paths must be text, got {value!r}", remedy="give 'image' one path and 'images' a list of paths"
        )
    return list(paths)


def asked_views(record: Mapping[str, Any]) -> list[str | None]:
    """Return, for each ``<image>`` in the questions of a record, the view in its tag, None without a tag."""
    return [view for question in _questions(record) for view in prompt_views(question)]


def _questions(record: Mapping[str, Any]) -> list[str]:
    return [turn["value"] for turn in record["conversations"] if turn["from"] == "human"]


def prompt_images(record: Mapping[str, Any]) -> list[str]:
    """Return ``image_paths`` in the order of the record's ``<image>``, by camera if paths and prompt name cameras.

    A prompt with view tags takes its paths from ``images`` even if it shows one view, which need not be ``image``. See
    ``senna.views.order_paths``. Answers do not matter: an ``<image>`` there leaves the order as it is.

    Raises:
        DataError: a path is not a string, or no path belongs to a view that the prompt asks for.
    """
    paths = image_paths(record)
    views = asked_views(record)
    images = record.get("images")
    if any(views) and isinstance(images, list) and all(isinstance(path, str) for path in images):
        paths = images if set(views) - {None} <= paths_by_camera(images).keys() else paths
    return order_paths(paths, views)


def record_kind(record: Mapping[str, Any]) -> str:
    """Return a record's ``kind``; without one, the kind that the form of its answers shows (``senna.kinds.recognize``).

    Raises:
        DataError: ``kind`` is not text. The error does not name the record.
    """
    kind = record.get("kind")
    if kind is not None and not isinstance(kind, str):
        raise DataError(
            f"has a 'kind' that is not text but {shortened(kind)}", remedy="remove it, or name the kind of question"
        )
    return kind or _kind_of_answers(record["conversations"])


def _kind_of_answers(turns: list[Turn]) -> str:
    if turns[-1]["from"] == GPT and not _FORMAL.match(turns[-1]["value"]):
        return kinds.OTHER
    return kinds.recognize(turn["value"] for turn in turns if turn["from"] == GPT)


def validate_record(record: object) -> tuple[Record, int, int]:
    """Return a record, its number of words and its number of ``<image>`` placeholders.

    Raises:
        DataError: the value is not a record, or has values that nothing can use (``senna.record_checks``). The error does
            not name the record.
    """
    if not isinstance(record, dict):
        raise DataError(f"is not an object but {shortened(record)}", remedy=_CONVERSATIONS)
    turns = record.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise DataError("has no 'conversations'", remedy=_CONVERSATIONS)
    words = images = 0
    for number, turn in enumerate(turns):
        if not isinstance(turn, dict) or turn.get("from") not in (HUMAN, GPT):
            raise DataError(
                f"has a turn {number} that is not from 'human' or 'gpt': {shortened(turn)}", remedy=_CONVERSATIONS
            )
        value = turn.get("value")
        if not isinstance(value, str):
            raise DataError(f"has a turn {number} whose 'value' is not text: {shortened(turn)}", remedy=_CONVERSATIONS)
        words += count_words(value)
        images += value.count(IMAGE_TOKEN)
    check_count(images)
    check_values(record)
    return record, words, images  # type: ignore[return-value]  # checked above
