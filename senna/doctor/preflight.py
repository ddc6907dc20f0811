"""The one list of checks of a run: `senna doctor` shows what they find, `senna train` refuses to begin where one fails."""

import dataclasses
import importlib.util
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch

from senna.data import Mixture
from senna.doctor import data, disk, machine, models, tokenizer
from senna.doctor.context import RunContext
from senna.doctor.findings import FAIL, OK, WARN, Finding, failed, of_error, render
from senna.doctor.machine import BF16_FROM
from senna.doctor.packages import compiler, try_package
from senna.doctor.verdict import memory_findings
from senna.errors import SennaError, UsageError
from senna.train import checkpoint
from senna.train.arguments import TrainArguments
from senna.train.memory.model_shape import published_config

_SPEAK = 2  # seconds: a launcher that sees one process end stops the others, the main one before it has said why
Check = Callable[[RunContext], Iterable[Finding] | None]


def _names(case: RunContext) -> Iterator[Finding]:
    for name, variable in {"model_name_or_path": "MODEL_PATH", "data_path": "DATA"}.items():
        if not getattr(case.args, name):
            remedy = f"--{name}, or {variable} in the environment of the training scripts and of senna doctor"
            says = f"--{name} is not set" + ("" if case.starts else ": nothing of it is checked")
            yield Finding(FAIL if case.starts else WARN, "arguments", says, remedy)


def _device(case: RunContext) -> None:
    if not torch.cuda.is_available() and not case.args.use_cpu and not case.elsewhere:
        raise UsageError(
            "no GPU here: set --use_cpu True to train on the CPU (PRESET=tiny does, with a model that fits)"
        )


def _installed(case: RunContext) -> None:
    args = case.args
    if args.quantization and importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError(f"--bits {args.bits}: bitsandbytes is not installed: pip install -e '.[gpu]', or --bits 16")
    if args.use_liger_kernel and (args.use_cpu or importlib.util.find_spec("liger_kernel") is None):
        raise UsageError(
            "--use_liger_kernel: Liger's kernels are for CUDA, and come with pip install -e '.[gpu]'; leave the flag out here"
        )


def needed_packages(case: RunContext) -> dict[str, str]:
    """The optional packages that a run uses, and what asks for each."""
    args = case.args
    several = not case.starts and case.gpus > 1 and f"{case.gpus} processes"  # the training scripts start them under it
    flags = {
        "bitsandbytes": args.quantization and f"--bits {args.bits}",
        "deepspeed": (args.deepspeed and "--deepspeed") or several,
        "flash-attn": args.attn_implementation == "flash_attention_2" and "--attn_implementation flash_attention_2",
        "liger-kernel": args.use_liger_kernel and "--use_liger_kernel",
    }
    return {name: flag for name, flag in flags.items() if flag}


def _work(case: RunContext) -> Iterator[Finding]:
    """That the packages the run uses do their work on the device it uses. In this process: it loads them anyway."""
    device = "cuda" if torch.cuda.is_available() and not case.args.use_cpu else "cpu"
    for name, flag in needed_packages(case).items():
        if name == "flash-attn" and device == "cpu" and not case.elsewhere:
            yield Finding(FAIL, name, f"{flag}: works on a GPU only", "--attn_implementation sdpa")
            continue
        found = try_package(name, device, level=FAIL)
        remedy = f"{found.remedy}   (or go without {flag})" if found.level == FAIL else found.remedy
        yield dataclasses.replace(found, says=f"{found.says} (for {flag})", remedy=remedy)
    offload = (case.args.deepspeed or {}).get("zero_optimization", {}).get("offload_optimizer", {})
    if offload.get("device", "none") != "none" and compiler() is None:
        says = (
            "the optimizer is to be kept in main memory, for which DeepSpeed builds its CPU Adam: no C++ compiler here"
        )
        yield Finding(FAIL, "deepspeed", says, "apt install g++   (or configs/deepspeed/zero3.json)")


def _card(case: RunContext) -> Iterator[Finding]:
    """The card that is here: whether it computes in bf16, and whether others hold a part of it."""
    if case.elsewhere or case.args.use_cpu or not torch.cuda.is_available():
        return
    capability = torch.cuda.get_device_capability()
    if case.args.bf16 and capability < BF16_FROM:
        says = "--bf16 on a card of compute capability {}.{}: it only imitates bf16, slowly".format(*capability)
        yield Finding(WARN, "gpu", says, "--bf16 False --fp16 True")
    if case.starts:  # `senna doctor` says it of every card
        yield from machine.held_by_others(torch.cuda.current_device())


def _output(case: RunContext) -> Iterator[Finding]:
    """Which checkpoint a run goes on from, into the case. Raises UsageError as `check_output_folder` does."""
    if not (case.args.model_name_or_path and case.args.data_path):
        return
    folder = Path(case.args.output_dir)
    settings = checkpoint.run_settings(case.args) if (folder / checkpoint.RUN_FILE).is_file() else {}
    if not case.starts:  # `senna doctor` is one process, whatever the run is
        settings = {k: v for k, v in settings.items() if k not in ("world_size", "global_batch_size", "zero_stage")}
    case.start_from = checkpoint.check_output_folder(folder, settings)
    if checkpoint.is_finished(folder):
        yield Finding(OK, "output", f"{folder} holds the finished model of these settings: nothing is left to do")
    elif case.start_from is not None:
        yield Finding(OK, "output", f"{folder}: the run goes on from {case.start_from.name}")
    else:
        yield Finding(OK, "output", f"{folder} is free for this run")


def _memory(case: RunContext) -> Iterator[Finding | str]:
    """What the run takes of a card, or on a CPU of main memory, and a chart of it by part."""
    if case.config is None and case.args.model_name_or_path:
        return  # what is wrong with it is told
    room = disk.main_memory()[1] if case.args.use_cpu else case.card
    findings, chart = memory_findings(case.args, case.config or published_config(), room, case.gpus)
    if case.config is None:
        findings[0] = dataclasses.replace(findings[0], says=f"the 7B model takes {findings[0].says}")
    yield from findings
    yield chart


NEEDED: tuple[tuple[str, Check], ...] = (
    ("arguments", _names),
    ("gpu", _device),
    ("packages", _installed),
    ("model", models.config),
    ("output", _output),
    ("data", data.records),
)
"""Without these no run can start, so that `--skip_checks` leaves them on. By topic."""

FURTHER: tuple[tuple[str, Check], ...] = (
    ("gpu", _card),
    ("packages", _work),
    ("model", models.weights),
    ("tower", models.tower),
    ("tokenizer", tokenizer.tokenizer),
    ("images", data.images),
    ("disk", disk.disk),
    ("main memory", disk.loading),
    ("memory", _memory),
)


def examine(case: RunContext, checks: tuple[tuple[str, Check], ...], broken: str = FAIL) -> Iterator[Finding | str]:
    """What checks find, and the chart of memory. One that fails hides no other; ``broken``: the level of one that breaks."""
    for topic, check in checks:
        try:
            yield from check(case) or ()
        except SennaError as error:
            yield of_error(topic, error)
        except Exception as error:  # a damaged file in a way that no check thought of, say
            yield Finding(broken, topic, f"could not be checked: {type(error).__name__}: {error}")


def before_training(args: TrainArguments) -> tuple[Path | None, Mixture | None]:
    """The checkpoint to go on from, and the records, read; raises UsageError where a check fails.

    Every process makes the checks without which it cannot start; one on each machine makes all, and all processes stop
    where one has failed anywhere. The main process says what is to be said. Nothing has been loaded or written by then.
    """
    if checkpoint.is_finished(Path(args.output_dir)):
        checkpoint.check_output_folder(Path(args.output_dir), checkpoint.run_settings(args))
        return None, None
    case = RunContext(args, starts=True, gpus=args.world_size, here=int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if torch.cuda.is_available() and not args.use_cpu:
        case.card = torch.cuda.get_device_properties(args.device).total_memory
    needed, further = list(examine(case, NEEDED)), []
    if args.local_process_index == 0 and not args.skip_checks:
        further = [said for said in examine(case, FURTHER, WARN) if isinstance(said, Finding)]
    needed, further = _everywhere(needed), _everywhere(further)
    if args.process_index == 0:
        _tell([*needed, *further])
    if wrong := failed([*needed, *further]):
        hint = "`senna doctor` with the same flags shows every check"
        if not failed(needed):
            hint += "; --skip_checks True begins all the same"
        lines = [f"{len(wrong)} check{'s' * (len(wrong) > 1)} failed", *(render(finding) for finding in wrong), hint]
        if args.process_index > 0:
            time.sleep(_SPEAK)
        raise UsageError("\n".join(lines))
    return case.start_from, case.records


def _everywhere(findings: list[Finding]) -> list[Finding]:
    """What this process and all others have found, each once, with the machine's name where it is another."""
    if not torch.distributed.is_initialized():
        return findings
    everyone: list = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, (socket.gethostname(), findings))
    main, _ = everyone[0]
    all_of_them = [
        finding if host == main else dataclasses.replace(finding, says=f"on {host}: {finding.says}")
        for host, found in everyone
        for finding in found
    ]
    return list(dict.fromkeys(all_of_them))


def _tell(findings: list[Finding]) -> None:
    """Warnings, and how many checks found nothing wrong; what failed is told by the error."""
    for finding in findings:
        if finding.level == WARN:
            print(render(finding, sys.stderr), file=sys.stderr, flush=True)
    if not failed(findings):
        good = sum(finding.level == OK for finding in findings)
        print(f"checks   {good} ok (senna doctor with the same flags shows them)", flush=True)
