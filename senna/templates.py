"""The texts of questions and answers: read from a YAML file and validated before any work begins."""

from collections.abc import Mapping
from pathlib import Path
from string import Formatter
from typing import Any

import yaml

from senna.errors import UsageError
from senna.kinds import Slots, all_kinds, is_on_request, slots
from senna.record_checks import has_surrogate
from senna.views import IMAGE_TOKEN

Templates = Mapping[str, Mapping[str, str]]
"""Section -> key -> text with slots; complete and with known slots only (see ``load_templates``)."""

DEFAULT = Path(__file__).with_name("templates.yaml")

_WORDS = {
    "ahead": slots("metres"),
    "behind": slots("metres"),
    "left": slots("metres"),
    "right": slots("metres"),
    "speed": slots("speed"),
    "speed_unknown": slots(),
}

_SERVER = {"instruction": slots()}


def _sections() -> dict[str, Mapping[str, Slots]]:
    """Return the slots of every section: the shared words, and one section for each question kind."""
    return {"words": _WORDS, **{kind.name: kind.template for kind in all_kinds()}}


def load_templates(path: str | Path | None = None) -> Templates:
    """Return the templates in a YAML file of the form of templates.yaml; by default, those of that file.

    Raises:
        UsageError: the file cannot be read; a section, key or slot is unknown; a section, key or needed slot is missing. The
            section of a kind that is used on request may be missing, and has the default texts then.
    """
    return _read(path)[0]


def server_instruction(path: str | Path | None = None) -> str:
    """Return the text before each question to a model that is not Senna; the default one if the file has none.

    Raises:
        UsageError: the file is not valid, as for `load_templates`.
    """
    _, server = _read(path)
    return str(server["instruction"]).strip() if server else server_instruction()


def _read(path: str | Path | None) -> tuple[Templates, Mapping[str, str] | None]:
    """Return the templates in a file and its section ``server``, which may be missing. Raises UsageError."""
    path = DEFAULT if path is None else Path(path)
    try:
        sections = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(
            f"{path}: the file of prompts cannot be read: {reason}", remedy=f"give a YAML file like {DEFAULT}"
        ) from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: the file of prompts is not YAML: {error}", remedy=f"see {DEFAULT}") from error
    server = sections.pop("server", None) if isinstance(sections, dict) else None
    expected = _sections()
    if isinstance(sections, dict) and path != DEFAULT:
        missing = [name for name in expected if name not in sections and is_on_request(name)]
        sections |= {name: dict(_read(None)[0][name]) for name in missing}
    _check_keys(path, "sections", sections, expected)
    for section, keys in [*expected.items(), *([("server", _SERVER)] if server is not None else [])]:
        found: Any = server if section == "server" else sections[section]
        _check_keys(path, f"keys under {section}", found, keys)
        for key, allowed in keys.items():
            _check_text(f"{path}: {section}.{key}", found[key], allowed)
    return {section: {key: sections[section][key] for key in keys} for section, keys in expected.items()}, server


def _check_keys(path: Path, what: str, found: object, expected: Mapping[str, object]) -> None:
    names = ", ".join(expected)
    if not isinstance(found, dict):
        raise UsageError(f"{path}: the {what} must be {names}, found {found!r:.60}", remedy=f"see {DEFAULT}")
    if missing := [key for key in expected if key not in found]:
        raise UsageError(f"{path}: the {what} lack {', '.join(missing)}", remedy=f"copy them from {DEFAULT}")
    if unknown := [str(key) for key in found if key not in expected]:
        raise UsageError(f"{path}: the {what} have {', '.join(unknown)}, which is unknown", remedy=f"use {names}")


def _check_text(location: str, text: object, slots: Slots) -> None:
    if not isinstance(text, str) or not text.strip():
        raise UsageError(f"{location} must be text, found {text!r:.60}", remedy=f"see {DEFAULT}")
    if has_surrogate(text):
        raise UsageError(f"{location} has a lone surrogate, half of a character: {text!a:.60}", remedy="write it again")
    if IMAGE_TOKEN in text:
        raise UsageError(
            f"{location} must not hold {IMAGE_TOKEN}",
            remedy="remove it: the images are put before each question automatically",
        )
    names = _slot_names(location, text)
    remedy = "it may use " + (", ".join(f"{{{name}}}" for name in sorted(slots.known)) or "none at all")
    if unknown := sorted(names - slots.known):
        raise UsageError(f"{location} has the unknown slot {{{unknown[0]}}}", remedy=remedy)
    if missing := sorted(slots.needed - names):
        raise UsageError(f"{location} lacks the slot {{{missing[0]}}}, which it needs", remedy=remedy)


def _slot_names(location: str, text: str) -> set[str]:
    try:
        pieces = list(Formatter().parse(text))
    except ValueError as error:
        raise UsageError(f"{location} is no template: {error}", remedy="write {{ and }} for braces") from error
    formatted = (name for _, name, form, conversion in pieces if name is not None and (form or conversion))
    if (name := next(formatted, None)) is not None:
        raise UsageError(f"{location}: the slot {name!r} has a format", remedy=f"write it plainly as {{{name}}}")
    return {name for _, name, _, _ in pieces if name is not None}
