"""The console command. Nothing heavy is imported before the subcommand that needs it."""

import os
import sys

from senna.errors import SennaError

USAGE = """usage: senna COMMAND [--help] ...

A driving vision-language model: six surround cameras in, scene understanding and a meta-action out.

commands:
  train        train a stage            senna train --config configs/stage1_pretrain.yaml --data_path ... --output_dir ...
  merge        LoRA into its base       senna merge --adapter DIR --out DIR
  convert      nuScenes into QA         senna convert --nuscenes DIR --version v1.0-mini --out DIR
  evaluate     how well it plans        senna evaluate --model DIR --data FILE --out DIR
  visualize    pictures and films       senna visualize --model DIR --data FILE --out DIR
  demo         a page to try it on      senna demo --model DIR
  export-meta-actions   for a planner   senna export-meta-actions --predictions DIR --out FILE
  doctor       does it fit, what lacks  senna doctor --config FILE --gpu-memory 24
  download     models and data          senna download --preset 7b pretrain-data
  synthesize   draw the embedded data   senna synthesize --stage1 --out DIR

`senna COMMAND --help` explains a command. Exit codes: 0 done, 1 a failure while working, 2 wrong use or a failed check.
"""


def _hush() -> None:
    """Leave out what libraries say of matters that are none of the user's: no GPU, a kernel package that is not needed."""
    import logging
    import warnings

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    logging.getLogger("DeepSpeed").addFilter(lambda record: "Setting accelerator to CPU" not in record.getMessage())
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed|transformers\.training_args")


def _train(argv: list[str]) -> int:
    _hush()
    from senna.train.run import main

    return main(argv)


def _merge(argv: list[str]) -> int:
    _hush()
    from senna.merge import main

    return main(argv)


def _convert(argv: list[str]) -> int:
    from senna.convert.command import main

    return main(argv)


def _synthesize(argv: list[str]) -> int:
    from senna.synthetic.command import main

    return main(argv)


def _evaluate(argv: list[str]) -> int:
    _hush()
    from senna.evaluate.command import main

    return main(argv)


def _export(argv: list[str]) -> int:
    from senna.evaluate.export import main

    return main(argv)


def _visualize(argv: list[str]) -> int:
    _hush()
    from senna.visualize.command import main

    return main(argv)


def _demo(argv: list[str]) -> int:
    _hush()
    from senna.demo.command import main

    return main(argv)


def _download(argv: list[str]) -> int:
    from senna.download.command import main

    return main(argv)


def _doctor(argv: list[str]) -> int:
    from senna.doctor.command import main

    return main(argv)


def _launch(argv: list[str]) -> int:
    from senna.launch.command import main

    return main(argv)


COMMANDS = {
    "launch": _launch,
    "train": _train,
    "merge": _merge,
    "convert": _convert,
    "evaluate": _evaluate,
    "visualize": _visualize,
    "demo": _demo,
    "export-meta-actions": _export,
    "doctor": _doctor,
    "download": _download,
    "synthesize": _synthesize,
}


def main(argv: list[str] | None = None) -> int:
    """Run a command; failures that a user can mend are one message on standard error, without a traceback."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if argv else 2
    if argv[0] not in COMMANDS:
        import difflib

        near = difflib.get_close_matches(argv[0], COMMANDS, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        print(f"senna: unknown command {argv[0]}{hint}; see senna --help", file=sys.stderr)
        return 2
    try:
        return COMMANDS[argv[0]](argv[1:])
    except SennaError as error:
        # Wrong use is the same in every process of a run; what fails while working may be one process's own.
        if error.exit_code == 1 or os.environ.get("RANK", "0") == "0":
            print(f"senna {argv[0]}: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"\nsenna {argv[0]}: stopped; run the same command again to continue", file=sys.stderr)
        return 130
