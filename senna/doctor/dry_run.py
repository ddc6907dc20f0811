"""Check a run without starting it. The flags may be wrong, and the GPU may be in another machine."""

from collections.abc import Callable, Iterator

import torch

from senna.doctor.context import RunContext
from senna.doctor.findings import WARN, Finding, from_error
from senna.doctor.preflight import FURTHER, REQUIRED, run_checks
from senna.errors import UsageError
from senna.train.arguments import TrainArguments, parse_arguments

USABLE = 0.985
"""Share of a GPU's nominal GiB that torch finds: 23.65 of 24 on an RTX 4090, 31.74 of 32 on a V100, 79.2 of 80 on an A100."""


def run_findings(argv: list[str], gpu_memory: float | None = None, gpus: int | None = None) -> Iterator[Finding | str]:
    """Yield the findings of the checks of a run, and the chart of its memory.

    Args:
        argv: flags of `senna train`. Each wrong flag or key is a finding, and the run is checked without it.
        gpu_memory: GB of a GPU that is not in this machine, as GPUs are sold.
        gpus: number of GPUs.
    """
    is_remote = gpu_memory is not None

    def count_processes(args: TrainArguments) -> int:
        has_gpu = torch.cuda.is_available() and not args.use_cpu
        return gpus or (torch.cuda.device_count() if has_gpu and not is_remote else 1)

    args, problems = parse(argv, count_processes)
    yield from problems
    if args is None:
        return
    has_gpu = torch.cuda.is_available() and not args.use_cpu
    context = RunContext(args, is_preflight=False, is_remote_gpu=is_remote and not args.use_cpu)
    if gpu_memory is not None and not args.use_cpu:
        context.gpu_bytes = round(USABLE * gpu_memory * 2**30)
    elif has_gpu:
        devices = range(torch.cuda.device_count())
        context.gpu_bytes = min(torch.cuda.get_device_properties(index).total_memory for index in devices)
    context.num_processes = count_processes(args)
    context.local_processes = context.num_processes
    yield from run_checks(context, REQUIRED)
    yield from run_checks(context, FURTHER, WARN)


def parse(
    argv: list[str], count_processes: Callable[[TrainArguments], int] | None = None
) -> tuple[TrainArguments | None, list[Finding]]:
    """Return the arguments without flags and keys that cannot be used, and a finding for each of those.

    The arguments are None if the values exclude each other.
    """
    problems: list[Finding] = []

    def report(error: UsageError) -> None:
        problems.append(from_error("arguments", error))

    try:
        args = parse_arguments(argv, report, count_processes)
    except UsageError as error:
        return None, [*problems, from_error("arguments", error)]
    return args, problems
