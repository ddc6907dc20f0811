"""The memory of a training step: what `senna doctor` predicts against what torch's allocator counts, setting by setting."""

import argparse
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.profiler import profile

from senna.data import Collator, PackCollator
from senna.model import SennaLlavaLlamaForCausalLM
from senna.model.config import IGNORE_INDEX
from senna.model.loading import requantized
from senna.model.lora import add_lora
from senna.model.packed_attention import use_packed_attention
from senna.train.memory.activations import Attention, Numbers, Trained, Work
from senna.train.memory.estimate import Setup, estimate
from senna.train.memory.model_shape import ModelShape as Sizes

from .common import print_table
from .models import MAX_LENGTH, ModelShape, build, model_inputs, pictures
from .synthetic import REAL_CAPTIONS, captions, frame, one_by_one, plan_frame

PAD = 0
STEPS = 2  # AdamW has its moments from the second on
SMALL = ModelShape(256, 4, 4, 688, 8000, 128, 4, 4, 112, 14, 32)
WIDE = ModelShape(512, 4, 8, 1376, 16000, 128, 4, 4, 112, 14, 32)
SEEING = ModelShape(256, 4, 4, 688, 4000, 256, 8, 4, 336, 14, 128)
SEVEN = ModelShape(4096, 4, 32, 11008, 32000, 1024, 24, 16, 336, 14, 128)  # the 7B model's widths, four of its layers


@dataclass(frozen=True)
class RunContext:
    """A setting that is trained for two steps."""

    name: str
    geometry: ModelShape
    what: str  # trains: "adapters", "lora", "full"
    precision: str = "bf16"
    held: str = ""  # "nf4"
    rows: int = 2
    plain: bool = False  # captions, an image each
    packed: bool = False
    checkpointing: bool = True
    accumulation: int = 1
    rank: int = 32
    eager: bool = False


ON_CPU = (
    RunContext("stage 1, fp32", SEEING, "adapters", "fp32", rows=8, plain=True, checkpointing=False),
    RunContext("stage 1, checkpointing", SEEING, "adapters", rows=16, plain=True),
    RunContext("full, fp32", SMALL, "full", "fp32", checkpointing=False),
    RunContext("full, checkpointing", WIDE, "full", rows=4),
    RunContext("full, accumulation 2", WIDE, "full", rows=4, accumulation=2),
    RunContext("full, fp32, packed frame", SMALL, "full", "fp32", rows=1, packed=True),
    RunContext("LoRA, fp32", SMALL, "lora", "fp32", checkpointing=False),
    RunContext("LoRA, checkpointing", SEEING, "lora", rows=2),
    RunContext("LoRA, eager attention", SMALL, "lora", checkpointing=False, eager=True),
    RunContext("LoRA, packed frame", SMALL, "lora", rows=1, packed=True, rank=64),
    RunContext("QLoRA, checkpointing", WIDE, "lora", held="nf4", rows=4),
    RunContext("QLoRA, packed frame", SMALL, "lora", held="nf4", rows=1, packed=True, rank=64),
)
ON_CUDA = (
    RunContext("stage 1", SEVEN, "adapters", rows=32, plain=True),
    RunContext("LoRA", SEVEN, "lora", rows=2, rank=128),
    RunContext("LoRA, packed frame", SEVEN, "lora", rows=1, packed=True, rank=128),
    RunContext("QLoRA", SEVEN, "lora", held="nf4", rows=2, rank=128),
    RunContext("QLoRA, accumulation 2", SEVEN, "lora", held="nf4", rows=2, rank=128, accumulation=2),
    RunContext("full", SEVEN, "full", rows=2),
)


def model_of(case: RunContext, device: str) -> SennaLlavaLlamaForCausalLM:
    """As `senna train` holds it: what trains in fp32, the rest in the precision or in 4 bits."""
    stage = 1 if case.what == "adapters" else 2
    model = build(case.geometry, case.precision, stage, checkpointing=False)
    if case.what == "lora":
        dtype = torch.bfloat16 if case.precision == "bf16" else torch.float32
        model = model.to(dtype)
        if case.held:
            model = requantized(model, case.held, dtype, device)
        add_lora(model, case.rank, 2 * case.rank, 0.05)
        for name, parameter in model.named_parameters():
            parts = ("lora_", "mm_projector", "img_adapter")
            parameter.requires_grad_(any(part in name for part in parts))
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    model.set_attn_implementation("eager" if case.eager else "sdpa")
    if case.packed:
        use_packed_attention(model, "split")
    if case.checkpointing:
        renamed = hasattr(model, "activation_checkpointing_enable")
        (model.activation_checkpointing_enable if renamed else model.gradient_checkpointing_enable)()
    return model.to(device).train()


def batch_of(case: RunContext) -> dict[str, Any]:
    """A micro-batch: captions, plan questions of frames, or whole frames packed."""
    geometry, generator = case.geometry, torch.Generator().manual_seed(0)
    layout = (PAD, MAX_LENGTH, geometry.view_tokens)
    if case.plain:
        pixels = pictures(case.rows, geometry, generator)
        return Collator(*layout)(one_by_one(captions(REAL_CAPTIONS, case.rows, geometry, pixels, generator)))
    frames = [(frame if case.packed else plan_frame)(geometry, pictures(6, geometry, generator), generator)
              for _ in range(case.rows)]  # fmt: skip
    if case.packed:
        return PackCollator(*layout, 4096)(frames)
    return Collator(*layout)([{**some["records"][0], "images": some["images"]} for some in frames])


def setup_of(case: RunContext, batch: dict[str, Any], device: str) -> Setup:
    """The same for the prediction, with the batch's own sizes."""
    rows, tokens = batch["source"].shape if "source" in batch else (len(batch["input_ids"]), 0)
    views = case.rows * (1 if case.plain else 6)
    tokens = tokens or batch["input_ids"].shape[1] + views // case.rows * (case.geometry.view_tokens - 1)
    targets = int((batch["labels"] != IGNORE_INDEX).sum())
    half, cuda = case.precision == "bf16", device != "cpu"
    compute = 2 if half else 4
    return Setup(
        work=Work(rows, tokens, targets, views),
        trained=Trained(case.what, case.rank if case.what == "lora" else 0, mask=1 if cuda else 4),
        numbers=Numbers(compute, 4 if case.what == "full" else compute, 4),
        frozen=case.held or case.precision,
        others=case.precision,
        accumulates=case.accumulation > 1,
        checkpointing=case.checkpointing,
        attention=Attention(eager=case.eager),
        cuda=cuda,
    )


def train(case: RunContext, model: SennaLlavaLlamaForCausalLM, batch: dict[str, Any], device: str) -> None:
    """Two of the Trainer's steps."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
    for _ in range(STEPS):
        for _ in range(case.accumulation):
            inputs = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in model_inputs(batch).items()}
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=case.precision == "bf16"):
                loss = model(**inputs).loss
            loss.backward()
            del loss, inputs
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


@contextmanager
def counted(device: str) -> Iterator[list[int]]:
    """Appends the bytes at the peak of what is allocated inside: on CUDA all that is held, on a CPU what is new."""
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
    """Weights, and of quantised ones their scales."""
    total = sum(p.numel() * p.element_size() for p in model.parameters())
    for parameter in model.parameters():
        if (state := getattr(parameter, "quant_state", None)) is not None:
            scales = [state.absmax, *([state.state2.absmax] if state.nested else [])]
            total += sum(scale.numel() * scale.element_size() for scale in scales)
    return total


def measure(case: RunContext, device: str) -> tuple[float, float]:
    """(predicted, measured) bytes at the peak of a step."""
    model, batch = model_of(case, device), batch_of(case)
    with counted(device) as peak:
        train(case, model, batch, device)
    # On CUDA the batch was moved within; on a CPU it was there before, as the model was.
    there = held_bytes(model) + batch["images"].numel() * batch["images"].element_size() if device == "cpu" else 0
    predicted = estimate(Sizes.of(case.geometry.config()), setup_of(case, batch, device)).allocated
    return predicted, peak[0] + there


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(arguments.threads)
    where = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(f"bytes at the peak of a training step, as torch's allocator counts them; {where}")
    figures: dict[str, Any] = {"device": where, "cases": {}}
    rows = []
    for case in ON_CUDA if device == "cuda" else ON_CPU:
        predicted, measured = measure(case, device)
        gc.collect()
        figures["cases"][case.name] = {"predicted": predicted, "measured": measured}
        rows.append(
            [case.name, f"{measured / 1e6:.1f} MB", f"{predicted / 1e6:.1f} MB", f"{predicted / measured - 1:+.1%}"]
        )
    print_table(["setting", "measured", "predicted", "off by"], rows)
    return figures
