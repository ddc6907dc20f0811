"""From command line and YAML files to `TrainArguments`, and for each value where it came from."""

import argparse
import difflib
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

from senna.errors import UsageError
from senna.train.explain import Given, explain, short
from senna.train.fields import OWN_FIELDS, PlannedArguments, TrainArguments, grouped_fields

PUBLISHED_NAMES = {"evaluation_strategy": "eval_strategy", "warmup_ratio": "warmup_steps"}
"""Flags of the published scripts that transformers has renamed since; the old names go on working."""

EPILOG = """examples:
  senna train --config configs/stage1_pretrain.yaml --model_name_or_path vicuna-7b-v1.5 --data_path captions.json \\
      --vision_tower clip-vit-large-patch14-336 --image_folder images --output_dir out
  senna train --config configs/stage2_driving.yaml --config configs/qlora.yaml --lora_r 64 --print
      which values that would be, and which file or flag each is from"""


def nearest(word: str, known: list[str]) -> str:
    """ " (did you mean X?)" for a mistyped word, empty where nothing is near."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""


class _Parser(HfArgumentParser):
    """Errors become one line with exit code 2 instead of 200 flags of usage."""

    def error(self, message: str):
        raise UsageError(f"senna train: {message}; see senna train --help")


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Examples keep their lines, and a default is said where there is one."""

    def _get_help_string(self, action):
        return action.help if action.default in (None, "", []) else super()._get_help_string(action)


class _HelpAll(argparse.Action):
    def __call__(self, parser, *_):
        build_parser(every_field=True).print_help()
        parser.exit()


def build_parser(every_field: bool = False) -> argparse.ArgumentParser:
    """The parser of `senna train`, made from `TrainArguments`; its help shows `OWN_FIELDS`, or every field."""
    parser = _Parser(
        TrainArguments,
        prog="senna train",
        usage="senna train --config FILE [--config FILE ...] [--any_field value ...]",
        description="Train Senna. Every flag is also a YAML key; --config files are read in order, flags come last.",
        allow_abbrev=False,
        formatter_class=_Help,
        epilog=EPILOG,
    )
    by_name = _actions(parser)
    for action in parser._actions:
        # argparse knows the names with hyphens still
        action.option_strings = [name for name in action.option_strings if "-" not in name[2:]]
        action.metavar = {int: "N", float: "X", str: "TEXT", string_to_bool: "True|False"}.get(action.type)
        if action is not by_name[action.dest] or (action.dest not in ("help", *OWN_FIELDS) and not every_field):
            action.help = argparse.SUPPRESS
    others = [action for action in parser._optionals._group_actions if action.dest not in ("help", *OWN_FIELDS)]
    parser._optionals._group_actions[:] = [by_name["help"]]
    add = parser._optionals.add_argument
    add("--config", action="append", default=[], metavar="FILE", help="a YAML file with any of the flags; repeatable")
    shows = "show each field's value and where it is from (default, file and line, command line), and stop"
    add("--print", action="store_true", default=None, help=shows)
    add("--help_all", action=_HelpAll, nargs=0, help="every field, transformers' others included")
    for heading, names in grouped_fields().items():
        parser.add_argument_group(heading)._group_actions.extend(by_name[name] for name in names)
    if every_field:
        parser.add_argument_group("transformers' other fields")._group_actions.extend(others)
    return parser


def _actions(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """By field; `--no_x` comes after `--x`."""
    return {action.dest: action for action in reversed(parser._actions)}


def _check_mapping(path: str) -> tuple[dict, dict[str, int]]:
    """The keys and values of a YAML file, and the line of each key."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        values, root = yaml.safe_load(text) or {}, yaml.compose(text, Loader=yaml.SafeLoader)
    except OSError as error:
        raise UsageError(f"--config {path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"--config {path}: not text: {error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        why = f"{getattr(error, 'problem', None) or error}".replace("\n", " ")
        raise UsageError(f"--config {path}{f', line {mark.line + 1}' if mark else ''}: not YAML: {why}") from error
    if not isinstance(values, dict):
        raise UsageError(f"--config {path}: expected 'key: value' lines")
    lines: dict[str, int] = {}
    for key, _ in root.value if root is not None else []:
        name, line = PUBLISHED_NAMES.get(key.value, key.value), key.start_mark.line + 1
        if name in lines:
            raise UsageError(
                f"--config {path}, line {line}: {key.value} is set a second time (first in line {lines[name]})"
            )
        lines[name] = line
    return values, lines


def _as_flag(parser: argparse.ArgumentParser, action: argparse.Action, value: Any) -> Any:
    """A YAML value as the flag of that name would have it. Raises ValueError that says what is wrong with it."""
    if value is None:
        if action.default is not None:
            raise ValueError("has no value")
        return None
    several = isinstance(value, (list, dict))
    if several and (action.choices or action.type in (int, float, string_to_bool)):
        raise ValueError(f"one value expected, not {value}")
    if isinstance(value, bool) and action.type not in (int, float, string_to_bool):
        raise ValueError(f"text expected, not {value}: YAML reads yes, no, on and off so; write the word in quotes")
    if several:
        return value
    try:
        converted = parser._get_value(action, str(value))
        parser._check_value(action, converted)
    except argparse.ArgumentError as error:
        raise ValueError(error.message) from error
    return converted


def read_yaml(path: str, parser: argparse.ArgumentParser | None = None) -> dict[str, Given]:
    """Fields that a YAML file sets.

    Raises UsageError, with the line, for a missing file, bad YAML, an unknown or repeated key and a value of a wrong kind.
    """
    values, lines = _check_mapping(path)
    parser = parser or build_parser()
    actions, known = _actions(parser), [f.name for f in fields(TrainArguments) if f.init]
    given = {}
    for key, value in values.items():
        name = PUBLISHED_NAMES.get(key, key)
        line = lines.get(str(name), lines.get("<<"))  # a key that stands in the file only by way of YAML's merge
        place = f"--config {path}, line {line}"
        if name not in known:
            raise UsageError(f"{place}: unknown key {key}{nearest(str(key), known)}")
        try:
            value = _as_flag(parser, actions[name], value)
        except ValueError as error:
            raise UsageError(f"{place}: {key}: {error}") from error
        if name == "deepspeed" and isinstance(value, str) and value != "none" and not Path(value).is_file():
            value = str(Path(path).parent / value)
        given[name] = Given(value, f"{short(path)}:{line}" + (f" ({key})" if key != name else ""))
    return given


def _read_flags(parser: argparse.ArgumentParser, argv: list[str]) -> tuple[argparse.Namespace, dict[str, Given], list]:
    """What argparse found, what of it stands on the command line, and the words that it does not know."""
    renamed, words = {}, []
    for word in argv:
        flag, sep, value = word.partition("=")
        old = flag.removeprefix("--")
        if flag.startswith("--") and old in PUBLISHED_NAMES:
            renamed[PUBLISHED_NAMES[old]] = flag
            word = f"--{PUBLISHED_NAMES[old]}{sep}{value}"
        words.append(word)
    absent = object()
    names = [f.name for f in fields(TrainArguments) if f.init]
    found, unknown = parser.parse_known_args(words, argparse.Namespace(**dict.fromkeys(names, absent)))
    where = {name: f"command line ({flag})" for name, flag in renamed.items()}
    given = {
        name: Given(value, where.get(name, "command line"))
        for name, value in vars(found).items()
        if name in names and value is not absent
    }
    return found, given, unknown


def parse_arguments(argv: list[str]) -> TrainArguments:
    """Command line and YAML files -> arguments. With --print they are explained, and SystemExit ends the command.

    Raises UsageError that names the flag and the nearest known one.
    """
    parser = build_parser()
    found, flags, unknown = _read_flags(parser, argv)
    trail: dict[str, list[Given]] = {}
    for source in [*(read_yaml(path, parser) for path in found.config), flags]:
        for name, given in source.items():
            trail.setdefault(name, []).append(given)
    if unknown:
        known = [name for name in parser._option_string_actions if name.startswith("--") and "-" not in name[2:]]
        raise UsageError(
            f"unknown argument {unknown[0]}{nearest(unknown[0].split('=')[0], known)}; see senna train --help"
        )
    kind = PlannedArguments if found.print else TrainArguments
    try:
        args = kind(**{name: given[-1].value for name, given in trail.items()})
    except (ValueError, TypeError, ImportError) as error:
        raise UsageError(f"arguments: {error}") from error
    if found.print:
        if os.environ.get("RANK", "0") == "0":
            print(explain(args, trail, found.config))
        raise SystemExit(0)
    return args
