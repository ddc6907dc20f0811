"""Checks of Python, the required libraries, torch and the GPUs. A function that imports torch says so."""

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

from senna.doctor.findings import FAIL, NO_GPU, OK, WARN, Finding
from senna.train.memory.estimate import gib

INSTALL = "pip install -c constraints.txt -e ."
CUDA_TORCH = (
    "pip uninstall -y torch && pip install -c constraints.txt torch   (without --index-url and --extra-index-url)"
)
SHOWN = ("transformers", "accelerate", "peft", "huggingface_hub")
BF16_CAPABILITY = (8, 0)
"""The lowest compute capability with bf16 units (Ampere; CUDA C++ Programming Guide, "Compute Capabilities")."""


def python() -> Iterator[Finding]:
    """Check the Python version against the package's requirement, and the required libraries."""
    from packaging.specifiers import SpecifierSet

    version = platform.python_version()
    message = f"{version} on {platform.system()} {platform.machine()}"
    try:
        required = importlib.metadata.metadata("senna").get("Requires-Python") or ""
    except importlib.metadata.PackageNotFoundError:
        yield Finding(OK, "python", message)
        yield Finding(
            WARN, "libraries", "the package senna is not installed, so that library versions are not checked", INSTALL
        )
        return
    fits = SpecifierSet(required).contains(version)
    yield Finding(OK if fits else FAIL, "python", message, "" if fits else f"use Python {required}")
    yield from libraries()


def libraries() -> Iterator[Finding]:
    """Check the required libraries: a missing one fails, one outside the tested range is a warning."""
    from packaging.requirements import Requirement

    versions, all_fit = {}, True
    for text in importlib.metadata.requires("senna") or []:
        requirement = Requirement(text)
        name = requirement.name
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            all_fit = False
            remedy = f"{INSTALL}   (or: pip install '{requirement}')"
            yield Finding(FAIL, "libraries", f"{name} is not installed", remedy)
            continue
        if not requirement.specifier.contains(versions[name], prereleases=True):
            all_fit = False
            message = f"{name} {versions[name]} is not in the tested range {requirement.specifier}"
            yield Finding(WARN, "libraries", message, f"pip install -c constraints.txt '{requirement}'")
    if all_fit:
        yield Finding(OK, "libraries", ", ".join(f"{name} {versions[name]}" for name in SHOWN if name in versions))


@dataclass(frozen=True)
class DriverGpu:
    """A GPU as nvidia-smi lists it; ``total`` and ``free`` are in bytes."""

    name: str
    total: int
    free: int
    capability: tuple[int, int]
    driver: str


def driver_gpus() -> list[DriverGpu]:
    """Return the GPUs that nvidia-smi lists, without torch and without using GPU memory; [] without nvidia-smi."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = "--query-gpu=name,memory.total,memory.free,compute_cap,driver_version"
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [gpu for line in result.stdout.splitlines() if (gpu := _parse_gpu(line)) is not None]


def _parse_gpu(line: str) -> DriverGpu | None:
    values = [value.strip() for value in line.split(",")]
    if len(values) != 5 or not (values[1] + values[2]).isdigit():
        return None
    match = re.fullmatch(r"(\d+)\.(\d+)", values[3])
    capability = (int(match[1]), int(match[2])) if match else (0, 0)
    return DriverGpu(values[0], int(values[1]) * 2**20, int(values[2]) * 2**20, capability, values[4])


def torch_and_gpus() -> Iterator[Finding]:
    """Check that torch computes correctly, and the GPUs that it finds. Imports torch."""
    try:
        import torch
    except Exception as error:  # a broken installation may raise anything, for example OSError
        yield Finding(FAIL, "torch", f"cannot be imported: {error}", INSTALL)
        return
    message = f"{torch.__version__}, " + (f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only")
    installed = driver_gpus()
    if not torch.cuda.is_available():
        yield _try_torch(torch, "cpu", message)
        yield _no_gpu(installed, torch.version.cuda)
        return
    yield _try_torch(torch, "cuda", message + (f", driver {installed[0].driver}" if installed else ""))
    for index in range(torch.cuda.device_count()):
        yield _gpu(torch, index)
    yield flex()


def flex() -> Finding:
    """Check flex attention, forward and backward, on the GPU. It is compiled when it is first used. Imports torch."""
    from senna.model.packed_attention import flex_problem

    problem = flex_problem("cuda")
    if problem is None:
        return Finding(OK, "flex attention", "works forward and backward on cuda")
    return Finding(
        WARN,
        "flex attention",
        f"does not work ({problem}); packed rows use split attention, which is slower",
        "apt install gcc python3-dev   (the compiler and the header files that its kernels are built with)",
    )


def _try_torch(torch: ModuleType, device: str, message: str) -> Finding:
    """Check a matrix product on a device."""
    try:
        ones = torch.ones(64, 64, device=device)
        is_correct = float((ones @ ones).sum()) == 64.0**3
    except Exception as error:
        reason = str(error).splitlines()[0]
        return Finding(FAIL, "torch", f"{message}; a matrix product fails on {device}: {reason}", CUDA_TORCH)
    if not is_correct:
        return Finding(FAIL, "torch", f"{message}; a matrix product is wrong on {device}", INSTALL)
    return Finding(OK, "torch", message)


def _no_gpu(installed: list[DriverGpu], built_for: str | None) -> Finding:
    """Return the reason why torch finds no GPU."""
    if not installed:
        return Finding(
            WARN,
            "gpu",
            "no GPU found; all but very small models need one for training",
            "PRESET=tiny sh scripts/quickstart.sh runs on this CPU; --gpu-memory 24 checks a run for a 24 GB GPU elsewhere",
            code=NO_GPU,
        )
    gpu = installed[0]
    if built_for is None:
        return Finding(FAIL, "gpu", f"{gpu.name} is installed, but torch is built for CPUs only", CUDA_TORCH)
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None:
        message = f"{gpu.name} is hidden by CUDA_VISIBLE_DEVICES={hidden!r}"
        return Finding(FAIL, "gpu", message, "unset CUDA_VISIBLE_DEVICES")
    return Finding(
        FAIL,
        "gpu",
        f"{gpu.name} is installed, but torch is built for CUDA {built_for} and cannot use driver {gpu.driver}",
        f"install a driver for CUDA {built_for} or later, or a torch built for the CUDA version that nvidia-smi shows",
    )


def _gpu(torch: ModuleType, index: int) -> Finding:
    used = used_by_others(index)
    if used is not None:
        return used
    properties = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    capability = (properties.major, properties.minor)
    message = f"{properties.name}, {gib(total)}, {gib(free)} free, compute capability {capability[0]}.{capability[1]}"
    if capability < BF16_CAPABILITY:
        return Finding(WARN, f"gpu {index}", f"{message}: it emulates bf16 slowly", "--bf16 False --fp16 True")
    return Finding(OK, f"gpu {index}", message)


def used_by_others(index: int) -> Finding | None:
    """Return a warning if other processes use more than a tenth of a GPU's memory (at least 2 GB). Imports torch."""
    import torch

    free, total = torch.cuda.mem_get_info(index)
    if total - free <= max(2e9, 0.1 * total):
        return None
    name = torch.cuda.get_device_name(index)
    return Finding(
        WARN,
        f"gpu {index}",
        f"{name}: other processes use {gib(total - free)} of {gib(total)}",
        "list them with nvidia-smi and end them, or choose another GPU: CUDA_VISIBLE_DEVICES=N",
    )
