"""Command-line flags from a dataclass: one definition of names, types, defaults and help. Imports nothing heavy."""

import argparse
from dataclasses import MISSING, field, fields
from typing import Any, TypeVar, get_type_hints

from senna.errors import UsageError

Arguments = TypeVar("Arguments")


def flag(help: str, default: Any = MISSING, alone: str | None = None) -> Any:
    """Return a dataclass field that is a command-line flag; the flag is required when there is no default.

    Args:
        alone: the value of the flag where it is given without one; None where it needs a value.
    """
    return field(default=default, metadata={"help": help, "alone": alone})


_SHARED: dict[str, tuple[str, Any]] = {
    "model": ("a model folder, a LoRA folder or a hub name", MISSING),
    "base": ("the base model of a LoRA folder, if it has moved", None),
    "quantization": ("nf4 or int8: the LLM in 4 or 8 bits", None),
    "dtype": ("auto (the checkpoint's), float32, bfloat16 or float16", "auto"),
    "device": ("auto (a GPU if there is one), cpu, cuda or cuda:1", "auto"),
    "image_folder": ("the folder that image paths are relative to (default: the folder of the data)", None),
    "served_model": ("the server's name for its model, if it has several", None),
    "batch_size": ("records per batch", 8),
    "workers": ("processes that read images", 2),
    "skip_bad_samples": ("number of unusable records that are skipped and counted", 0),
    "version": ("the prompt format", "v1"),
    "aspect_ratio": ("how images become square: pad, or square (CLIP's crop)", "pad"),
    "image_decode": (
        "exact: the published pixel values; fast: about twice as fast, some values differ by one grey level",
        "exact",
    ),
    "decision": (
        "how the twenty probabilities become a decision: likeliest, the most probable; balanced, corrected for the frequencies "
        "of the training plans (needs `senna calibrate`); or greedy, token by token",
        "likeliest",
    ),
    "host": ("address to listen on; 0.0.0.0 admits everyone who can reach this machine", "127.0.0.1"),
    "port": ("port to listen on; 0 chooses a free one", 7860),
    "new_folder": ("the folder to write; new or empty", MISSING),
    "serve": ("write what other servers need too: <image> as a token, and the chat template", False),
}
"""The flags that several commands have: name -> help and default."""


def shared_flag(name: str, more: str = "", **changes: Any) -> Any:
    """Return a dataclass field that is one of the flags that several commands have.

    Args:
        more: text behind the common help.
        changes: ``default``, where a command has another one.
    """
    help, default = _SHARED[name]
    return flag(help + more, changes.get("default", default))


class ArgumentParser(argparse.ArgumentParser):
    """A parser that raises UsageError instead of exiting, and takes ``--image_folder`` for ``--image-folder``."""

    def error(self, message: str):
        raise UsageError(message, remedy=f"see {self.prog} --help")

    def parse_known_args(self, args=None, namespace=None):
        return super().parse_known_args(None if args is None else [self._spell(word) for word in args], namespace)

    def _spell(self, word: str) -> str:
        """Return a flag with the hyphens or underscores that this parser knows; other words unchanged."""
        name, equals, value = word.partition("=")
        if not name.startswith("--") or name in self._option_string_actions:
            return word
        for spelling in (name.replace("_", "-"), "--" + name[2:].replace("-", "_")):
            if spelling in self._option_string_actions:
                return spelling + equals + value
        return word


def parse_flags(
    arguments: type[Arguments], argv: list[str], prog: str, description: str, epilog: str = ""
) -> Arguments:
    """Parse a command line into ``arguments``, a dataclass of ``flag`` fields.

    Fields are str, int, float, bool (a switch) or a list of str. A flag may be written with hyphens or with underscores.

    Raises:
        UsageError: a flag is unknown, missing or has a wrong value; the message names it.
    """
    parser = ArgumentParser(prog=prog, description=description, epilog=epilog, allow_abbrev=False)
    hints = get_type_hints(arguments)
    for item in fields(arguments):  # type: ignore[arg-type]
        required = item.default is MISSING
        default_text = "" if required or item.default in (None, False, "") else f" (default: {item.default})"
        text = (item.metadata["help"] + default_text).replace("%", "%%")  # argparse formats help texts
        name = f"--{item.name.replace('_', '-')}"
        if hints[item.name] is bool:
            parser.add_argument(name, action="store_true", help=text)
        elif hints[item.name] == list[str] | None:
            parser.add_argument(name, nargs="+", help=text)
        else:
            number = next((t for t in (int, float) if hints[item.name] in (t, t | None)), str)
            default = None if required else item.default
            alone = item.metadata.get("alone")
            optional: dict[str, Any] = {} if alone is None else {"nargs": "?", "const": alone}
            parser.add_argument(name, type=number, required=required, default=default, help=text, **optional)
    return arguments(**vars(parser.parse_args(argv)))
