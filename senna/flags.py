"""A command's flags from its dataclass: one place for names, types, defaults and help. Imports nothing heavy."""

import argparse
from dataclasses import MISSING, field, fields
from typing import Any, TypeVar, get_type_hints

from senna.errors import UsageError

Arguments = TypeVar("Arguments")


def flag(help: str, default: Any = MISSING) -> Any:
    """A dataclass field that is a flag; required without a default."""
    return field(default=default, metadata={"help": help})


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise UsageError(f"{message}; see {self.prog} --help")


def parse_flags(kind: type[Arguments], argv: list[str], prog: str, description: str, epilog: str = "") -> Arguments:
    """The command line as a ``kind``, a dataclass of ``flag`` fields (text, int, float, list of text; bool is a switch).

    Raises UsageError, which names the flag.
    """
    parser = _Parser(prog=prog, description=description, epilog=epilog, allow_abbrev=False)
    hints = get_type_hints(kind)
    for one in fields(kind):
        required = one.default is MISSING
        shown = "" if required or one.default in (None, False, "") else f" (default: {one.default})"
        name, text = f"--{one.name.replace('_', '-')}", one.metadata["help"] + shown
        if hints[one.name] is bool:
            parser.add_argument(name, action="store_true", help=text)
        elif hints[one.name] == list[str] | None:
            parser.add_argument(name, nargs="+", help=text)
        else:
            number = next((t for t in (int, float) if hints[one.name] in (t, t | None)), str)
            default = None if required else one.default
            parser.add_argument(name, type=number, required=required, default=default, help=text)
    return kind(**vars(parser.parse_args(argv)))
