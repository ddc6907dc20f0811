"""The fields of `TrainArguments` as command-line flags and as YAML keys: one conversion for both."""

import argparse
import dataclasses
import types
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_BOOLEANS = {
    **dict.fromkeys(("true", "yes", "t", "y", "1"), True),
    **dict.fromkeys(("false", "no", "f", "n", "0"), False),
}
_METAVARS = {bool: "True|False", int: "N", float: "X", str: "TEXT"}
_NOUNS = {bool: "True or False", int: "an integer", float: "a number"}


@dataclass(frozen=True)
class Option:
    """A dataclass field that can be set by a flag or by a YAML key.

    Attributes:
        type: bool, int, float or str, for the elements if the field is a list.
        choices: the allowed words; empty if every value of the type is allowed.
    """

    name: str
    type: type
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    is_list: bool = False

    def convert(self, word: str) -> Any:
        """Convert a word of the command line to a value.

        Raises:
            ArgumentTypeError: the word is not a value of this option; the text is the reason.
        """
        if self.choices and word not in self.choices:
            raise argparse.ArgumentTypeError(f"{word!r} is not one of {', '.join(self.choices)}")
        if self.type is bool and word.lower() in _BOOLEANS:
            return _BOOLEANS[word.lower()]
        try:
            if self.type is not bool:
                return self.type(word)
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"{word!r} is not {_NOUNS[self.type]}")

    def from_yaml(self, value: Any) -> Any:
        """Convert a value that was read from YAML to the value that the flag would set.

        Raises:
            ArgumentTypeError: the value has the wrong type; the text is the reason.
        """
        if value is None:
            if self.default is not None:
                raise argparse.ArgumentTypeError("the key has no value")
            return None
        if isinstance(value, (list, dict)):
            if self.choices or self.type is not str:
                raise argparse.ArgumentTypeError(f"a single value is expected, not {value}")
            return value
        if isinstance(value, bool) and self.type is str:
            raise argparse.ArgumentTypeError(
                f"text is expected, not {value} (YAML reads yes, no, on and off as booleans: put the word in quotes)"
            )
        converted = self.convert(str(value))
        return [converted] if self.is_list else converted

    def add_to(self, parser: argparse._ActionsContainer, is_hidden: bool = False) -> None:
        """Add the flag to a parser or an argument group. The namespace holds the field only if the flag is given."""
        default = self.default.value if isinstance(self.default, Enum) else self.default
        note = "" if default in (None, "", []) else f" (default: {default})"
        text = argparse.SUPPRESS if is_hidden else self.help + note.replace("%", "%%")
        options: dict[str, Any] = {"type": self.convert, "metavar": _METAVARS[self.type]}
        if self.choices:
            options["metavar"] = "{" + ",".join(self.choices) + "}"
        if self.type is bool:
            options |= {"nargs": "?", "const": True}
        elif self.is_list:
            options["nargs"] = "+"
        parser.add_argument(f"--{self.name}", default=argparse.SUPPRESS, help=text, **options)
        if self.default is True:
            parser.add_argument(
                f"--no_{self.name}", dest=self.name, action="store_false", default=argparse.SUPPRESS,
                help=argparse.SUPPRESS,
            )  # fmt: skip


def options_of(arguments: type) -> dict[str, Option]:
    """Return the options of a dataclass by name, in the order of its fields."""
    hints = get_type_hints(arguments)
    return {field.name: _option(field, hints[field.name]) for field in dataclasses.fields(arguments) if field.init}


def _option(field: dataclasses.Field, hint: Any) -> Option:
    is_union = get_origin(hint) in (Union, types.UnionType)
    members = [member for member in (get_args(hint) if is_union else (hint,)) if member is not types.NoneType]
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    default = None if default is dataclasses.MISSING else default
    enums = [member for member in members if isinstance(member, type) and issubclass(member, Enum)]
    choices, is_list = (), False
    value_type = next((scalar for scalar in (bool, int, float, str) if scalar in members), str)
    if enums:
        choices, value_type = tuple(str(member.value) for member in enums[0]), str
    elif len(members) == 1 and get_origin(members[0]) is Literal:
        choices = get_args(members[0])
    elif len(members) == 1 and get_origin(members[0]) is list:
        is_list = True
    return Option(field.name, value_type, default, field.metadata.get("help", ""), choices, is_list)
