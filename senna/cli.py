"""The console command. A subcommand's modules are imported only when it runs, so that `senna --help` answers at once."""

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from senna.errors import SennaError
from senna.ranks import forget_other_launchers, read_ranks


class Command(NamedTuple):
    """A subcommand.

    Attributes:
        function: ``module:name`` of its entry point, which takes the words after the command and returns the exit code.
        help: what it does, in a few words.
        example: a typical call, without ``senna``.
    """

    function: str
    help: str
    example: str


COMMANDS = {
    "train": Command(
        "senna.cli:train_command",
        "train a stage",
        "train --config configs/stage1_pretrain.yaml --data_path ... --output_dir ...",
    ),
    "launch": Command(
        "senna.launch.command:main",
        "run a recipe on all GPUs",
        "launch pretrain|full|lora|qlora|evaluate|visualize|convert ...",
    ),
    "merge": Command(
        "senna.merge_command:main",
        "merge LoRA into its base",
        "merge --adapter DIR --out DIR",
    ),
    "export": Command(
        "senna.train.export_command:main",
        "make a model of a checkpoint",
        "export --checkpoint DIR/checkpoint-N --out DIR",
    ),
    "convert": Command(
        "senna.convert.command:main",
        "convert nuScenes to QA",
        "convert --nuscenes DIR --version v1.0-mini --out DIR",
    ),
    "evaluate": Command(
        "senna.evaluate.command:main",
        "measure how well a model plans",
        "evaluate --model DIR --data FILE --out DIR",
    ),
    "calibrate": Command(
        "senna.evaluate.calibrate:main",
        "fit probabilities and decisions",
        "calibrate --model DIR --data FILE",
    ),
    "compare": Command(
        "senna.evaluate.report.compare:main",
        "compare evaluated models",
        "compare DIR DIR ... --out DIR",
    ),
    "visualize": Command(
        "senna.visualize.command:main",
        "draw images and videos",
        "visualize --model DIR --data FILE --out DIR",
    ),
    "drive": Command(
        "senna.drive.command:main",
        "let a model drive, closed loop",
        "drive --model DIR --scenes 8 --out DIR",
    ),
    "drive-server": Command(
        "senna.drive.server_command:main",
        "drive in CARLA or AlpaSim",
        "drive-server --model DIR --port 50051",
    ),
    "demo": Command(
        "senna.demo.command:main",
        "serve a web page to try a model",
        "demo --model DIR",
    ),
    "serve": Command(
        "senna.serve.command:main",
        "serve a model with vLLM",
        "serve DIR --port 8000",
    ),
    "export-meta-actions": Command(
        "senna.evaluate.export:main",
        "export decisions for a planner",
        "export-meta-actions --predictions DIR --out FILE",
    ),
    "doctor": Command(
        "senna.doctor.command:main",
        "check this machine and a run",
        "doctor --config FILE --gpu-memory 24",
    ),
    "download": Command(
        "senna.download.command:main",
        "download models and data",
        "download --preset 7b pretrain-data",
    ),
    "synthesize": Command(
        "senna.synthetic.command:main",
        "draw the synthetic data",
        "synthesize --stage1 --out DIR",
    ),
}


def usage() -> str:
    """Return the text of `senna --help`."""
    lines = [f"  {name:<20} {command.help:<33} senna {command.example}" for name, command in COMMANDS.items()]
    return "\n".join([
        "usage: senna COMMAND [--help] ...",
        "",
        "A driving vision-language model: six surround cameras in, scene understanding and a meta-action out.",
        "",
        "commands:",
        *lines,
        "",
        "`senna COMMAND --help` explains a command. Exit codes: 0 success, 1 failure at work, 2 wrong use or failed check.",
        "",
    ])  # fmt: skip


def train_command(argv: list[str]) -> int:
    """Entry point of `senna train`: parse the arguments, check the run, and train. Returns the exit code."""
    if not {"-h", "--help"}.isdisjoint(argv):  # at once, without transformers, on whose fields the parser depends
        print(Path(__file__).with_name("train").joinpath("help.txt").read_text(encoding="utf-8"), end="")
        return 0
    from senna.doctor.preflight import preflight
    from senna.train.arguments import parse_arguments
    from senna.train.run import train

    args = parse_arguments(argv)
    train(args, preflight(args))
    return 0


def _silence_libraries() -> None:
    """Suppress library messages that users cannot act on: a missing GPU, kernel packages that are not needed."""
    import logging
    import warnings

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    logging.getLogger("DeepSpeed").addFilter(lambda record: "Setting accelerator to CPU" not in record.getMessage())
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed|transformers\.training_args")


def _entry_point(command: Command) -> Callable[[list[str]], int]:
    module, _, name = command.function.partition(":")
    return getattr(importlib.import_module(module), name)


def format_error(command: str, error: SennaError) -> str:
    """Return an error as two lines: what happened, with its location, and the remedy."""
    location = f"{error.location}: " if error.location else ""
    remedy = f"\n  -> {error.remedy}" if error.remedy else ""
    return f"senna {command}: error: {location}{error.message}{remedy}"


def _reader_has_closed_output() -> bool:
    """Return whether standard output is a closed pipe, as after `senna train --print | head`; discard the rest if so."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code. Errors that a user can fix are printed without a traceback."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(usage(), end="")
        return 0 if argv else 2
    name = argv[0]
    if name not in COMMANDS:
        import difflib

        similar = difflib.get_close_matches(name, COMMANDS, n=1)
        remedy = f"did you mean {similar[0]}?" if similar else "see senna --help"
        print(f"senna: error: unknown command {name}\n  -> {remedy}", file=sys.stderr)
        return 2
    forget_other_launchers()
    _silence_libraries()
    try:
        return _entry_point(COMMANDS[name])(argv[1:])
    except SennaError as error:
        # A usage error is the same in all processes of a run; a failure at work may concern a single process.
        if error.exit_code == 1 or read_ranks().rank == 0:
            print(format_error(name, error), file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        if not _reader_has_closed_output():
            raise
        return 0
    except KeyboardInterrupt:
        print(f"\nsenna {name}: stopped; run the same command again to continue", file=sys.stderr)
        return 130
