"""`senna train --print`: each field's value, and where it comes from."""

import json
import os
import textwrap
from dataclasses import fields
from enum import Enum
from typing import Any, NamedTuple

from senna.train.fields import OWN_FIELDS, PlannedArguments, TrainArguments, grouped_fields

WIDEST = 44
"""Characters of the column of values; a longer value pushes its source to the right."""


class Given(NamedTuple):
    """A value that a file or the command line gives a field, and where: ``configs/lora.yaml:7``, ``command line``."""

    value: Any
    where: str


def short(path: str) -> str:
    """A path as one would type it here."""
    absolute, here = os.path.abspath(path), os.getcwd() + os.sep
    return absolute.removeprefix(here) if absolute.startswith(here) else path


def shown(value: Any) -> str:
    """A value as one would write it behind its flag."""
    if value is None:
        return "not set"
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    if isinstance(value, list):
        return ",".join(shown(one) for one in value) or "none"
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    return json.dumps(value) if isinstance(value, dict) else str(value)


def shown_field(args: TrainArguments, name: str, given: list[Given]) -> str:
    """A field's value in the run; of DeepSpeed the file, and no secret."""
    value = getattr(args, name)
    if name == "deepspeed" and value and isinstance(given[-1].value, str):
        return short(given[-1].value)
    return "(hidden)" if name.endswith("_token") and value else shown(value)


def source(args: TrainArguments, name: str, given: list[Given], usual: TrainArguments) -> str:
    """Where a field's value comes from, and what it wins over; ``usual`` has the defaults."""
    value = shown_field(args, name, given)
    if not given:
        return "default" if value == shown(getattr(usual, name)) else "follows from other fields"
    secret = name.endswith("_token")
    texts = ["(hidden)" if secret else short(g.value) if name == "deepspeed" else shown(g.value) for g in given]
    notes = [f"{text} in {one.where}" for text, one in list(zip(texts, given, strict=True))[-2::-1]]
    if texts[-1] != value:
        notes.insert(0, f"given as {texts[-1]}")
    return given[-1].where + (f" ({', '.join(notes)})" if notes else "")


def explain(args: TrainArguments, trail: dict[str, list[Given]], files: list[str]) -> str:
    """Every field of a run that is not started: value and source.

    ``trail`` holds what files and command line give, in the order they are read.
    """
    usual = PlannedArguments()
    others = [f.name for f in fields(TrainArguments) if f.init and f.name not in OWN_FIELDS]
    cells = {
        name: (shown_field(args, name, trail.get(name, [])), source(args, name, trail.get(name, []), usual))
        for name in [*OWN_FIELDS, *others]
    }
    at_default = [name for name in others if cells[name][1] == "default"]
    groups = grouped_fields() | {"transformers' other fields": [name for name in others if name not in at_default]}
    names = max(len(name) for group in groups.values() for name in group)
    values = min(WIDEST, max(len(cells[name][0]) for group in groups.values() for name in group))
    order = ", ".join([*map(short, files), "command line"])
    lines = [f"What this run would use; nothing is started. Read in this order: {order}"]
    for heading, group in groups.items():
        lines += ["", heading] if group else []
        lines += [f"  {name:<{names}}  {cells[name][0]:<{values}}  {cells[name][1]}" for name in group]
    rest = ", ".join(f"{name} {cells[name][0]}".replace(" ", "\0") for name in at_default)
    lines += ["", "transformers' further fields, all at their defaults (senna train --help_all)"]
    lines += [
        line.replace("\0", " ")
        for line in textwrap.wrap(
            rest, 118, initial_indent="  ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
    ]
    return "\n".join(lines)
