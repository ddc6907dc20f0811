"""Room for what a run writes, and main memory for what it reads."""

import os
from collections.abc import Iterator
from pathlib import Path

from senna.doctor.context import RunContext
from senna.doctor.findings import FAIL, OK, WARN, Finding, size
from senna.files import free_space, nearest_existing
from senna.train import checkpoint
from senna.train.memory.estimate import gib
from senna.train.memory.model_shape import ModelShape

CHECKPOINT = 12  # bytes a trained weight: fp32, and AdamW's two moments
_IN_MEMORY = ("tmpfs", "ramfs")


def counts(case: RunContext) -> tuple[int, int]:
    """How many weights train, and how many the final folder holds."""
    args, geometry = case.args, ModelShape.of(case.config)
    adapters = geometry.adapter_weights
    if args.lora_enable:
        trained = geometry.lora_weights(args.lora_r) + adapters
        return trained, trained
    llm = 0 if args.tune_mm_mlp_adapter or args.freeze_backbone else geometry.llm_weights
    return llm + adapters, geometry.llm_weights + adapters + geometry.tower.weights


def disk(case: RunContext) -> Iterator[Finding]:
    """Room for the checkpoint that is kept, the one that is being written, and the final folder."""
    folder = Path(case.args.output_dir)
    place = nearest_existing(folder)
    if not os.access(place, os.W_OK | os.X_OK):
        yield Finding(FAIL, "disk", f"{place} cannot be written to", "--output_dir DIR (OUT_DIR): a folder of yours")
        return
    free = free_space(place)
    if case.config is None:
        yield Finding(OK, "disk", f"{size(free)} free at {place}")
        return
    trained, held = counts(case)
    one, final = CHECKPOINT * trained, held * case.args.precision.itemsize
    there = min(1, len(checkpoint.checkpoints(folder)))
    needed = (2 - there) * one + final
    parts = (
        f"{size(needed)} needed: {2 - there} checkpoint{'s' * (1 - there)} of {size(one)} and the final {size(final)}"
    )
    if free < needed:
        yield Finding(
            FAIL,
            "disk",
            f"--output_dir {folder}: {size(free)} free at {place}, {parts}",
            "--output_dir DIR (OUT_DIR) on another disk, or make room",
        )
    elif file_system(place) in _IN_MEMORY:
        says = f"{place} is in main memory ({file_system(place)}): checkpoints take that, and are gone after a restart"
        yield Finding(WARN, "disk", says, "--output_dir DIR (OUT_DIR) on a disk")
    else:
        yield Finding(OK, "disk", f"{size(free)} free at {place}, {parts}")


def file_system(place: Path) -> str:
    """The kind of file system that a folder is on, by /proc/mounts; "" where there is none."""
    try:
        lines = Path("/proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    mounts = {fields[1].replace("\\040", " "): fields[2] for line in lines if len(fields := line.split()) > 2}
    return next((mounts[str(parent)] for parent in [place, *place.parents] if str(parent) in mounts), "")


def main_memory() -> tuple[int, int]:
    """Bytes of main memory: in all, and that could be had now. A container's limit (cgroup) counts as the whole."""
    pages = os.sysconf("SC_PAGE_SIZE")
    total, free = os.sysconf("SC_PHYS_PAGES") * pages, os.sysconf("SC_AVPHYS_PAGES") * pages
    facts = _lines(Path("/proc/meminfo"))
    if "MemAvailable:" in facts:
        free = int(facts["MemAvailable:"].split()[0]) * 1024
    group = Path("/sys/fs/cgroup")
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            most = int((group / limit).read_text())
            free = min(free, most - int((group / used).read_text()))
            total = min(total, most)
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return total, max(free, 0)


def _lines(path: Path) -> dict[str, str]:
    try:
        return dict(line.split(None, 1) for line in path.read_text().splitlines() if " " in line)
    except OSError:
        return {}


def loading(case: RunContext) -> Iterator[Finding]:
    """Main memory against what loading takes: each process reads the checkpoint, and holds it until it is on the card."""
    total, free = main_memory()
    if case.config is None or case.elsewhere:
        yield Finding(OK, "main memory", f"{gib(total)}, {gib(free)} available")
        return
    args, geometry = case.args, ModelShape.of(case.config)
    trained, _ = counts(case)
    everything = geometry.llm_weights + geometry.adapter_weights + geometry.tower.weights
    frozen = everything - (0 if args.lora_enable else trained)
    in_fp32 = 4 if not args.deepspeed else args.precision.itemsize
    each = frozen * args.precision.itemsize + trained * in_fp32
    if args.quantization:  # shard by shard straight to the card; on a CPU that is main memory too
        each = frozen // 2 if args.use_cpu else 0
    needed = each * case.here
    says = f"{gib(total)}, {gib(free)} available; {gib(needed)} needed to load the weights"
    says += f" ({case.here} processes of {gib(each)})" if case.here > 1 else ""
    if needed > free:
        yield Finding(
            WARN, "main memory", says, "end other programs, or NUM_GPUS=N with fewer processes on this machine"
        )
    else:
        yield Finding(OK, "main memory", says)
