"""Benchmark of the memory of a training step: what `senna doctor` predicts against what torch's allocator measures."""

import argparse
import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch.autograd.profiler import profile

from senna.data import Collator, PackCollator
from senna.model import SennaLlavaLlamaForCausalLM
from senna.model.config import IGNORE_INDEX
from senna.model.lora import add_lora, leave_casts_to_autocast
from senna.model.packed_attention import use_packed_attention
from senna.train.build_model import freeze
from senna.train.memory.activations import Attention, MicroBatch, NumberBytes, Trained
from senna.train.memory.estimate import Setup, estimate
from senna.train.memory.model_shape import ModelShape

from .common import print_table
from .models import (
    MAX_LENGTH,
    PRECISIONS,
    Geometry,
    autocast,
    enable_checkpointing,
    model_inputs,
    random_images,
    random_model,
)
from .synthetic import REAL_CAPTIONS, captions, frame, plan_frame, unpack_samples

PAD = 0
STEPS = 2  # AdamW's moments are allocated in the first step, so the second one has the peak
SMALL = Geometry(256, 4, 4, 688, 8000, 128, 4, 4, 112, 14, 32)
WIDE = Geometry(512, 4, 8, 1376, 16000, 128, 4, 4, 112, 14, 32)
DEEP_TOWER = Geometry(256, 4, 4, 688, 4000, 256, 8, 4, 336, 14, 128)
WIDTHS_7B = Geometry(4096, 4, 32, 11008, 32000, 1024, 24, 16, 336, 14, 128)  # of the 7B model; four layers


@dataclass(frozen=True)
class Setting:
    """The setting of a training run of STEPS steps.

    Attributes:
        what: "adapters", "lora" or "full".
        held: "nf4" for quantized frozen weights, else "".
        plain: captions with an image each, instead of frames.
    """

    name: str
    geometry: Geometry
    what: str
    precision: str = "bf16"
    held: str = ""
    rows: int = 2
    plain: bool = False
    packed: bool = False
    checkpointing: bool = True
    accumulation: int = 1
    rank: int = 32
    eager: bool = False


ON_CPU = (
    Setting("stage 1, fp32", DEEP_TOWER, "adapters", "fp32", rows=8, plain=True, checkpointing=False),
    Setting("stage 1, checkpointing", DEEP_TOWER, "adapters", rows=16, plain=True),
    Setting("full, fp32", SMALL, "full", "fp32", checkpointing=False),
    Setting("full, checkpointing", WIDE, "full", rows=4),
    Setting("full, accumulation 2", WIDE, "full", rows=4, accumulation=2),
    Setting("full, fp32, packed frame", SMALL, "full", "fp32", rows=1, packed=True),
    Setting("LoRA, fp32", SMALL, "lora", "fp32", checkpointing=False),
    Setting("LoRA, checkpointing", DEEP_TOWER, "lora", rows=2),
    Setting("LoRA, eager attention", SMALL, "lora", checkpointing=False, eager=True),
    Setting("LoRA, packed frame", SMALL, "lora", rows=1, packed=True, rank=64),
    Setting("QLoRA, checkpointing", WIDE, "lora", held="nf4", rows=4),
    Setting("QLoRA, packed frame", SMALL, "lora", held="nf4", rows=1, packed=True, rank=64),
)
ON_CUDA = (
    Setting("stage 1", WIDTHS_7B, "adapters", rows=32, plain=True),
    Setting("LoRA", WIDTHS_7B, "lora", rows=2, rank=128),
    Setting("LoRA, packed frame", WIDTHS_7B, "lora", rows=1, packed=True, rank=128),
    Setting("QLoRA", WIDTHS_7B, "lora", held="nf4", rows=2, rank=128),
    Setting("QLoRA, accumulation 2", WIDTHS_7B, "lora", held="nf4", rows=2, rank=128, accumulation=2),
    Setting("full", WIDTHS_7B, "full", rows=2),
)


def model_of(setting: Setting, device: str) -> SennaLlavaLlamaForCausalLM:
    """Return a model as in `senna train`, made on the device: trained weights in fp32, the others in the precision or in 4
    bits."""
    dtype = torch.float32 if setting.what == "full" else PRECISIONS[setting.precision]
    attention = "eager" if setting.eager else "sdpa"
    model = random_model(setting.geometry, dtype, device, setting.held, attention)
    if setting.what == "lora":
        add_lora(model, setting.rank, 2 * setting.rank, 0.05)
        leave_casts_to_autocast(model)
    is_lora, is_stage1 = setting.what == "lora", setting.what == "adapters"
    flags = {"lora_enable": is_lora, "tune_mm_mlp_adapter": is_stage1, "freeze_backbone": False}
    freeze(model, SimpleNamespace(**flags, freeze_mm_mlp_adapter=False, freeze_img_adapter=False))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
        elif parameter.is_floating_point():
            parameter.data = parameter.data.to(PRECISIONS[setting.precision])
    if setting.packed:
        use_packed_attention(model, "auto", device)  # what a run on the device uses
    if setting.checkpointing:
        enable_checkpointing(model)
    return model.train()


def batch_of(setting: Setting) -> dict[str, Any]:
    """Return a micro-batch: captions, plan questions of frames, or packed frames."""
    geometry, generator = setting.geometry, torch.Generator().manual_seed(0)
    layout = (PAD, MAX_LENGTH, geometry.view_tokens)
    if setting.plain:
        pixels = random_images(setting.rows, geometry, generator)
        items = captions(REAL_CAPTIONS, setting.rows, geometry, pixels, generator)
        return PackCollator(*layout, 4096)(items) if setting.packed else Collator(*layout)(unpack_samples(items))
    frames = [(frame if setting.packed else plan_frame)(geometry, random_images(6, geometry, generator), generator)
              for _ in range(setting.rows)]  # fmt: skip
    if setting.packed:
        return PackCollator(*layout, 4096)(frames)
    return Collator(*layout)([{**item["records"][0], "images": item["images"]} for item in frames])


def setup_of(setting: Setting, batch: dict[str, Any], device: str) -> Setup:
    """Return the setting in the form that the prediction takes, with the sizes of the batch: packed or not, as it is."""
    rows, tokens = batch["source"].shape if "source" in batch else (len(batch["input_ids"]), 0)
    views = batch["images"].shape[: 1 if tokens else 2].numel()  # (N, 3, H, W) if packed, else (B, V, 3, H, W)
    tokens = tokens or batch["input_ids"].shape[1] + views // rows * (setting.geometry.view_tokens - 1)
    targets = int((batch["labels"] != IGNORE_INDEX).sum())
    half, cuda = setting.precision == "bf16", device != "cpu"
    compute = 2 if half else 4
    return Setup(
        micro_batch=MicroBatch(rows, tokens, targets, views),
        trained=Trained(setting.what, setting.rank if setting.what == "lora" else 0, mask=1 if cuda else compute),
        numbers=NumberBytes(compute, 4 if setting.what == "full" else compute, 4),
        frozen=setting.held or setting.precision,
        others=setting.precision,
        accumulates=setting.accumulation > 1,
        checkpointing=setting.checkpointing,
        attention=Attention(eager=setting.eager),
        cuda=cuda,
    )


def make_optimizer(model: SennaLlavaLlamaForCausalLM, learning_rate: float = 1e-5) -> torch.optim.AdamW:
    """Return the Trainer's default optimizer."""
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=learning_rate, fused=True)


def train_step(
    model: SennaLlavaLlamaForCausalLM,
    optimizer: torch.optim.AdamW,
    micro_batches: Sequence[dict[str, Any]],
    precision: str,
) -> tuple[float, float]:
    """Train for a step in the Trainer's order of operations. Return the mean loss over all targets and the gradient norm."""
    [trained] = (group["params"] for group in optimizer.param_groups)
    targets = sum(int((batch["labels"] != IGNORE_INDEX).sum()) for batch in micro_batches)
    losses = []
    for batch in micro_batches:
        inputs = model_inputs(batch, model.device)
        with autocast(precision, model.device):
            loss = model(**inputs, num_items_in_batch=targets).loss
        loss.backward()
        losses.append(loss.detach())
        del loss, inputs
    norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(sum(losses)), float(norm)


@contextmanager
def counted(device: str) -> Iterator[list[int]]:
    """Yield a list, and append the peak of the allocated bytes at the end: on CUDA all of them, on a CPU the new ones."""
    found: list[int] = []
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        yield found
        found.append(torch.cuda.max_memory_allocated())
        return
    with profile(use_kineto=True, profile_memory=True) as profiler:
        yield found
    events = [event for event in profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    found.append(peak)


def held_bytes(model: SennaLlavaLlamaForCausalLM) -> int:
    """Return the bytes of the weights and of the scales of quantized weights."""
    total = sum(p.numel() * p.element_size() for p in model.parameters())
    for parameter in model.parameters():
        if (state := getattr(parameter, "quant_state", None)) is not None:
            scales = [state.absmax, *([state.state2.absmax] if state.nested else [])]
            total += sum(scale.numel() * scale.element_size() for scale in scales)
    return total


def measure(setting: Setting, device: str) -> tuple[float, float]:
    """Return the (predicted, measured) peak of a training step in bytes."""
    gc.collect()  # bitsandbytes' modules are in reference cycles, so the model of an earlier setting may still exist
    model, batch = model_of(setting, device), batch_of(setting)
    with counted(device) as peak:
        optimizer = make_optimizer(model)
        for _ in range(STEPS):
            train_step(model, optimizer, [batch] * setting.accumulation, setting.precision)
    # On a CPU, model and images were allocated before the measurement.
    earlier = held_bytes(model) + batch["images"].numel() * batch["images"].element_size() if device == "cpu" else 0
    predicted = estimate(ModelShape.from_config(setting.geometry.config()), setup_of(setting, batch, device)).allocated
    return predicted, peak[0] + earlier


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the settings that suit this machine and print predicted against measured peaks."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(arguments.threads)
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(f"bytes at the peak of a training step, as torch's allocator counts them; {name}")
    figures: dict[str, Any] = {"device": name, "cases": {}}
    rows = []
    for setting in ON_CUDA if device == "cuda" else ON_CPU:
        predicted, measured = measure(setting, device)
        figures["cases"][setting.name] = {"predicted": predicted, "measured": measured}
        rows.append(
            [setting.name, f"{measured / 1e6:.1f} MB", f"{predicted / 1e6:.1f} MB", f"{predicted / measured - 1:+.1%}"]
        )
    print_table(["setting", "measured", "predicted", "off by"], rows)
    return figures
