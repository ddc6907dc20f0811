"""Checks of free space for the files that a run writes, and of main memory for the weights that it loads."""

import os
from collections.abc import Iterator
from pathlib import Path

from senna.cgroup import memory_limits
from senna.doctor.context import RunContext
from senna.doctor.findings import FAIL, OK, WARN, Finding, size
from senna.files import free_space, nearest_existing
from senna.model.config import SennaConfig
from senna.train import checkpoint
from senna.train.arguments import TrainArguments
from senna.train.memory.estimate import gib
from senna.train.memory.model_shape import ModelShape

CHECKPOINT_BYTES = 12  # per trained weight: fp32, and AdamW's two states
_IN_MEMORY = ("tmpfs", "ramfs")


def weight_counts(args: TrainArguments, config: SennaConfig) -> tuple[int, int]:
    """Return the numbers of weights that are trained and that the final folder holds."""
    shape = ModelShape.from_config(config)
    if args.lora_enable:
        trained = shape.lora_weights(args.lora_r) + shape.adapter_weights
        return trained, trained
    llm = 0 if args.tune_mm_mlp_adapter or args.freeze_backbone else shape.llm_weights
    tower = shape.tower.weights if shape.tower else 0
    return llm + shape.adapter_weights, shape.llm_weights + shape.adapter_weights + tower


def disk(context: RunContext) -> Iterator[Finding]:
    """Check the space for the checkpoints that are kept, the next one that is written beside them, and the final folder."""
    folder = Path(context.args.output_dir)
    parent = nearest_existing(folder)
    if not os.access(parent, os.W_OK | os.X_OK):
        remedy = "set --output_dir DIR (OUT_DIR) to a folder that you can write"
        yield Finding(FAIL, "disk", f"{parent} is not writable", remedy)
        return
    free = free_space(parent)
    if context.config is None:
        yield Finding(OK, "disk", f"{size(free)} free at {parent}")
        return
    trained, stored = weight_counts(context.args, context.config)
    each, final = CHECKPOINT_BYTES * trained, stored * context.args.precision.itemsize
    kept = 2 if context.args.metric_for_best_model else 1  # the newest one, and the best
    number = kept + 1 - min(kept, len(checkpoint.checkpoints(folder)))
    needed = number * each + final
    message = f"{size(free)} free at {parent}, {size(needed)} needed"
    message += f" ({number} checkpoint{'s' * (number > 1)} of {size(each)} and the final model of {size(final)})"
    if free < needed:
        remedy = "set --output_dir DIR (OUT_DIR) to another disk, or make room"
        yield Finding(FAIL, "disk", f"--output_dir {folder}: {message}", remedy)
    elif file_system(parent) in _IN_MEMORY:
        message = f"{parent} is in main memory ({file_system(parent)}): checkpoints use it up and are lost at a restart"
        yield Finding(WARN, "disk", message, "set --output_dir DIR (OUT_DIR) to a folder on a disk")
    else:
        yield Finding(OK, "disk", message)


def file_system(folder: Path) -> str:
    """Return the file system type of a folder from /proc/mounts; "" if it is unknown."""
    try:
        lines = Path("/proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    mounts = {fields[1].replace("\\040", " "): fields[2] for line in lines if len(fields := line.split()) > 2}
    return next((mounts[str(parent)] for parent in [folder, *folder.parents] if str(parent) in mounts), "")


def main_memory() -> tuple[int, int]:
    """Return the total and the available main memory in bytes, within the limits of containers and jobs (cgroups)."""
    page = os.sysconf("SC_PAGE_SIZE")
    total, free = os.sysconf("SC_PHYS_PAGES") * page, os.sysconf("SC_AVPHYS_PAGES") * page
    info = _read_fields(Path("/proc/meminfo"))
    if "MemAvailable:" in info:
        free = int(info["MemAvailable:"].split()[0]) * 1024
    for limit in memory_limits():
        total, free = min(total, limit.total), min(free, limit.free)
    return total, free


def _read_fields(path: Path) -> dict[str, str]:
    try:
        return dict(line.split(None, 1) for line in path.read_text().splitlines() if " " in line)
    except OSError:
        return {}


def loading(context: RunContext) -> Iterator[Finding]:
    """Check the main memory for loading: each process holds the checkpoint until it is on the GPU."""
    total, free = main_memory()
    message = f"{gib(total)}, {gib(free)} available"
    if context.config is None or context.is_remote_gpu:
        yield Finding(OK, "main memory", message)
        return
    per_process = _loading_bytes(context.args, context.config)
    needed = per_process * context.local_processes
    message += f"; {gib(needed)} needed to load the weights"
    if context.local_processes > 1:
        message += f" ({context.local_processes} processes of {gib(per_process)})"
    if needed > free:
        yield Finding(WARN, "main memory", message, "end other programs, or use fewer processes here: NUM_GPUS=N")
    else:
        yield Finding(OK, "main memory", message)


def _loading_bytes(args: TrainArguments, config: SennaConfig) -> int:
    """Return the bytes of main memory that one process needs to load the weights."""
    shape = ModelShape.from_config(config)
    trained, _ = weight_counts(args, config)
    everything = shape.llm_weights + shape.adapter_weights + (shape.tower.weights if shape.tower else 0)
    frozen = everything - (0 if args.lora_enable else trained)
    if args.quantization:  # quantized shard by shard on the device, which for --use_cpu is main memory
        return frozen // 2 if args.use_cpu else 0
    trained_bytes = args.precision.itemsize if args.deepspeed else 4
    return frozen * args.precision.itemsize + trained * trained_bytes
