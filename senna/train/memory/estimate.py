"""What a run takes of a card, part by part, before it is started. Plain numbers, no torch.

The peak of a training step is the greatest of a few moments: the tower's forward pass, the head at the end of the forward pass,
the head's backward pass, the backward pass of the last layer (when all layers' checkpoints are still there) and of the first
(when nearly all gradients are), that of the views, and the optimizer's step. What is always there comes on top: weights,
optimizer, and for each process CUDA's context.
"""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from senna.train.memory import activations as a
from senna.train.memory.activations import Attention, Loss, Numbers, Trained, Work
from senna.train.memory.model_shape import ModelShape

Held = Literal["fp32", "bf16", "nf4", "nf4-single", "int8"]
Moments = dict[str, dict[str, float]]

BYTES_A_WEIGHT = {
    "fp32": 4.0,
    "bf16": 2.0,
    "int8": 1.0,
    "nf4-single": 1 / 2 + 4 / 64,
    "nf4": 1 / 2 + 1 / 64 + 4 / (64 * 256),
}
"""nf4: two weights a byte, a scale a block of 64 in fp32; with double quantisation a scale is a byte, and 256 of them share one
in fp32 (QLoRA, arXiv 2305.14314, section 3). int8: a byte; its one fp32 scale a row is left out."""

CONTEXT = 0.5e9
"""CUDA's context, kernels and cuBLAS' workspace, in bytes: 0.3 to 0.6 GB by card and driver, before anything is computed."""

FRAGMENTS = 0.1
"""Of what comes and goes within a step, the share that torch's caching allocator holds in pieces that fit nothing."""

SUBGROUP = 10**9
"""Weights that ZeRO-3 steps at a time: DeepSpeed's default of sub_group_size."""


@dataclass(frozen=True)
class Zero:
    """DeepSpeed's ZeRO (arXiv 1910.02054); ``stage`` 0 is none."""

    stage: int = 0
    processes: int = 1
    offload_optimizer: bool = False
    offload_weights: bool = False
    bucket: int | None = None  # reduce_bucket_size, in numbers; None: width squared, what transformers makes of "auto"
    live: int = 10**9  # stage3_max_live_parameters: weights that may stay gathered


@dataclass(frozen=True)
class Setup:
    """How a model is trained. The defaults are those of one process without DeepSpeed in bf16."""

    work: Work
    trained: Trained
    numbers: Numbers
    frozen: Held = "bf16"  # the LLM's Linears where they do not train
    others: Literal["fp32", "bf16"] = "bf16"  # the tower, and of the LLM the rest where it does not train
    moment: int = 4  # bytes of each of AdamW's two moments
    master: bool = False  # the optimizer holds fp32 copies of what trains in 16 bits
    gradient: int = 4  # bytes a trained weight
    accumulates: bool = False  # gradients of earlier micro-batches are there already
    checkpointing: bool = True
    attention: Attention = field(default_factory=Attention)
    liger: bool = False
    loss: Loss = field(default_factory=Loss)
    zero: Zero = field(default_factory=Zero)
    cuda: bool = True


@dataclass(frozen=True)
class Estimate:
    """Bytes by part, at the peak. ``moment`` says when that is."""

    parts: dict[str, float]
    moment: str

    @property
    def total(self) -> float:
        """What the card must have free, in bytes."""
        return sum(self.parts.values())

    @property
    def allocated(self) -> float:
        """What torch's allocator counts (torch.cuda.max_memory_allocated), in bytes: without context and fragments."""
        return self.total - self.parts.get("CUDA context", 0.0) - self.parts.get("fragmentation", 0.0)


def trained_weights(g: ModelShape, setup: Setup) -> int:
    """How many weights train."""
    llm = {"adapters": 0, "full": g.llm_weights, "lora": g.lora_weights(setup.trained.rank, setup.trained.on)}
    return llm[setup.trained.what] + g.adapter_weights


def weight_bytes(g: ModelShape, setup: Setup) -> float:
    """All weights of the model, in bytes, as they are held when none is split over processes."""
    others = BYTES_A_WEIGHT[setup.others]
    tower = others * (g.tower.weights if g.tower else 0)
    llm = 0.0
    if setup.trained.what != "full":
        llm = BYTES_A_WEIGHT[setup.frozen] * g.linear_weights + others * g.other_weights
    return tower + llm + setup.numbers.trained * trained_weights(g, setup)


def always_there(g: ModelShape, setup: Setup) -> dict[str, float]:
    """Weights, optimizer and DeepSpeed's buffers, in bytes.

    ZeRO splits over N processes: the optimizer from stage 1 on, gradients from 2 on, weights in 3, of which what is gathered
    may stay up to a limit. A bucket of gradients fills while another is reduced.
    """
    zero, count = setup.zero, trained_weights(g, setup)
    share = zero.processes if zero.stage else 1
    weights, gathered = weight_bytes(g, setup), 0.0
    if zero.stage == 3:
        if share > 1 or zero.offload_weights:
            gathered = min(weights, 2.0 * zero.live)
        weights = 0.0 if zero.offload_weights else weights / share
    optimizer = 0.0 if zero.offload_optimizer else count * (2 * setup.moment + 4 * setup.master) / share
    bucket = g.width**2 if zero.bucket is None else zero.bucket
    buckets = 2 * 2.0 * min(bucket, count) if zero.stage else 0.0
    return {"weights": weights, "optimizer": optimizer, "DeepSpeed's buffers": gathered + buckets}


class Gradients(NamedTuple):
    """Bytes of gradients on the card as a backward pass goes on."""

    before: float  # of earlier micro-batches
    of_head: float
    nearly_all: float  # at the first layer's widest moment: of that layer only the last Linear has one
    all: float
    stepped: float  # all, and what the optimizer's step makes of them in fp32


def gradients_of(g: ModelShape, setup: Setup) -> Gradients:
    """ZeRO splits them from stage 2 on, and steps in fp32, in stage 3 a group at a time; offloaded, none stays on the card."""
    zero, full, count = setup.zero, setup.trained.what == "full", trained_weights(g, setup)
    split = zero.processes if zero.stage >= 2 else 1
    a_weight = 0.0 if zero.offload_optimizer else setup.gradient / split
    everything = a_weight * count
    before = everything * setup.accumulates
    of_head = a_weight * g.vocabulary * g.width * full  # and of the embedding, as large
    of_first = a_weight * (g.linear_weights / g.layers - g.width * g.inner) * full
    nearly_all = max(before, everything - of_head - of_first - a_weight * g.adapter_weights)
    group = min(count / split, SUBGROUP) if zero.stage == 3 else count / split
    in_fp32 = a.FP32 * group * setup.master * (not zero.offload_optimizer)
    return Gradients(before, max(before, of_head), nearly_all, everything, everything + in_fp32)


def moments(g: ModelShape, setup: Setup) -> Moments:
    """What comes and goes, in bytes by part, at each moment that may be the peak."""
    work, numbers, trained = setup.work, setup.numbers, setup.trained
    full, n, gradients = trained.what == "full", work.places, gradients_of(g, setup)

    one_kept = a.layer_kept(g, numbers, trained, setup.attention, work.tokens, setup.liger) * n
    layer = a.layer_peak(g, numbers, trained, setup.attention, work.tokens, setup.liger) * n
    layer += a.weight_work(g, numbers, trained, setup.accumulates)
    mask = float(numbers.compute * n * work.tokens * setup.attention.masked)
    checkpoint = numbers.stream * g.width * n * setup.checkpointing
    kept = (checkpoint or one_kept) * g.layers + mask
    # autocast's, of trained weights: of all till the forward pass ends, then of the layer that is computed again
    copies = float(numbers.compute * trained_weights(g, setup) * numbers.casts)
    a_layers_copies = copies / g.layers

    head, head_backward = a.head_work(g, numbers, work.targets, full, setup.loss)
    pixels = a.pixel_bytes(g, work.images)
    held = int(BYTES_A_WEIGHT[setup.others])
    stream = a.FP32 if numbers.casts and setup.cuda else held
    tower = a.tower_work(g, held, stream, work.images, setup.attention.eager)
    dequantised = 0.0 if setup.frozen in ("fp32", "bf16") or full else a.dequantised(g, numbers)
    seen = {"projector and adapter": a.views_kept(g, numbers, work.images), "images": pixels}
    again = {"one layer": layer, "quantisation buffers": dequantised}
    found: Moments = {
        "the tower's forward pass": {"vision tower": tower, "images": pixels},
        "the end of the forward pass": {
            "activations kept": kept,
            "copies of trained weights": copies,
            "logits": head,
            **seen,
        },
        "the head's backward pass": {
            "activations kept": kept,
            "copies of trained weights": 0.0 if setup.checkpointing else copies,
            "logits": head_backward,
            **seen,
        },
        "the last layer's backward pass": {
            "activations kept": kept if setup.checkpointing else kept - one_kept,
            "copies of trained weights": a_layers_copies if setup.checkpointing else copies,
            **again,
            **seen,
        },
        "the first layer's backward pass": {
            "activations kept": checkpoint + mask,
            "copies of trained weights": a_layers_copies,
            **again,
            **seen,
        },
        "the views' backward pass": {
            "projector and adapter": seen["projector and adapter"] + a.views_work(g, numbers, work.images),
            "images": pixels,
        },
        "the optimizer's step": {},
    }
    before, of_head, nearly_all, everything, stepped = gradients
    there = [before, before, before, of_head, nearly_all, everything, stepped]
    return {name: {**parts, "gradients": size} for (name, parts), size in zip(found.items(), there, strict=True)}


def estimate(g: ModelShape, setup: Setup) -> Estimate:
    """The peak of a training step, from the second on, when the optimizer's moments are there."""
    return _at_the_peak(always_there(g, setup), moments(g, setup), setup.cuda)


def _at_the_peak(always: dict[str, float], found: Moments, cuda: bool) -> Estimate:
    name = max(found, key=lambda moment: sum(found[moment].values()))
    parts = {**always, **found[name]}
    if cuda:
        passing = sum(found[name].values()) - found[name].get("gradients", 0.0)
        parts |= {"CUDA context": CONTEXT, "fragmentation": FRAGMENTS * passing}
    return Estimate({part: size for part, size in parts.items() if size}, name)


def estimate_generation(
    g: ModelShape, held: Held, rows: int, prompt: int, new: int, images: int, logits: int = 1, compute: int = 2
) -> Estimate:
    """The peak of generating text: ``rows`` prompts of ``prompt`` tokens, ``new`` more, ``images`` in the batch.

    ``logits``: the head runs at so many places of each prompt (transformers until 4.45 ran it at all, and in fp32).
    The keys and values of every layer stay; a layer works on the stream, its norm and the MLP's three.
    """
    others = BYTES_A_WEIGHT["fp32" if compute == a.FP32 else "bf16"]
    weights = BYTES_A_WEIGHT[held] * g.linear_weights + others * (g.other_weights + g.adapter_weights)
    weights += others * (g.tower.weights if g.tower else 0)
    cache = 2.0 * compute * rows * (prompt + new) * g.layers * g.kv_width
    always = {"weights": weights, "keys and values": cache}
    n = rows * prompt
    buffers = 0.0 if held in ("fp32", "bf16") else a.dequantised(g, Numbers(compute, compute, compute))
    found = {
        "the tower's forward pass": {"vision tower": a.tower_work(g, compute, compute, images)},
        "reading the prompt": {
            "one layer": n * compute * (4 * g.width + 3 * g.inner),
            "quantisation buffers": buffers,
        },
        "the head": {
            "logits": rows * logits * g.vocabulary * (compute + a.FP32),
            "one layer": 2 * n * compute * g.width,
        },
    }
    return _at_the_peak(always, found, cuda=True)


def gib(count: float) -> str:
    """Bytes as cards are sold and nvidia-smi counts: "13.5 GiB"; small ones in MiB."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**29 else f"{count / 2**20:.0f} MiB"
