"""The parts that run a command of the project: the machine, `senna doctor`, and the tests that need a GPU."""

import importlib.metadata
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from prove.cases import Cases, Failed, Scale, Skipped

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("transformers", "accelerate", "peft", "bitsandbytes", "triton", "liger-kernel", "flash-attn", "deepspeed")


def machine(scale: Scale) -> Cases:
    """Report the device, the driver and the versions."""

    def report() -> dict[str, Any]:
        import torch

        from senna.doctor.machine import driver_gpus

        figures: dict[str, Any] = {"device": "CPU", "torch": torch.__version__, "CUDA": torch.version.cuda}
        if scale.device == "cuda":
            properties = torch.cuda.get_device_properties(0)
            figures |= {
                "device": properties.name,
                "memory_GiB": round(properties.total_memory / 2**30, 1),
                "capability": f"{properties.major}.{properties.minor}",
                "GPUs": torch.cuda.device_count(),
            }
        installed = driver_gpus()
        figures |= {"driver": installed[0].driver if installed else None, "python": platform.python_version()}
        return figures | {name: version for name in PACKAGES if (version := _version(name)) is not None}

    yield "device and versions", report


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def doctor(scale: Scale) -> Cases:
    """Run `senna doctor`; a machine without a GPU is checked for a 24 GB card."""

    def run() -> dict[str, Any]:
        assumed = [] if scale.device == "cuda" else ["--gpu-memory", "24"]
        code, output = _run([sys.executable, "-m", "senna", "doctor", *assumed])
        if code:
            failed = re.findall(r"^\s*fail\s+(.+)$", output, re.MULTILINE)
            raise Failed("; ".join(failed) or f"exit code {code}")
        warnings = re.findall(r"^\s*warn\s+(\S+)", output, re.MULTILINE)
        return {"warnings": len(warnings), "about": " ".join(warnings) or "-"}

    yield "senna doctor", run


def tests(scale: Scale) -> Cases:
    """Run the tests that are marked `gpu`."""

    def run() -> dict[str, Any]:
        if scale.device != "cuda":
            raise Skipped("needs CUDA")
        if _version("pytest") is None:
            raise Skipped("pytest is not installed: pip install -c constraints.txt -e '.[dev]'")
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
        code, output = _run([*command, "--durations=0", "tests"])
        counts = {kind: int(number) for number, kind in re.findall(r"(\d+) (passed|failed|skipped|errors?)\b", output)}
        if code:
            failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
            raise Failed("; ".join(failed) or f"pytest ended with exit code {code}")
        if not counts.get("passed"):
            raise Failed("no test passed")
        return {"tests": counts["passed"], "skipped": counts.get("skipped", 0)}

    yield "pytest -m gpu", run


def _run(command: list[str]) -> tuple[int, str]:
    """Run a command in the repository, print its output, and return exit code and output."""
    result = subprocess.run(
        command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    print(result.stdout, flush=True)
    return result.returncode, result.stdout
