"""The checks of a run: `senna doctor` shows their results, and `senna train` refuses to start if one fails."""

import dataclasses
import importlib.util
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch

from senna.data import Mixture
from senna.doctor import data, disk, machine, models, shared_memory, tokenizer
from senna.doctor.context import RunContext
from senna.doctor.findings import FAIL, OK, WARN, Finding, Level, failed, from_error, render
from senna.doctor.machine import BF16_CAPABILITY
from senna.doctor.packages import compiler, install_command, try_package
from senna.doctor.verdict import memory_findings
from senna.errors import SennaError, UsageError
from senna.ranks import read_ranks
from senna.train import checkpoint
from senna.train.arguments import TrainArguments
from senna.train.memory.model_shape import published_config
from senna.train.partitions import check_processes
from senna.train.trackers import has_wandb_login, missing_trackers, tracker_lines, wandb_mode

_EXIT_DELAY = 2  # seconds: a launcher that sees one process end kills the main process, which prints the message
Check = Callable[[RunContext], Iterable[Finding | str]]


def _arguments(context: RunContext) -> Iterator[Finding]:
    for name, variable in {"model_name_or_path": "MODEL_PATH", "data_path": "DATA"}.items():
        if getattr(context.args, name):
            continue
        remedy = f"set --{name}, or {variable} for the training scripts and senna doctor"
        if context.is_preflight:
            yield Finding(FAIL, "arguments", f"--{name} is not set", remedy)
        else:
            yield Finding(WARN, "arguments", f"--{name} is not set, so it is not checked", remedy)


def _device(context: RunContext) -> Iterator[Finding]:
    if not torch.cuda.is_available() and not context.args.use_cpu and not context.is_remote_gpu:
        remedy = "set --use_cpu True to train on the CPU (PRESET=tiny does, with a model that fits)"
        yield Finding(FAIL, "gpu", "no GPU found", remedy)


def _installed(context: RunContext) -> Iterator[Finding]:
    args = context.args
    if args.quantization and importlib.util.find_spec("bitsandbytes") is None:
        remedy = f"{install_command('bitsandbytes')}   (or use --bits 16)"
        yield Finding(FAIL, "packages", f"--bits {args.bits} requires bitsandbytes, which is not installed", remedy)
    if args.use_liger_kernel and args.use_cpu:
        yield Finding(FAIL, "packages", "--use_liger_kernel works on CUDA only", "leave out --use_liger_kernel")
    elif args.use_liger_kernel and importlib.util.find_spec("liger_kernel") is None:
        remedy = f"{install_command('liger-kernel')}   (or leave out --use_liger_kernel)"
        yield Finding(FAIL, "packages", "--use_liger_kernel requires liger-kernel, which is not installed", remedy)


def _trackers(context: RunContext) -> Iterator[Finding]:
    args = context.args
    for name, install in missing_trackers(args.report_to).items():
        message = f"--report_to {name} requires {name}, which is not installed"
        yield Finding(FAIL, "trackers", message, f"{install}   (or leave out {name})")
    if "wandb" in args.report_to and wandb_mode() == "online" and not has_wandb_login():
        message = "--report_to wandb: WANDB_MODE is online, and there is no API key"
        yield Finding(
            FAIL, "trackers", message, "wandb login, or set WANDB_API_KEY, or unset WANDB_MODE to run offline"
        )
    if not missing_trackers(args.report_to):
        yield from (Finding(OK, "trackers", line) for line in tracker_lines(args))


def required_packages(context: RunContext) -> dict[str, str]:
    """Return the optional packages that a run uses, with the flag or setting that requires each."""
    args = context.args
    # The training scripts start several processes under DeepSpeed.
    several = f"{context.num_processes} processes" if not context.is_preflight and context.num_processes > 1 else ""
    required = {
        "bitsandbytes": args.quantization and f"--bits {args.bits}",
        "deepspeed": (args.deepspeed and "--deepspeed") or several,
        "flash-attn": args.attn_implementation == "flash_attention_2" and "--attn_implementation flash_attention_2",
        "liger-kernel": args.use_liger_kernel and "--use_liger_kernel",
    }
    return {name: flag for name, flag in required.items() if flag}


def _packages(context: RunContext) -> Iterator[Finding]:
    """Check that the packages of the run work on its device. They are tried in this process, which will import them anyway."""
    device = "cuda" if torch.cuda.is_available() and not context.args.use_cpu else "cpu"
    for name, flag in required_packages(context).items():
        if name == "flash-attn" and device == "cpu" and not context.is_remote_gpu:
            yield Finding(FAIL, name, f"{flag} works on a GPU only", "--attn_implementation sdpa")
        else:
            yield try_package(name, device, level=FAIL, required_by=flag)
    deepspeed = context.args.deepspeed if isinstance(context.args.deepspeed, dict) else {}
    offload = deepspeed.get("zero_optimization", {}).get("offload_optimizer", {})
    if offload.get("device", "none") != "none" and compiler() is None:
        message = "offloading the optimizer requires DeepSpeed's CPU Adam, and there is no C++ compiler to build it"
        yield Finding(FAIL, "deepspeed", message, "apt install g++   (or use configs/deepspeed/zero3.json)")


def _gpu(context: RunContext) -> Iterator[Finding]:
    """Check that the GPU of this machine has bf16 units, and that other processes do not use its memory."""
    if context.is_remote_gpu or context.args.use_cpu or not torch.cuda.is_available():
        return
    capability = torch.cuda.get_device_capability()
    if context.args.bf16 and capability < BF16_CAPABILITY:
        version = ".".join(map(str, capability))
        message = f"--bf16 on a GPU of compute capability {version}, which emulates bf16 slowly"
        yield Finding(WARN, "gpu", message, "--bf16 False --fp16 True")
    if context.is_preflight:  # `senna doctor` checks every GPU
        used = machine.used_by_others(torch.cuda.current_device())
        if used is not None:
            yield used


def _output(context: RunContext) -> Iterator[Finding]:
    """Check that the output folder is free or holds the same run.

    Raises:
        UsageError: the folder holds something else or a run with other settings.
    """
    if not (context.args.model_name_or_path and context.args.data_path):
        return
    folder = Path(context.args.output_dir)
    settings = checkpoint.run_settings(context.args) if (folder / checkpoint.RUN_FILE).is_file() else {}
    if not context.is_preflight:  # `senna doctor` is one process, and the run may have several
        settings = {k: v for k, v in settings.items() if k not in ("world_size", "global_batch_size", "zero_stage")}
    start_from = checkpoint.check_output_folder(folder, settings)
    if checkpoint.is_finished(folder):
        yield Finding(OK, "output", f"{folder} holds the finished model of this run; nothing is left to do")
    elif start_from is not None:
        start_from, damaged = checkpoint.newest_intact(folder, read_everything=False)
        if start_from is not None and isinstance(context.args.deepspeed, dict):
            check_processes(start_from, context.args.deepspeed, context.num_processes)
        for path, reason in damaged.items():
            yield Finding(WARN, "output", f"{path} is damaged ({reason})", "the run continues from an older checkpoint")
        yield Finding(
            OK, "output", f"{folder}: the run continues from {start_from.name if start_from else 'the start'}"
        )
    else:
        yield Finding(OK, "output", f"{folder} is free for this run")


def _memory(context: RunContext) -> Iterator[Finding | str]:
    """Predict the memory of the run on each GPU, or in main memory for a CPU run, and chart it by part."""
    if context.config is None and context.args.model_name_or_path:
        return  # another check has reported why the configuration cannot be read
    available = disk.main_memory()[1] if context.args.use_cpu else context.gpu_bytes
    config = context.config or published_config()
    findings, chart = memory_findings(context.args, config, available, context.num_processes)
    if context.config is None:
        findings[0] = dataclasses.replace(findings[0], message=f"the 7B model needs {findings[0].message}")
    yield from findings
    yield chart


REQUIRED: tuple[tuple[str, Check], ...] = (
    ("arguments", _arguments),
    ("gpu", _device),
    ("packages", _installed),
    ("trackers", _trackers),
    ("model", models.config),
    ("output", _output),
    ("data", data.records),
    ("held-out data", data.held_out),
)
"""(topic, check) of the checks without which no run can start. `--skip_checks` does not skip them."""

FURTHER: tuple[tuple[str, Check], ...] = (
    ("gpu", _gpu),
    ("packages", _packages),
    ("model", models.weights),
    ("tower", models.tower),
    ("tokenizer", tokenizer.tokenizer),
    ("images", data.images),
    ("disk", disk.disk),
    ("main memory", disk.loading),
    ("shared memory", shared_memory.shared_memory),
    ("memory", _memory),
)


def run_checks(
    context: RunContext, checks: tuple[tuple[str, Check], ...], on_crash: Level = FAIL
) -> Iterator[Finding | str]:
    """Yield the findings of all checks, and the memory chart. Later checks run even if one fails.

    Args:
        on_crash: level of the finding for a check that raises an unexpected exception.
    """
    for topic, check in checks:
        try:
            yield from check(context)
        except SennaError as error:
            yield from_error(topic, error)
        except Exception as error:  # for example a file that is damaged in a way that no check expects
            message = f"could not be checked: {type(error).__name__}: {error}"
            yield Finding(on_crash, topic, message, "look at the file or folder that the message names, and replace it")


def preflight(args: TrainArguments) -> Mixture | None:
    """Check a run before it starts, print warnings, and return its records (None for a finished run).

    Every process runs the required checks. One process on each machine runs the others, unless ``args.skip_checks``.
    All processes stop if a check fails in one of them; the main process prints the findings. Nothing is loaded or
    written.

    Raises:
        UsageError: a check failed.
    """
    if checkpoint.is_finished(Path(args.output_dir)):
        return None  # `senna.train.run.train` compares the settings
    args.start()
    local_processes = read_ranks().local_world_size
    context = RunContext(args, is_preflight=True, num_processes=args.world_size, local_processes=local_processes)
    if torch.cuda.is_available() and not args.use_cpu:
        context.gpu_bytes = torch.cuda.get_device_properties(args.device).total_memory
    required = _gather([result for result in run_checks(context, REQUIRED) if isinstance(result, Finding)])
    further: list[Finding] = []
    if args.local_process_index == 0 and not args.skip_checks:
        further = [result for result in run_checks(context, FURTHER, WARN) if isinstance(result, Finding)]
    findings = [*required, *_gather(further)]
    if args.process_index == 0:
        _print_summary(findings)
    if failures := failed(findings):
        if args.process_index > 0:
            time.sleep(_EXIT_DELAY)
        raise _failure(failures, can_skip=not failed(required))
    return context.records


def _failure(failures: list[Finding], can_skip: bool) -> UsageError:
    lines = [f"{len(failures)} check{'s' * (len(failures) > 1)} failed", *(render(finding) for finding in failures)]
    remedy = "run senna doctor with the same flags to see every check"
    if can_skip:
        remedy += ", or start without these checks: --skip_checks True"
    return UsageError("\n".join(lines), remedy=remedy)


def _gather(findings: list[Finding]) -> list[Finding]:
    """Return the findings of all processes without duplicates. Those of other machines begin with the host's name."""
    if not torch.distributed.is_initialized():
        return findings
    gathered: list = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, (socket.gethostname(), findings))
    main_host, _ = gathered[0]
    merged = [
        finding if host == main_host else dataclasses.replace(finding, message=f"on {host}: {finding.message}")
        for host, of_process in gathered
        for finding in of_process
    ]
    return list(dict.fromkeys(merged))


def _print_summary(findings: list[Finding]) -> None:
    """Print warnings and, if nothing failed, the number of passed checks. The exception reports failures."""
    for finding in findings:
        if finding.level == WARN:
            print(render(finding, sys.stderr), file=sys.stderr, flush=True)
    if not failed(findings):
        passed = sum(finding.level == OK for finding in findings)
        print(f"checks   {passed} ok (run senna doctor with the same flags to see them)", flush=True)
