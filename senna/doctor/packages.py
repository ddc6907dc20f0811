"""Optional packages: whether they are installed, import, and do a small piece of their real work.

``try_package`` may crash the process it runs in: `senna doctor` calls it in another one (senna.doctor.worker).
"""

import importlib.metadata
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

from senna.doctor.findings import OK, WARN, Finding


@dataclass(frozen=True)
class Package:
    """An optional package: the module that is imported, what it is for, the extra that brings it, and its small task.

    ``task`` takes a device, "cpu" or "cuda", and says what it did; it raises where the package does not work.
    """

    module: str
    purpose: str
    extra: str
    task: Callable[[str], str]


class NeedsGpu(Exception):
    """The package works on CUDA only, and there is none here."""


def _bitsandbytes(device: str) -> str:
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit
    from bitsandbytes.nn import Linear4bit

    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(64, 64, generator=generator).to(device)
    packed, state = quantize_4bit(weights, quant_type="nf4", compress_statistics=True)
    error = (dequantize_4bit(packed, state) - weights).abs().max().item()
    if not error < 0.6:  # nf4's steps are widest at the ends: a quarter of a block's maximum, about 2.5 here
        raise RuntimeError(f"nf4 gives weights back with an error of {error:.2f}")
    layer = Linear4bit(64, 64, bias=False, compute_dtype=torch.float32, quant_type="nf4").to(device)
    rows = torch.ones(2, 64, device=device, requires_grad=True)
    layer.train()(rows).sum().backward()
    if not torch.isfinite(rows.grad).all():
        raise RuntimeError("a 4-bit layer gives no finite gradient")
    return f"nf4 quantises, multiplies and gives gradients on {device}"


def _deepspeed(device: str) -> str:
    from deepspeed.accelerator import get_accelerator
    from deepspeed.ops.op_builder import CPUAdamBuilder

    accelerator = get_accelerator()
    if device == "cuda" and accelerator.device_name() != "cuda":
        raise RuntimeError(f"DeepSpeed's accelerator is {accelerator.device_name()}, not cuda")
    can = "can" if CPUAdamBuilder().is_compatible(verbose=False) and compiler() else "cannot (no C++ compiler)"
    return f"accelerator {accelerator.device_name()}; its CPU Adam, for offloading, {can} be built"


def compiler() -> str | None:
    """A C++ compiler, with which DeepSpeed builds its CPU Adam when it is first used."""
    return shutil.which("c++") or shutil.which("g++")


def _flash_attn(device: str) -> str:
    import torch

    if device != "cuda":
        raise NeedsGpu
    from flash_attn import flash_attn_func

    q = torch.ones(1, 8, 1, 64, device=device, dtype=torch.float16)
    if not torch.allclose(flash_attn_func(q, q, q, causal=True), q, atol=1e-2):
        raise RuntimeError("attention over ones is not one")
    return "attends on cuda"


def _liger(device: str) -> str:
    import torch

    if device != "cuda":
        raise NeedsGpu
    from liger_kernel.transformers import LigerRMSNorm

    ones = torch.ones(2, 64, device=device)
    if not torch.allclose(LigerRMSNorm(64).to(device)(ones), ones, atol=1e-3):
        raise RuntimeError("the norm of ones is not one")
    return "its kernels compile and run on cuda"


def _nuscenes(device: str) -> str:
    import numpy as np
    from nuscenes.nuscenes import NuScenes  # noqa: F401 - what `senna convert` opens a version with
    from nuscenes.utils.geometry_utils import view_points
    from nuscenes.utils.splits import create_splits_scenes

    view_points(np.ones((3, 1)), np.eye(3), normalize=True)
    return f"projects, and knows {len(create_splits_scenes()['val'])} validation scenes"


def _gradio(device: str) -> str:
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # a check asks no network
    import gradio

    with gradio.Blocks() as page:
        gradio.Markdown("")
    return f"makes a page of {len(page.blocks)} part"


def _pycocoevalcap(device: str) -> str:
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    true, told = {0: ["a red light"]}, {0: ["a red light"]}
    scorer = BleuScorer(n=4)
    scorer += ("a red light", ["a red light"])
    Cider().compute_score(true, told)
    if not Rouge().compute_score(true, told)[0] > 0.99:
        raise RuntimeError("ROUGE-L of equal sentences is not 1")
    return "scores a sentence (the project splits words itself: no Java needed)"


def _tensorboard(device: str) -> str:
    from torch.utils.tensorboard import SummaryWriter

    with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as writer:
        writer.add_scalar("loss", 1.0, 1)
    return "writes a log"


PACKAGES = {
    "bitsandbytes": Package("bitsandbytes", "QLoRA and 4- or 8-bit models", "gpu", _bitsandbytes),
    "deepspeed": Package("deepspeed", "several GPUs, and offloading to main memory", "gpu", _deepspeed),
    "liger-kernel": Package("liger_kernel", "--use_liger_kernel", "gpu", _liger),
    "flash-attn": Package("flash_attn", "--attn_implementation flash_attention_2", "flash-attn", _flash_attn),
    "tensorboard": Package("tensorboard", "--report_to tensorboard, the default", "", _tensorboard),
    "nuscenes": Package("nuscenes", "senna convert", "nuscenes", _nuscenes),
    "gradio": Package("gradio", "senna demo", "demo", _gradio),
    "pycocoevalcap": Package("pycocoevalcap", "BLEU, ROUGE and CIDEr in senna evaluate", "evaluate", _pycocoevalcap),
}
NO_TORCH = ("nuscenes", "gradio", "pycocoevalcap")
_DISTRIBUTIONS = {"nuscenes": "nuscenes-devkit"}


def how_to_install(name: str) -> str:
    extra = PACKAGES[name].extra
    return f"pip install -c constraints.txt -e '.[{extra}]'" if extra else "pip install -c constraints.txt -e ."


def device_of(name: str) -> str:
    """The device that a package is tried on: "cuda" where there is one. Imports torch for those that use it."""
    if name in NO_TORCH:
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def try_package(name: str, device: str, level: str = WARN) -> Finding:
    """Whether a package works. ``level`` is that of one that does not; one that is not installed at all is told as ok,
    unless ``level`` says that it is needed."""
    package = PACKAGES[name]
    if importlib.util.find_spec(package.module) is None:
        says = f"not installed; for {package.purpose}"
        return Finding(OK if level == WARN else level, name, says, how_to_install(name))
    version = importlib.metadata.version(_DISTRIBUTIONS.get(name, name))
    try:
        return Finding(OK, name, f"{version}, {package.task(device)}")
    except NeedsGpu:
        return Finding(OK, name, f"{version}; it needs a GPU and cannot be tried here")
    except Exception as error:  # whatever a broken package raises
        why = str(error).strip().splitlines() or [""]
        says = f"{version} does not work: {type(error).__name__}: {why[0]}"
        again = f"pip install --force-reinstall --no-deps {_DISTRIBUTIONS.get(name, name)}=={version}"
        return Finding(level, name, says, again)
