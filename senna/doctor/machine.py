"""Python, the libraries that are always needed, and the graphics cards. What imports torch says so."""

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from senna.doctor.findings import FAIL, OK, WARN, Finding
from senna.train.memory.estimate import gib

INSTALL = "pip install -c constraints.txt -e ."
CUDA_TORCH = (
    "pip uninstall -y torch && pip install -c constraints.txt torch   (without --index-url and --extra-index-url)"
)
SHOWN = ("transformers", "accelerate", "peft", "huggingface_hub")
BF16_FROM = (8, 0)
"""Compute capability from which a card computes in bf16 (Ampere; CUDA C++ Programming Guide, "Compute Capabilities")."""


def python() -> Iterator[Finding]:
    """The interpreter against what the package asks for, and the libraries against their tested ranges."""
    from packaging.specifiers import SpecifierSet

    version = platform.python_version()
    says = f"{version} on {platform.system()} {platform.machine()}"
    try:
        wanted = importlib.metadata.metadata("senna").get("Requires-Python") or ""
    except importlib.metadata.PackageNotFoundError:
        yield Finding(OK, "python", says)
        yield Finding(
            WARN, "libraries", "senna runs from its folder and is not installed: versions not compared", INSTALL
        )
        return
    fits = SpecifierSet(wanted).contains(version)
    yield Finding(OK if fits else FAIL, "python", says, "" if fits else f"use a Python {wanted}")
    yield from libraries()


def libraries() -> Iterator[Finding]:
    """What is installed of the libraries that are always needed: absent is a fail, outside the range a warning."""
    from packaging.requirements import Requirement

    found, fits = {}, True
    for text in importlib.metadata.requires("senna") or []:
        need = Requirement(text)
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            found[need.name] = importlib.metadata.version(need.name)
        except importlib.metadata.PackageNotFoundError:
            fits = False
            yield Finding(FAIL, "libraries", f"{need.name} is not installed", f"{INSTALL}   (or: pip install '{need}')")
            continue
        if not need.specifier.contains(found[need.name], prereleases=True):
            fits = False
            yield Finding(
                WARN,
                "libraries",
                f"{need.name} {found[need.name]} is not in the tested range {need.specifier}",
                f"pip install -c constraints.txt '{need}'",
            )
    if fits:
        yield Finding(OK, "libraries", ", ".join(f"{name} {found[name]}" for name in SHOWN if name in found))


@dataclass(frozen=True)
class Card:
    """A card as its driver sees it; ``total`` and ``free`` in bytes."""

    name: str
    total: int
    free: int
    capability: tuple[int, int]
    driver: str


def cards() -> list[Card]:
    """The NVIDIA cards of this machine by nvidia-smi, which needs no torch and takes no memory of theirs; [] without it."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = "--query-gpu=name,memory.total,memory.free,compute_cap,driver_version"
    try:
        answer = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [card for line in answer.stdout.splitlines() if (card := _card(line)) is not None]


def _card(line: str) -> Card | None:
    words = [word.strip() for word in line.split(",")]
    if len(words) != 5 or not (words[1] + words[2]).isdigit():
        return None
    capability = re.fullmatch(r"(\d+)\.(\d+)", words[3])
    numbers = (int(capability[1]), int(capability[2])) if capability else (0, 0)
    return Card(words[0], int(words[1]) * 2**20, int(words[2]) * 2**20, numbers, words[4])


def torch_and_cards() -> Iterator[Finding]:
    """torch, whether it multiplies, and the cards it sees. Imports torch."""
    try:
        import torch
    except Exception as error:  # a broken library raises what it likes, OSError for one
        yield Finding(FAIL, "torch", f"cannot be imported: {error}", INSTALL)
        return
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    installed = cards()
    if not torch.cuda.is_available():
        yield _multiplies(torch, "cpu", f"{torch.__version__}, {built}")
        yield _unseen(installed, torch.version.cuda)
        return
    yield _multiplies(
        torch, "cuda", f"{torch.__version__}, {built}" + (f", driver {installed[0].driver}" if installed else "")
    )
    for number in range(torch.cuda.device_count()):
        yield _seen(torch, number)


def _multiplies(torch, device: str, says: str) -> Finding:
    try:
        ones = torch.ones(64, 64, device=device)
        right = float((ones @ ones).sum()) == 64.0**3
    except Exception as error:
        return Finding(FAIL, "torch", f"{says}, cannot multiply on {device}: {str(error).splitlines()[0]}", CUDA_TORCH)
    return (
        Finding(OK, "torch", says)
        if right
        else Finding(FAIL, "torch", f"{says}, multiplies wrongly on {device}", INSTALL)
    )


def _unseen(installed: list[Card], built: str | None) -> Finding:
    """Why torch sees no card."""
    if not installed:
        return Finding(
            WARN,
            "gpu",
            "none here: training needs one, but for small models",
            "PRESET=tiny sh scripts/quickstart.sh runs on this CPU; --gpu-memory 24 judges a card of 24 GB that is elsewhere",
        )
    card = installed[0]
    if built is None:
        return Finding(FAIL, "gpu", f"{card.name} is here, but this torch is built for CPUs only", CUDA_TORCH)
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None:
        return Finding(
            FAIL, "gpu", f"{card.name} is hidden: CUDA_VISIBLE_DEVICES={hidden!r}", "unset CUDA_VISIBLE_DEVICES"
        )
    return Finding(
        FAIL,
        "gpu",
        f"{card.name} is here, but torch, built for CUDA {built}, cannot use driver {card.driver}",
        f"install a driver for CUDA {built} or later, or a torch built for the CUDA version that nvidia-smi shows",
    )


def _seen(torch, number: int) -> Finding:
    for finding in held_by_others(number):
        return finding
    facts = torch.cuda.get_device_properties(number)
    free, total = torch.cuda.mem_get_info(number)
    says = f"{facts.name}, {gib(total)}, {gib(free)} free, compute capability {facts.major}.{facts.minor}"
    if (facts.major, facts.minor) < BF16_FROM:
        return Finding(WARN, f"gpu {number}", f"{says}: it only imitates bf16, slowly", "--bf16 False --fp16 True")
    return Finding(OK, f"gpu {number}", says)


def held_by_others(number: int) -> Iterator[Finding]:
    """A warning where other processes hold more of a card than a context of this one's. Imports torch."""
    import torch

    free, total = torch.cuda.mem_get_info(number)
    if total - free > max(2e9, 0.1 * total):
        says = f"{torch.cuda.get_device_name(number)}: {gib(total - free)} of {gib(total)} are held by other processes"
        yield Finding(
            WARN,
            f"gpu {number}",
            says,
            "nvidia-smi shows which; end them, or take another card: CUDA_VISIBLE_DEVICES=N",
        )
