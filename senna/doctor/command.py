"""`senna doctor`: what is installed, what is on disk, what fits in the card. Imports nothing heavy itself."""

import argparse
import os
import sys
from itertools import chain

from senna.doctor import machine
from senna.doctor.findings import OK, WARN, Finding, count, failed, render
from senna.doctor.packages import PACKAGES
from senna.doctor.worker import Worker
from senna.errors import UsageError

VARIABLES = {
    "--model_name_or_path": "MODEL_PATH",
    "--data_path": "DATA",
    "--image_folder": "IMAGE_DATA",
    "--vision_tower": "VISION_TOWER",
    "--output_dir": "OUT_DIR",
}
"""What the training scripts take from the environment, for flags that are not given here."""
ON = """How to go on: name the files of a run, and what it reads, and it is checked as a whole.
  export MODEL_PATH=... DATA=... IMAGE_DATA=...
  senna doctor --config configs/stage2_driving.yaml --config configs/qlora.yaml [--gpu-memory 24]"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise UsageError(f"{message}; see senna doctor --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="senna doctor",
        usage="senna doctor [--config FILE ...] [--any_field_of_senna_train value ...] [--gpu-memory GB] [--gpus N]",
        description="Check this machine, and with --config the run that `senna train` with the same flags would be: packages, "
        "model, tower, tokenizer, records, images, disk and memory. Nothing is loaded, written or changed.",
        epilog="What is not given as a flag is taken from MODEL_PATH, DATA, IMAGE_DATA, VISION_TOWER and OUT_DIR, as the "
        "training scripts do. Exit code: 0 where nothing failed, else 2.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--gpu-memory",
        type=float,
        metavar="GB",
        help="judge by a card of so many GB that is not here (24 for an RTX 4090)",
    )
    parser.add_argument("--gpus", type=int, metavar="N", help="of so many cards (default: those here, or one)")
    return parser


def main(argv: list[str]) -> int:
    """Entry point of `senna doctor`. Returns 0 where nothing failed, else 2."""
    own, rest = _parser().parse_known_args(argv)
    for name, value in (("--gpu-memory", own.gpu_memory), ("--gpus", own.gpus)):
        if value is not None and not value > 0:
            raise UsageError(f"{name} {value:g}: a number above 0")
    run = [str(own.gpu_memory or 0), str(own.gpus or 0), *with_environment(rest)]
    # Two processes, of about the same work. bitsandbytes is tried where transformers loads it anyway.
    apart = ("torch", "bitsandbytes")
    workers = [
        Worker([name for name in PACKAGES if name not in apart], []),
        Worker([*apart, *(["run"] if rest else [])], run),
    ]
    findings: list[Finding] = []
    charts: list[str] = []
    try:
        for said in chain(machine.python(), *(worker.results() for worker in workers)):
            if isinstance(said, str):
                charts.append(said)
                continue
            finding = _without_a_card(said, own.gpu_memory) if own.gpu_memory else said
            if rest and finding.topic == "gpu" and finding.level == WARN and finding.says.startswith("none here"):
                continue  # whether the run needs one is a check of its own
            if finding.level == OK and "(for --" in finding.says and finding.topic in {one.topic for one in findings}:
                continue  # a package that works was told of already
            findings.append(finding)
            print(render(finding, sys.stdout), flush=True)
    finally:
        for worker in workers:
            worker.stop()
    for chart in charts:
        print(f"\n{chart}")
    print(f"\n{count(findings)}" + ("" if rest else f"\n{ON}"))
    return 2 if failed(findings) else 0


def _without_a_card(said: Finding, assumed: float) -> Finding:
    """That no card is here is a fact, where another machine's is asked about."""
    if said.topic == "gpu" and said.level == WARN:
        return Finding(OK, "gpu", f"none here; a card of {assumed:g} GB is assumed (--gpu-memory)")
    return said


def with_environment(argv: list[str]) -> list[str]:
    """The flags, and for those that are left out what the environment names."""
    given = {word.split("=", 1)[0] for word in argv}
    named = [(flag, os.environ.get(variable)) for flag, variable in VARIABLES.items() if flag not in given]
    return argv + [word for flag, value in named if value for word in (flag, value)]
