"""The texts of questions and answers: read from YAML, checked before any work begins."""

from collections.abc import Mapping
from pathlib import Path
from string import Formatter

import yaml

from senna.errors import UsageError
from senna.kinds import Slots, all_kinds, slots
from senna.views import IMAGE_TOKEN

Templates = Mapping[str, Mapping[str, str]]
"""Section -> key -> text with slots; complete, with known slots only (``load_templates``)."""

DEFAULT = Path(__file__).with_name("templates.yaml")


_WORDS = {
    "ahead": slots("metres"),
    "behind": slots("metres"),
    "left": slots("metres"),
    "right": slots("metres"),
    "speed": slots("speed"),
    "speed_unknown": slots(),
}


def _sections() -> dict[str, Mapping[str, Slots]]:
    """Return the slots of every section: the shared words, and one section for each question kind."""
    return {"words": _WORDS, **{kind.name: kind.template for kind in all_kinds()}}


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
    expected = _sections()
    _compare(path, "sections", sections, expected)
    for section, keys in expected.items():
        _compare(path, f"keys under {section}", sections[section], keys)
        for key, wanted in keys.items():
            _check(f"{path}: {section}.{key}", sections[section][key], wanted)
    return {section: {key: sections[section][key] for key in keys} for section, keys in expected.items()}


def _compare(path: Path, what: str, found: object, expected: Mapping[str, object]) -> None:
    if not isinstance(found, dict):
        raise UsageError(f"{path}: the {what} must be {', '.join(expected)}, found {found!r:.60}; see {DEFAULT}")
    if missing := [key for key in expected if key not in found]:
        raise UsageError(f"{path}: the {what} lack {', '.join(missing)}; {DEFAULT} has them all, copy them from there")
    if unknown := [str(key) for key in found if key not in expected]:
        raise UsageError(f"{path}: the {what} have {', '.join(unknown)}, which is not one of {', '.join(expected)}")


def _check(place: str, text: object, slots: Slots) -> None:
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
