"""The output of `senna train --print`: the value of each field and its source."""

import json
import os
import textwrap
from collections.abc import Mapping
from dataclasses import fields
from enum import Enum
from typing import Any, NamedTuple

from senna.train.field_groups import OWN_FIELDS, grouped_fields
from senna.train.fields import TrainArguments

VALUE_WIDTH = 44
"""Maximum width of the column of values, in characters; longer values push their source to the right."""


class Setting(NamedTuple):
    """A value that a file or the command line gives to a field, and its source: ``configs/lora.yaml:7``, ``command line``."""

    value: Any
    source: str


def relative_path(path: str) -> str:
    """Return a path relative to the working directory if it is inside it, else unchanged."""
    absolute, here = os.path.abspath(path), os.getcwd() + os.sep
    return absolute.removeprefix(here) if absolute.startswith(here) else path


def format_value(value: Any) -> str:
    """Return a value as it is written after its flag."""
    if value is None:
        return "not set"
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    if isinstance(value, list):
        return ",".join(format_value(element) for element in value) or "none"
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    return json.dumps(value) if isinstance(value, dict) else str(value)


def format_field(args: TrainArguments, name: str, settings: list[Setting]) -> str:
    """Return the value of a field as text: for DeepSpeed the file, and for a secret a placeholder."""
    value = getattr(args, name)
    if name == "deepspeed" and value and isinstance(settings[-1].value, str):
        return relative_path(settings[-1].value)
    return "(hidden)" if name.endswith("_token") and value else format_value(value)


def describe_source(args: TrainArguments, name: str, settings: list[Setting], defaults: TrainArguments) -> str:
    """Return the source of a field's value and the settings that it overrides.

    Args:
        settings: what files and the command line give to the field, in the order they are read.
        defaults: arguments for which nothing is given.
    """
    value = format_field(args, name, settings)
    if not settings and name == "gradient_accumulation_steps" and args.batch.global_batch:
        return f"follows: {_split(args)}"
    if not settings:
        return "default" if value == format_value(getattr(defaults, name)) else "follows from other fields"

    def text(setting: Setting) -> str:
        if name.endswith("_token"):
            return "(hidden)"
        return relative_path(setting.value) if name == "deepspeed" else format_value(setting.value)

    last = settings[-1]
    notes = [f"{text(setting)} in {setting.source}" for setting in reversed(settings[:-1])]
    if text(last) != value:
        notes.insert(0, f"given as {text(last)}")
    return last.source + (f" ({', '.join(notes)})" if notes else "")


def _split(args: TrainArguments) -> str:
    """Return a global batch as the product of its factors: ``16 = 2 x 1 x 8 processes``."""
    rows, steps, total = (
        args.per_device_train_batch_size,
        args.gradient_accumulation_steps or 1,
        args.global_batch_size or 0,
    )
    processes = total // (rows * steps)
    return f"{total} = {rows} x {steps} x {processes} process{'es' * (processes > 1)}"


def explain(args: TrainArguments, trail: Mapping[str, list[Setting]], files: list[str]) -> str:
    """Return a table of every field with its value and source.

    Args:
        trail: for each field the settings of files and command line, in the order they are read.
        files: the --config files in that order.
    """
    defaults = TrainArguments()
    others = [field.name for field in fields(TrainArguments) if field.init and field.name not in OWN_FIELDS]
    cells = {
        name: (format_field(args, name, settings), describe_source(args, name, settings, defaults))
        for name in [*OWN_FIELDS, *others]
        for settings in [trail.get(name, [])]
    }
    at_default = [name for name in others if cells[name][1] == "default"]
    groups = grouped_fields() | {"transformers' other fields": [name for name in others if name not in at_default]}
    tabulated = [name for group in groups.values() for name in group]
    name_width = max(len(name) for name in tabulated)
    value_width = min(VALUE_WIDTH, max(len(cells[name][0]) for name in tabulated))
    order = ", ".join([*map(relative_path, files), "command line"])
    lines = [f"Values of this run, which is not started. Read in this order: {order}"]
    for heading, group in groups.items():
        lines += ["", heading] if group else []
        lines += [f"  {name:<{name_width}}  {cells[name][0]:<{value_width}}  {cells[name][1]}" for name in group]
    lines += ["", "transformers' remaining fields, all at their defaults (senna train --help_all)"]
    return "\n".join(lines + _wrap([f"{name} {cells[name][0]}" for name in at_default]))


def _wrap(items: list[str]) -> list[str]:
    """Return comma-separated items in indented lines that break between items only."""
    text = ", ".join(item.replace(" ", "\0") for item in items)
    lines = textwrap.wrap(
        text, 118, initial_indent="  ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
    return [line.replace("\0", " ") for line in lines]
