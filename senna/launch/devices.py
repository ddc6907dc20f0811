"""The GPUs that the processes of a run see, and variables that make them use GPUs and cores well."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from senna.launch.processes import count_gpus, uses_several_processes


def visible_devices(environment: Mapping[str, str], processes: int) -> dict[str, str]:
    """Return the change of CUDA_VISIBLE_DEVICES that leaves a single process one GPU, the first that it would see.

    Libraries spread a single process over every GPU that they find. The change is empty if there is nothing to hide.
    """
    if processes != 1 or uses_several_processes(environment, processes) or count_gpus(environment) < 2:
        return {}
    visible = environment.get("CUDA_VISIBLE_DEVICES") or "0"
    return {"CUDA_VISIBLE_DEVICES": visible.split(",")[0].strip()}


def allocator_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the setting of torch's allocator that leaves fewer fragments; empty if the allocator is configured already.

    Every supported torch reads this name; newer ones also read PYTORCH_ALLOC_CONF.
    """
    if environment.get("PYTORCH_CUDA_ALLOC_CONF") or environment.get("PYTORCH_ALLOC_CONF"):
        return {}
    return {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}


def optimizer_threads(environment: Mapping[str, str], processes: int, deepspeed: str | None) -> dict[str, str]:
    """Return OMP_NUM_THREADS for several processes whose optimizer runs on the CPU: the cores are shared out equally.

    torchrun would set 1. The change is empty if the variable is set, or if nothing is offloaded.
    """
    if environment.get("OMP_NUM_THREADS") or processes < 2 or not deepspeed:
        return {}
    try:
        settings = json.loads(Path(deepspeed).read_text(encoding="utf-8"))
        device = settings["zero_optimization"]["offload_optimizer"]["device"]
    except (OSError, ValueError, KeyError, TypeError):  # `senna train` reads the file too, and reports its errors
        return {}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"OMP_NUM_THREADS": str(max(cores // processes, 1))} if device == "cpu" else {}
