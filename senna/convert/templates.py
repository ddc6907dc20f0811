"""The texts of questions and answers: read from YAML, checked before any work begins."""

from collections.abc import Mapping
from pathlib import Path
from string import Formatter
from typing import NamedTuple

import yaml

from senna.errors import UsageError
from senna.views import IMAGE_TOKEN

Templates = Mapping[str, Mapping[str, str]]
"""Section -> key -> text with slots; complete, with known slots only (``load_templates``)."""

DEFAULT = Path(__file__).with_name("templates.yaml")


class _Slots(NamedTuple):
    needed: frozenset[str]
    known: frozenset[str]


def _slots(needed: str = "", further: str = "") -> _Slots:
    return _Slots(frozenset(needed.split()), frozenset((*needed.split(), *further.split())))


_SLOTS = {
    "words": {
        "ahead": _slots("metres"),
        "behind": _slots("metres"),
        "left": _slots("metres"),
        "right": _slots("metres"),
        "speed": _slots("speed"),
        "speed_unknown": _slots(),
    },
    "vru": {
        "question": _slots("", "reach"),
        "some": _slots("objects", "reach are"),
        "object": _slots("name", "ahead aside"),
        "none": _slots("", "reach"),
    },
    "motion": {
        "question": _slots("objects view"),
        "object": _slots("number name", "ahead aside speed"),
    },
    "traffic_light": {"question": _slots()},
    "description": {"question": _slots("view")},
    "explanation": {"question": _slots("plan", "command speed")},
    "plan": {"question": _slots("", "command speed")},
}


def load_templates(path: str | Path | None = None) -> Templates:
    """The texts of a file of the form of templates.yaml; ours without.

    Raises:
        UsageError: the file cannot be read, or a section, key or needed slot is missing, or one is unknown.
    """
    path = DEFAULT if path is None else Path(path)
    try:
        sections = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: the file of prompts cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: the file of prompts is not YAML: {error}") from error
    _compare(path, "sections", sections, _SLOTS)
    for section, keys in _SLOTS.items():
        _compare(path, f"keys under {section}", sections[section], keys)
        for key, slots in keys.items():
            _check(f"{path}: {section}.{key}", sections[section][key], slots)
    return {section: {key: sections[section][key] for key in keys} for section, keys in _SLOTS.items()}


def _compare(path: Path, what: str, found: object, expected: Mapping[str, object]) -> None:
    if not isinstance(found, dict):
        raise UsageError(f"{path}: the {what} must be {', '.join(expected)}, found {found!r:.60}; see {DEFAULT}")
    if missing := [key for key in expected if key not in found]:
        raise UsageError(f"{path}: the {what} lack {', '.join(missing)}; {DEFAULT} has them all, copy them from there")
    if unknown := [str(key) for key in found if key not in expected]:
        raise UsageError(f"{path}: the {what} have {', '.join(unknown)}, which is not one of {', '.join(expected)}")


def _check(place: str, text: object, slots: _Slots) -> None:
    if not isinstance(text, str) or not text.strip():
        raise UsageError(f"{place} must be text, found {text!r:.60}")
    if IMAGE_TOKEN in text:
        raise UsageError(f"{place} must not hold {IMAGE_TOKEN}: the images are put before each question by themselves")
    names = _slot_names(place, text)
    known = ", ".join(f"{{{name}}}" for name in sorted(slots.known)) or "none at all"
    if unknown := sorted(names - slots.known):
        raise UsageError(f"{place} has the unknown slot {{{unknown[0]}}}; it may use {known}")
    if missing := sorted(slots.needed - names):
        raise UsageError(f"{place} lacks the slot {{{missing[0]}}}, without which it says nothing; it may use {known}")


def _slot_names(place: str, text: str) -> set[str]:
    try:
        pieces = list(Formatter().parse(text))
    except ValueError as error:
        raise UsageError(f"{place} is no template: {error}; write {{{{ and }}}} for braces") from error
    if dressed := next((name for _, name, form, turned in pieces if name is not None and (form or turned)), None):
        raise UsageError(f"{place}: write the slot plainly, {{{dressed}}}, without a format")
    return {name for _, name, _, _ in pieces if name is not None}
