"""Build `TrainArguments` from the command line and YAML files, and record the source of each value."""

import argparse
import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from senna.errors import UsageError
from senna.flags import ArgumentParser
from senna.ranks import read_ranks
from senna.train.explain import Setting, explain, relative_path
from senna.train.field_groups import OWN_FIELDS, grouped_fields
from senna.train.fields import TrainArguments
from senna.train.options import Option, options_of

PUBLISHED_NAMES = {"evaluation_strategy": "eval_strategy", "warmup_ratio": "warmup_steps"}
"""Flags of the published scripts that transformers has renamed since; the old names are accepted too."""

DESCRIPTION = "Train Senna. Every flag is also a YAML key. --config files are read in order; flags override them."
EPILOG = """examples:
  senna train --config configs/stage1_pretrain.yaml --model_name_or_path vicuna-7b-v1.5 --data_path captions.json \\
      --vision_tower clip-vit-large-patch14-336 --image_folder images --output_dir out
  senna train --config configs/stage2_driving.yaml --config configs/qlora.yaml --lora_r 64 --print
      show the value of each field and the file or flag that sets it"""
SEE_HELP = "see senna train --help"

OnError = Callable[[UsageError], None]


class ArgumentError(UsageError):
    """A flag or a key of a YAML file that cannot be used.

    Attributes:
        name: the flag, with its hyphens, or the key.
        file: the YAML file; None for a flag.
        line: the line of the key in the file, counted from 1; None if it is not known.
    """

    def __init__(
        self, message: str, *, name: str | None = None, file: str | None = None, line: int | None = None,
        remedy: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message, remedy=remedy)
        self.name, self.file, self.line = name, file, line

    @property
    def location(self) -> str:
        """The YAML file and the line; empty for a flag."""
        if self.file is None:
            return ""
        return f"--config {self.file}" + (f", line {self.line}" if self.line else "")


class UnknownArgument(ArgumentError):
    """A flag or key that `senna train` does not have.

    Attributes:
        suggestion: the most similar flag or key; None if none is similar.
    """

    def __init__(self, name: str, known: Iterable[str], *, file: str | None = None, line: int | None = None) -> None:
        kind, prefix = ("argument", "--") if file is None else ("key", "")
        similar = difflib.get_close_matches(name.removeprefix("--").replace("-", "_"), list(known), n=1)
        self.suggestion = prefix + similar[0] if similar else None
        super().__init__(
            f"unknown {kind} {name}", name=name, file=file, line=line,
            remedy=f"did you mean {self.suggestion}?" if self.suggestion else SEE_HELP,
        )  # fmt: skip


def _positive(word: str) -> int:
    if not word.isascii() or not word.isdigit() or len(word) > 6 or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word!r} is not a number from 1")
    return int(word)


class _HelpAll(argparse.Action):
    def __call__(self, parser, *_):
        build_parser(every_field=True).print_help()
        parser.exit()


def build_parser(every_field: bool = False) -> ArgumentParser:
    """Return the parser of `senna train`. Its help shows `OWN_FIELDS` or every field; it accepts every field.

    Only the fields that are given are in its namespace.
    """
    parser = ArgumentParser(
        prog="senna train",
        usage="senna train --config FILE [--config FILE ...] [--any_field value ...]",
        description=DESCRIPTION,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EPILOG,
    )
    options = options_of(TrainArguments)
    add = parser.add_argument
    add("--config", action="append", default=[], metavar="FILE", help="YAML file with any of the flags; repeatable")
    add("--print", action="store_true", help="print the value and the source of each field, and exit")
    add(
        "--processes",
        type=_positive,
        metavar="N",
        help="with --print: the processes of the run that is shown (default: 1)",
    )
    add("--help_all", action=_HelpAll, nargs=0, help="show every field, including transformers' other fields, and exit")
    for heading, names in grouped_fields().items():
        group = parser.add_argument_group(heading)
        for name in names:
            options[name].add_to(group)
    others = parser.add_argument_group("transformers' other fields") if every_field else parser
    for name, option in options.items():
        if name not in OWN_FIELDS:
            option.add_to(others, is_hidden=not every_field)
    return parser


@dataclass
class _YamlFile:
    values: dict[Any, Any]
    lines: dict[str, int]  # of the top-level keys, under their present names


def _load_yaml(path: str, on_error: OnError) -> _YamlFile | None:
    """Load a YAML file with the line of each key. A key that occurs twice is reported, and its last value counts."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        values, root = yaml.safe_load(text) or {}, yaml.compose(text, Loader=yaml.SafeLoader)
    except OSError as error:
        on_error(ArgumentError(f"cannot be read ({error.strerror})", file=path, remedy="give an existing YAML file"))
        return None
    except UnicodeDecodeError as error:
        on_error(ArgumentError(f"not text: {error}", file=path, remedy="give a YAML file in UTF-8"))
        return None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = str(getattr(error, "problem", None) or error).replace("\n", " ")
        line = mark.line + 1 if mark else None
        on_error(ArgumentError(f"not YAML: {reason}", file=path, line=line, remedy="correct the file"))
        return None
    if not isinstance(values, dict):
        on_error(ArgumentError("not a YAML mapping", file=path, remedy="write lines of the form 'key: value'"))
        return None
    lines: dict[str, int] = {}
    for key, _ in root.value if isinstance(root, yaml.MappingNode) else []:
        name, line = str(PUBLISHED_NAMES.get(key.value, key.value)), key.start_mark.line + 1
        if name in lines:
            message = f"{key.value} is set a second time (first in line {lines[name]})"
            on_error(ArgumentError(message, name=key.value, file=path, line=line, remedy="delete one of the lines"))
        lines[name] = line
    return _YamlFile(values, lines)


def read_yaml(
    path: str, options: Mapping[str, Option] | None = None, on_error: OnError | None = None
) -> dict[str, Setting]:
    """Return the fields that a YAML file sets.

    A relative ``deepspeed`` path that does not exist is taken as relative to the folder of the YAML file.

    Args:
        options: the options of `TrainArguments`, if the caller has them already.
        on_error: is called with each error instead of raising it; the key or the file is then ignored.

    Raises:
        ArgumentError: a missing file, bad YAML, a repeated key or a value of the wrong type, with file and line.
        UnknownArgument: an unknown key.
    """
    report = on_error or _raise
    options = options or options_of(TrainArguments)
    file = _load_yaml(path, report)
    settings: dict[str, Setting] = {}
    for key, value in file.values.items() if file else ():
        name = str(PUBLISHED_NAMES.get(key, key))
        line = file.lines.get(name, file.lines.get("<<")) if file else None  # a merged key has the line of its merge
        if name not in options:
            report(UnknownArgument(str(key), options, file=path, line=line))
            continue
        try:
            value = options[name].from_yaml(value)
        except argparse.ArgumentTypeError as error:
            report(ArgumentError(f"{key}: {error}", name=str(key), file=path, line=line, remedy=SEE_HELP))
            continue
        if name == "deepspeed" and isinstance(value, str) and value != "none" and not Path(value).is_file():
            value = str(Path(path).parent / value)
        settings[name] = Setting(value, f"{relative_path(path)}:{line}" + (f" ({key})" if key != name else ""))
    return settings


def _raise(error: UsageError) -> None:
    raise error


class _CommandLine(NamedTuple):
    configs: list[str]
    settings: dict[str, Setting]
    is_print: bool
    processes: int | None


def _read_command_line(argv: list[str], options: Mapping[str, Option], on_error: OnError) -> _CommandLine:
    """Return the --config files and the fields that the command line sets. Unknown words are reported and ignored."""
    renamed, words = {}, []
    for word in argv:
        flag, equals, value = word.partition("=")
        old_name = flag.removeprefix("--").replace("-", "_")
        if flag.startswith("--") and old_name in PUBLISHED_NAMES:
            renamed[PUBLISHED_NAMES[old_name]] = flag
            word = f"--{PUBLISHED_NAMES[old_name]}{equals}{value}"
        words.append(word)
    namespace, unknown = build_parser().parse_known_args(words)
    known = [*options, "config", "print", "processes", "help", "help_all"]
    for index, word in enumerate(unknown):
        if word.startswith("--") or index == 0:  # other words are values of the unknown flag in front of them
            on_error(UnknownArgument(word.split("=")[0], known))
    sources = {name: f"command line ({flag})" for name, flag in renamed.items()}
    settings = {
        name: Setting(value, sources.get(name, "command line"))
        for name, value in vars(namespace).items()
        if name in options
    }
    if namespace.processes is not None and not namespace.print:
        raise UsageError("--processes only goes with --print", remedy="NUM_GPUS=N for a training script, or torchrun")
    return _CommandLine(namespace.config, settings, namespace.print, namespace.processes)


def parse_arguments(
    argv: list[str], on_error: OnError | None = None, count_processes: Callable[[TrainArguments], int] | None = None
) -> TrainArguments:
    """Return the arguments that the command line and its --config files give. Later files and then flags win.

    With --print, print each value with its source (in the main process only) and raise SystemExit, as --help does.

    Args:
        on_error: is called with each unknown flag or key and each unusable key or file instead of raising; parsing then
            goes on without it.
        count_processes: return the number of processes of a run (default: --processes, else those that were started).

    Raises:
        UnknownArgument: an unknown flag or key.
        UsageError: a value that cannot be used, or values that exclude each other.
    """
    options = options_of(TrainArguments)
    command_line = _read_command_line(argv, options, on_error or _raise)
    trail: dict[str, list[Setting]] = {}
    for source in [*(read_yaml(path, options, on_error) for path in command_line.configs), command_line.settings]:
        for name, setting in source.items():
            trail.setdefault(name, []).append(setting)
    try:
        args = TrainArguments(**{name: settings[-1].value for name, settings in trail.items()})
    except (ValueError, TypeError, ImportError) as error:
        raise UsageError(f"the arguments cannot be used: {error}", remedy=SEE_HELP) from error
    batch = trail.get("global_batch_size")
    processes = count_processes(args) if count_processes else command_line.processes or read_ranks().world_size
    args.spread(processes, batch[-1].source if batch else "")
    if command_line.is_print:
        if read_ranks().rank == 0:
            print(explain(args, trail, command_line.configs))
        raise SystemExit(0)
    return args
