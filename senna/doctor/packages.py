"""Checks of the optional packages: installed, importable, and able to do a small piece of their real work.

A broken package may crash the process, so `senna doctor` calls ``try_package`` in a separate one (senna.doctor.worker).
"""

import importlib.metadata
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from senna.doctor.findings import FAIL, OK, WARN, Finding, Level


@dataclass(frozen=True)
class Package:
    """An optional package.

    Attributes:
        module: the module to import. purpose: the feature that needs the package. extra: the extra of this project that
        installs it; "" if it is always installed. task: runs a small piece of work on a device ("cpu" or "cuda") and
        returns a description of it; raises if it fails.
    """

    module: str
    purpose: str
    extra: str
    task: Callable[[str], str]


class NeedsGpu(Exception):
    """The package works on CUDA only, and no GPU is available."""


def _bitsandbytes(device: str) -> str:
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit
    from bitsandbytes.nn import Linear4bit

    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(64, 64, generator=generator).to(device)
    packed, state = quantize_4bit(weights, quant_type="nf4", compress_statistics=True)
    error = (dequantize_4bit(packed, state) - weights).abs().max().item()
    if not error < 0.6:  # the widest step of nf4 is a quarter of the block's maximum, which is about 2.5 here
        raise RuntimeError(f"nf4 restores weights with an error of {error:.2f}")
    layer = Linear4bit(64, 64, bias=False, compute_dtype=torch.float32, quant_type="nf4").to(device)
    rows = torch.ones(2, 64, device=device, requires_grad=True)
    layer.train()(rows).sum().backward()
    if not torch.isfinite(rows.grad).all():
        raise RuntimeError("the gradient of a 4-bit layer is not finite")
    return f"nf4 works on {device}"


def _deepspeed(device: str) -> str:
    from deepspeed.accelerator import get_accelerator
    from deepspeed.ops.op_builder import CPUAdamBuilder

    accelerator = get_accelerator()
    if device == "cuda" and accelerator.device_name() != "cuda":
        raise RuntimeError(f"DeepSpeed's accelerator is {accelerator.device_name()}, not cuda")
    builds = CPUAdamBuilder().is_compatible(verbose=False) and compiler()
    offloading = "can offload the optimizer" if builds else "cannot offload the optimizer (no C++ compiler)"
    return f"accelerator {accelerator.device_name()}; {offloading}"


def compiler() -> str | None:
    """Return the path of a C++ compiler, which DeepSpeed needs to build its CPU Adam; None if there is none."""
    return shutil.which("c++") or shutil.which("g++")


def _flash_attn(device: str) -> str:
    import torch

    if device != "cuda":
        raise NeedsGpu
    from flash_attn import flash_attn_func

    q = torch.ones(1, 8, 1, 64, device=device, dtype=torch.float16)
    if not torch.allclose(flash_attn_func(q, q, q, causal=True), q, atol=1e-2):
        raise RuntimeError("attention over ones does not give ones")
    return "works on cuda"


def _liger(device: str) -> str:
    if device != "cuda":
        raise NeedsGpu
    from senna.train.liger import liger_problem

    if problem := liger_problem(device):
        raise RuntimeError(problem)
    return "works on cuda"


def _nuscenes(device: str) -> str:
    import numpy as np
    from nuscenes.nuscenes import NuScenes  # noqa: F401 - `senna convert` needs it
    from nuscenes.utils.geometry_utils import view_points
    from nuscenes.utils.splits import create_splits_scenes

    view_points(np.ones((3, 1)), np.eye(3), normalize=True)
    return f"lists {len(create_splits_scenes()['val'])} validation scenes"


def _gradio(device: str) -> str:
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # a check must not use the network
    import gradio

    with gradio.Blocks() as page:
        gradio.Markdown("")
    return f"builds a page with {len(page.blocks)} block"


def _pycocoevalcap(device: str) -> str:
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    reference, candidate = {0: ["a red light"]}, {0: ["a red light"]}
    scorer = BleuScorer(n=4)
    scorer += ("a red light", ["a red light"])
    Cider().compute_score(reference, candidate)
    if not Rouge().compute_score(reference, candidate)[0] > 0.99:
        raise RuntimeError("ROUGE-L of equal sentences is not 1")
    return "scores a sentence (no Java needed)"


def _tensorboard(device: str) -> str:
    from torch.utils.tensorboard import SummaryWriter

    with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as writer:
        writer.add_scalar("loss", 1.0, 1)
    return "writes a log"


PACKAGES = {
    "bitsandbytes": Package("bitsandbytes", "QLoRA and 4-bit or 8-bit models", "gpu", _bitsandbytes),
    "deepspeed": Package("deepspeed", "several GPUs, and offloading to main memory", "gpu", _deepspeed),
    "liger-kernel": Package("liger_kernel", "--use_liger_kernel", "gpu", _liger),
    "flash-attn": Package("flash_attn", "--attn_implementation flash_attention_2", "flash-attn", _flash_attn),
    "tensorboard": Package("tensorboard", "--report_to tensorboard, the default", "", _tensorboard),
    "nuscenes": Package("nuscenes", "senna convert", "nuscenes", _nuscenes),
    "gradio": Package("gradio", "senna demo", "demo", _gradio),
    "pycocoevalcap": Package("pycocoevalcap", "BLEU, ROUGE and CIDEr in senna evaluate", "evaluate", _pycocoevalcap),
}
NO_TORCH = ("nuscenes", "gradio", "pycocoevalcap")
"""Packages that are checked without importing torch."""
_DISTRIBUTIONS = {"nuscenes": "nuscenes-devkit"}


def install_command(name: str) -> str:
    """Return the command that installs a package."""
    extra = PACKAGES[name].extra
    if extra == "flash-attn":  # its setup imports torch
        tools = "pip install -c constraints.txt setuptools wheel packaging ninja"
        return f"{tools} && pip install --no-build-isolation -c constraints.txt -e '.[flash-attn]'"
    return f"pip install -c constraints.txt -e '.[{extra}]'" if extra else "pip install -c constraints.txt -e ."


def _reinstall_command(distribution: str, version: str) -> str:
    isolation = " --no-build-isolation" if distribution == "flash-attn" else ""
    return f"pip install --force-reinstall --no-deps{isolation} {distribution}=={version}"


def device_for(name: str) -> str:
    """Return the device on which to try a package: "cuda" if it is available. Imports torch for packages that use it."""
    if name in NO_TORCH:
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def try_package(name: str, device: str, level: Literal["warn", "fail"] = WARN, required_by: str = "") -> Finding:
    """Check that a package is installed and works.

    Args:
        level: the level of a broken package. A missing package is "ok" unless this is "fail".
        required_by: the flag or setting of the run that needs the package.
    """
    package = PACKAGES[name]

    def finding(level: Level, message: str, remedy: str = "") -> Finding:
        if required_by:
            message += f" (required by {required_by})"
        if required_by and level == FAIL:
            remedy += f"   (or run without {required_by})"
        return Finding(level, name, message, remedy, required_by=required_by)

    if importlib.util.find_spec(package.module) is None:
        missing = f"not installed; needed for {package.purpose}"
        return finding(OK if level == WARN else level, missing, install_command(name))
    distribution = _DISTRIBUTIONS.get(name, name)
    version = importlib.metadata.version(distribution)
    try:
        return finding(OK, f"{version}, {package.task(device)}")
    except NeedsGpu:
        return finding(OK, f"{version}, not tried because it needs a GPU")
    except Exception as error:  # a broken package may raise anything
        reason = (str(error).strip().splitlines() or [""])[0]
        message = f"{version} does not work: {type(error).__name__}: {reason}"
        return finding(level, message, _reinstall_command(distribution, version))
