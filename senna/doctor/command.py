"""`senna doctor`: check the machine and, with the flags of a run, that run. Imports nothing heavy."""

import os
import sys
from collections.abc import Iterable
from dataclasses import replace
from itertools import chain

from senna.doctor import machine
from senna.doctor.findings import NO_GPU, OK, Finding, count, failed, render
from senna.doctor.packages import PACKAGES
from senna.doctor.worker import Worker
from senna.errors import UsageError
from senna.flags import ArgumentParser
from senna.launch.variables import plain_path

VARIABLES = {
    "--model_name_or_path": "MODEL_PATH",
    "--data_path": "DATA",
    "--image_folder": "IMAGE_DATA",
    "--vision_tower": "VISION_TOWER",
    "--output_dir": "OUT_DIR",
}
"""Environment variables of the training scripts, by the flag that they set."""

_ASSUMED = "no GPU found; a GPU with {:g} GB is assumed (--gpu-memory)"

NEXT_STEP = """Next: name the configuration, the model and the data of a run to check that run.
  export MODEL_PATH=... DATA=... IMAGE_DATA=...
  senna doctor --config configs/stage2_driving.yaml --config configs/qlora.yaml [--gpu-memory 24]"""


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="senna doctor",
        usage="senna doctor [--config FILE ...] [--any_field_of_senna_train value ...] [--gpu-memory GB] [--gpus N]",
        description="Check this machine and, with --config, the run that `senna train` would start with the same flags: "
        "packages, model, vision tower, tokenizer, records, images, disk and memory. Nothing is trained or written.",
        epilog="Flags that are not given are taken from MODEL_PATH, DATA, IMAGE_DATA, VISION_TOWER and OUT_DIR, the "
        "variables of the training scripts. Exit code: 0 if no check failed, otherwise 2.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--gpu-memory", type=float, metavar="GB", help="check for a GPU of this size that is not here (RTX 4090: 24)"
    )
    parser.add_argument("--gpus", type=int, metavar="N", help="number of GPUs (default: those of this machine, or one)")
    return parser


def main(argv: list[str]) -> int:
    """Run `senna doctor`. Return 0 if no check failed, otherwise 2."""
    options, train_flags = _parser().parse_known_args(argv)
    for name, value in (("--gpu-memory", options.gpu_memory), ("--gpus", options.gpus)):
        if value is not None and not value > 0:
            raise UsageError(f"{name} {value:g} is not a number above 0", remedy=f"use a positive number for {name}")
    run = [str(options.gpu_memory or 0), str(options.gpus or 0), *with_environment(train_flags)]
    # Two processes with about the same load. bitsandbytes is in the second one, where transformers imports it anyway.
    with_run = ["torch", "bitsandbytes"]
    workers = [
        Worker([name for name in PACKAGES if name not in with_run], []),
        Worker([*with_run, *(["run"] if train_flags else [])], run),
    ]
    try:
        results = chain(machine.python(), *(worker.results() for worker in workers))
        findings, charts = _show(results, bool(train_flags), options.gpu_memory)
    finally:
        for worker in workers:
            worker.stop()
    for chart in charts:
        print(f"\n{chart}")
    print(f"\n{count(findings)}" + ("" if train_flags else f"\n{NEXT_STEP}"))
    return 2 if failed(findings) else 0


def _show(results: Iterable[Finding | str], has_run: bool, gpu_memory: float | None) -> tuple[list[Finding], list[str]]:
    """Print findings as they come, and return them and the charts."""
    findings: list[Finding] = []
    charts: list[str] = []
    for result in results:
        if isinstance(result, str):
            charts.append(result)
            continue
        finding = result
        if finding.code == NO_GPU and gpu_memory:
            finding = replace(finding, level=OK, message=_ASSUMED.format(gpu_memory), remedy="")
        elif finding.code == NO_GPU and has_run:
            continue  # the run has its own check for a GPU
        is_shown = finding.topic in {shown.topic for shown in findings}
        if finding.level == OK and finding.required_by and is_shown:
            continue  # the same package was already shown to work
        findings.append(finding)
        print(render(finding, sys.stdout), flush=True)
    return findings, charts


def with_environment(argv: list[str]) -> list[str]:
    """Return the flags, and for flags that are missing the values of the environment variables."""
    given = {"--" + word[2:].split("=", 1)[0].replace("-", "_") for word in argv if word.startswith("--")}
    missing = [(flag, os.environ.get(variable)) for flag, variable in VARIABLES.items() if flag not in given]
    return argv + [word for flag, value in missing if value for word in (flag, plain_path(value))]
