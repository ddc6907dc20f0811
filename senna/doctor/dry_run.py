"""The checks of a run without the run: from flags that may be wrong, for a card that may be elsewhere."""

import re
import tempfile
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import torch
import yaml

from senna.doctor.context import RunContext
from senna.doctor.findings import FAIL, WARN, Finding, of_error
from senna.doctor.preflight import FURTHER, NEEDED, examine
from senna.errors import UsageError
from senna.train.arguments import PUBLISHED_NAMES, TrainArguments, nearest, parse_arguments, read_yaml

USABLE = 0.985
"""Of a card's nominal GiB: torch finds 23.65 GiB on an RTX 4090 of 24, 31.74 on a V100 of 32, 79.2 on an A100 of 80."""
_UNKNOWN = re.compile(r"unknown argument ([^\s;]+)")


def run_findings(argv: list[str], gpu_memory: float | None = None, gpus: int | None = None) -> Iterator[Finding | str]:
    """What the checks of a run find, and the chart of its memory.

    ``argv`` are flags of `senna train`; ``gpu_memory``, in GB as cards are sold, is of a card that is not here, ``gpus`` of
    how many. A wrong flag or key is one finding, and the run without it is checked further.
    """
    problems: list[Finding] = []
    with tempfile.TemporaryDirectory() as folder:
        args = parse(mend_files(argv, Path(folder), problems), problems)
    yield from problems
    if args is None:
        return
    here = torch.cuda.is_available() and not args.use_cpu
    case = RunContext(args, starts=False, elsewhere=gpu_memory is not None and not args.use_cpu)
    if case.elsewhere:
        case.card = round(USABLE * gpu_memory * 2**30)
    elif here:
        case.card = min(torch.cuda.get_device_properties(n).total_memory for n in range(torch.cuda.device_count()))
    case.gpus = gpus or (torch.cuda.device_count() if here and not case.elsewhere else 1)
    case.here = case.gpus
    yield from examine(case, NEEDED)
    yield from examine(case, FURTHER, WARN)


def parse(argv: list[str], problems: list[Finding]) -> TrainArguments | None:
    """The arguments without the flags that are unknown, each of which is a problem; None where they cannot be made."""
    argv, pretended = list(argv), []
    while True:
        try:
            args = parse_arguments([*argv, *pretended])
        except UsageError as error:
            unknown = _UNKNOWN.search(str(error))
            if unknown and unknown[1] in argv:
                problems.append(of_error("arguments", error))
                _leave_out(unknown[1], argv)
            elif not pretended and not torch.cuda.is_available():
                # transformers refuses bf16 where no card is; whether there is one is a check of its own
                pretended = ["--use_cpu", "True"]
            else:
                problems.append(Finding(FAIL, "arguments", str(error), "mend this, and the run is checked further"))
                return None
        else:
            args.use_cpu = args.use_cpu and not pretended
            return args


def _leave_out(flag: str, argv: list[str]) -> None:
    """Remove a flag and its values from ``argv``."""
    at = argv.index(flag)
    del argv[at]
    while at < len(argv) and not argv[at].startswith("--"):
        del argv[at]


def mend_files(argv: list[str], folder: Path, problems: list[Finding]) -> list[str]:
    """``argv`` with copies, in ``folder``, of the --config files whose unknown keys are problems, without those keys."""
    mended = list(argv)
    for place, word in enumerate(argv):
        flag, _, path = word.partition("=")
        if flag != "--config" or (not path and place + 1 == len(argv)):
            continue
        copy = _mend_file(path or argv[place + 1], folder / f"{place}.yaml", problems)
        if path:
            mended[place] = f"--config={copy}"
        else:
            mended[place + 1] = copy
    return mended


def _mend_file(path: str, copy: Path, problems: list[Finding]) -> str:
    try:
        read_yaml(path)
        return path
    except UsageError as error:
        try:
            values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError):
            values = None
        known = [f.name for f in fields(TrainArguments) if f.init]
        unknown = (
            [key for key in values if PUBLISHED_NAMES.get(key, key) not in known] if isinstance(values, dict) else []
        )
        if not unknown:
            problems.append(of_error("arguments", error))
            copy.write_text("")
            return str(copy)
    for key in unknown:
        near = nearest(str(key), known).strip(" ()?").removeprefix("did you mean ")
        remedy = f"write {near}:" if near else "senna train --help_all lists the keys"
        problems.append(Finding(FAIL, "arguments", f"--config {path}{_line(path, key)}: unknown key {key}", remedy))
        del values[key]
    if isinstance(values.get("deepspeed"), str) and (Path(path).parent / values["deepspeed"]).is_file():
        values["deepspeed"] = str((Path(path).parent / values["deepspeed"]).resolve())
    copy.write_text(yaml.safe_dump(values))
    return str(copy)


def _line(path: str, key: object) -> str:
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    its = re.compile(rf"['\"]?{re.escape(str(key))}['\"]?\s*:")
    return next((f", line {number}" for number, line in enumerate(lines, start=1) if its.match(line)), "")
