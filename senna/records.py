"""The QA record, the one file format that both halves of the project share: read, write, validate.

A file is a JSON list (the published format) or JSON Lines. A record is a dict with ``conversations``, a list of
``{"from": "human" | "gpt", "value": str}``, and either of

- LLaVA-Pretrain: ``id``, ``image``;
- Senna: ``token``, ``image`` (front), ``images`` (six paths; ours in the order of ``senna.views.VIEWS``), ``prev``,
  ``next``, ``scene_token``, ``fut_valid_flag``, ``ego_fut_trajs``, and of ours ``id`` and ``kind``.

Reading maps the file into memory and parses a record when it is asked for: memory does not grow with the records'
texts. Only their places, lengths, kinds and frames are held, under 30 bytes a record.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from senna import kinds
from senna.errors import DataError, UsageError
from senna.files import atomic_write
from senna.views import IMAGE_TOKEN, order_paths, paths_by_camera, prompt_views

Record = dict[str, Any]

_ROLES = ("human", "gpt")

# How an answer of any of the forms begins: "KEEP,", "Object 1", "Red". A cheap look that captions do not pass.
_FORMAL = re.compile(r"\s*(?:\w+(?:\s*,|\s+\d|\.?\s*\Z)|\Z)")


def write_records(path: str | Path, records: Iterable[Mapping[str, Any]]) -> int:
    """Write records as JSON Lines (``.jsonl``) or a JSON list (``.json``) and return how many.

    The file appears under its name only when it is complete and on disk. Raises ``UsageError`` for another suffix and
    ``SennaError`` when it cannot be written, for want of space for example; a file that was there stays then.
    """
    path = Path(path)
    if path.suffix not in (".json", ".jsonl"):
        raise UsageError(f"{path}: records are written to .json or .jsonl")
    before, between, after = ("[\n", ",\n", "\n]\n") if path.suffix == ".json" else ("", "\n", "\n")
    count = 0
    with atomic_write(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.write(before)
        for count, record in enumerate(records, start=1):
            file.write((between if count > 1 else "") + json.dumps(record, ensure_ascii=False))
        file.write(after if count or path.suffix == ".json" else "")
    return count


def record_name(record: Mapping[str, Any], index: int | str) -> str:
    """A record's ``id``, else its ``token``, else its index."""
    return str(record.get("id") or record.get("token") or index)


def image_paths(record: Mapping[str, Any]) -> list[str]:
    """The images a record's text refers to: ``images`` where it has several ``<image>``, else ``image``.

    Where the preferred key is absent the other stands in, and neither is an empty list; the count may differ from the
    number of ``<image>``, which the data set reports. Raises ``DataError`` when a path is not a string.
    """
    placeholders = sum(turn["value"].count(IMAGE_TOKEN) for turn in record["conversations"])
    keys = ("images", "image") if placeholders > 1 else ("image", "images")
    named = next((record[key] for key in keys if record.get(key)), [])
    paths = [named] if isinstance(named, str) else named
    if not isinstance(paths, list) or not all(isinstance(path, str) and path for path in paths):
        raise DataError(f"image paths must be text, got {named!r}")
    return list(paths)


def prompt_images(record: Mapping[str, Any]) -> list[str]:
    """``image_paths`` in the order of the record's ``<image>``: by camera where paths and prompt name cameras.

    A prompt with tags takes its views from ``images`` even if it shows one, which need not be ``image``. See
    ``senna.views.order_paths``. Raises ``DataError``, also for a view that no path is of.
    """
    paths = image_paths(record)
    views = [view for turn in record["conversations"] for view in prompt_views(turn["value"])]
    several = record.get("images")
    if any(views) and isinstance(several, list) and all(isinstance(path, str) for path in several):
        paths = several if set(views) - {None} <= paths_by_camera(several).keys() else paths
    return order_paths(paths, views)


def record_kind(record: Mapping[str, Any]) -> str:
    """A record's ``kind``, or where it has none, what the form of its answers tells.

    "plan": each answer is a meta-action. "motion": each line that is not blank is ``Object N: SPEED, PATH``.
    "traffic_light": each answer is one of Red, Green, Yellow, None. Else "other". Raises ``DataError`` (the end of a
    sentence) for a ``kind`` that is not text.
    """
    kind = record.get("kind")
    if kind is not None and not isinstance(kind, str):
        raise DataError(f"has a 'kind' that is not text but {_brief(kind)}; remove it, or name the sort of question")
    return kind or _kind_of_answers(record["conversations"])


def _kind_of_answers(turns: list[dict[str, str]]) -> str:
    if turns[-1]["from"] == "gpt" and not _FORMAL.match(turns[-1]["value"]):
        return kinds.OTHER
    return kinds.recognize(turn["value"] for turn in turns if turn["from"] == "gpt")


def _measure(record: object) -> tuple[int, int]:
    """Words and ``<image>`` placeholders of a record; ``DataError`` (the end of a sentence) where it is not one."""
    if not isinstance(record, dict):
        raise DataError(f"is not an object but {_brief(record)}")
    turns = record.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise DataError("has no 'conversations'; it must be a list of {'from': 'human' or 'gpt', 'value': text}")
    words = images = 0
    for number, turn in enumerate(turns):
        if not isinstance(turn, dict) or turn.get("from") not in _ROLES:
            raise DataError(f"has a turn {number} that is not from 'human' or 'gpt': {_brief(turn)}")
        value = turn.get("value")
        if not isinstance(value, str):
            raise DataError(f"has a turn {number} whose 'value' is not text: {_brief(turn)}")
        words += len(value.split())
        images += value.count(IMAGE_TOKEN)
    return words, images


def _brief(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
