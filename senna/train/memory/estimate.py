"""Predict the GPU memory of a training step, part by part. Plain numbers, no torch.

Memory peaks in one of a few phases of the step: the vision tower's forward pass, lm_head's forward pass, lm_head's
backward pass, the backward pass of the last decoder layer (all layers' checkpoints are still in memory) or of the first
one (nearly all gradients exist), the backward pass of projector and adapter, or the optimizer step. The constant part
is added: weights, optimizer states, DeepSpeed's buffers and the CUDA context of the process.
"""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from senna.train.memory import activations
from senna.train.memory.activations import FP32, Attention, Loss, MicroBatch, NumberBytes, Trained
from senna.train.memory.model_shape import ModelShape

WeightFormat = Literal["fp32", "bf16", "nf4", "nf4-single", "int8"]
Phases = dict[str, dict[str, float]]
"""Phase of the step -> part -> bytes of temporary memory."""

BYTES_PER_WEIGHT = {
    "fp32": 4.0,
    "bf16": 2.0,
    "int8": 1.0,
    "nf4-single": 1 / 2 + 4 / 64,
    "nf4": 1 / 2 + 1 / 64 + 4 / (64 * 256),
}
"""nf4 stores two weights in a byte and one fp32 scale per block of 64 weights. With double quantization ("nf4") a scale is one
byte, and 256 scales share one fp32 number (QLoRA, arXiv 2305.14314, section 3). int8 also has one fp32 scale per row,
which is neglected."""

CUDA_CONTEXT = 0.5e9
"""Bytes of the CUDA context, kernels and cuBLAS workspace: 0.3 to 0.6 GB, depending on GPU and driver."""

NCCL_BUFFERS = 0.6 * 2**30
"""Bytes of NCCL's buffers, if there are several processes: 0.3 to 1 GiB, depending on the number of channels and GPUs. Not
measured here."""

FRAGMENTATION = 0.1
"""Share of the temporary memory that torch's caching allocator additionally holds in unusable fragments."""

SUBGROUP = 10**9
"""Number of weights that ZeRO-3 updates at a time (DeepSpeed's default of ``sub_group_size``)."""


@dataclass(frozen=True)
class Zero:
    """DeepSpeed's ZeRO (arXiv 1910.02054); ``stage`` 0 means that it is not used."""

    stage: int = 0
    processes: int = 1
    offload_optimizer: bool = False
    offload_weights: bool = False
    bucket_size: int | None = None  # reduce_bucket_size; None: hidden_size squared, as transformers resolves "auto"
    max_live_weights: int = 10**9  # stage3_max_live_parameters: number of weights that may stay gathered


@dataclass(frozen=True)
class Setup:
    """The training setup of one process. The defaults are those of one process without DeepSpeed in bf16."""

    micro_batch: MicroBatch
    trained: Trained
    numbers: NumberBytes
    frozen: WeightFormat = "bf16"  # the LLM's linear layers if they are frozen
    others: Literal["fp32", "bf16"] = "bf16"  # the vision tower and the LLM's other frozen weights
    adam_bytes: int = 4  # bytes per element of each of AdamW's two states
    fp32_copies: bool = False  # the optimizer holds fp32 copies of trained 16-bit weights
    gradient_bytes: int = 4  # bytes per trained weight
    accumulates: bool = False  # gradients of earlier micro-batches exist during the forward pass
    checkpointing: bool = True
    attention: Attention = field(default_factory=Attention)
    liger: bool = False
    loss: Loss = field(default_factory=Loss)
    zero: Zero = field(default_factory=Zero)
    cuda: bool = True
    pixel_bytes: int = FP32  # per value of an image on the device: 4 normalized, 1 (uint8) before the normalization
    batches: int = 1  # micro-batches on the device: 2 if the next one is copied while one is computed


@dataclass(frozen=True)
class Estimate:
    """The predicted memory at the peak, in bytes per part, and the phase of the step in which the peak occurs."""

    parts: dict[str, float]
    peak_phase: str

    @property
    def total(self) -> float:
        """Bytes that must be free on the GPU."""
        return sum(self.parts.values())

    @property
    def allocated(self) -> float:
        """Bytes that torch's allocator counts (torch.cuda.max_memory_allocated): without CUDA, NCCL and fragmentation."""
        return self.total - sum(self.parts.get(part, 0.0) for part in ("CUDA context", "NCCL buffers", "fragmentation"))


def trained_weights(shape: ModelShape, setup: Setup) -> int:
    """Return the number of trained weights."""
    lora = shape.lora_weights(setup.trained.rank, setup.trained.linears)
    llm = {"adapters": 0, "full": shape.llm_weights, "lora": lora}
    return llm[setup.trained.method] + shape.adapter_weights


def weight_bytes(shape: ModelShape, setup: Setup) -> float:
    """Return the bytes of all weights when they are not partitioned over processes."""
    others = BYTES_PER_WEIGHT[setup.others]
    tower = others * (shape.tower.weights if shape.tower else 0)
    llm = 0.0
    if setup.trained.method != "full":
        llm = BYTES_PER_WEIGHT[setup.frozen] * shape.linear_weights + others * shape.other_weights
    return tower + llm + setup.numbers.trained * trained_weights(shape, setup)


def constant_memory(shape: ModelShape, setup: Setup) -> dict[str, float]:
    """Return the bytes of weights, optimizer states and DeepSpeed's buffers, which exist during the complete step.

    ZeRO partitions the optimizer states from stage 1 on, the gradients from stage 2 on, and the weights in stage 3,
    where gathered weights may stay in memory up to a limit. One gradient bucket is filled while another one is reduced.
    """
    zero, count = setup.zero, trained_weights(shape, setup)
    processes = zero.processes if zero.stage else 1
    weights, gathered = weight_bytes(shape, setup), 0.0
    if zero.stage == 3:
        if processes > 1 or zero.offload_weights:
            gathered = min(weights, 2.0 * zero.max_live_weights)
        weights = 0.0 if zero.offload_weights else weights / processes
    state = 2 * setup.adam_bytes + FP32 * setup.fp32_copies
    optimizer = 0.0 if zero.offload_optimizer else count * state / processes
    bucket = shape.hidden_size**2 if zero.bucket_size is None else zero.bucket_size
    buckets = 2 * 2.0 * min(bucket, count) if zero.stage else 0.0
    return {"weights": weights, "optimizer": optimizer, "DeepSpeed buffers": gathered + buckets}


class Gradients(NamedTuple):
    """Bytes of gradients on the GPU in successive phases of the backward pass."""

    accumulated: float  # of earlier micro-batches
    head: float  # when the gradient of lm_head exists
    nearly_all: float  # at the peak of the first layer: of its own gradients only that of the last linear layer exists
    complete: float
    in_step: float  # with the fp32 copies that the optimizer step makes


def gradient_memory(shape: ModelShape, setup: Setup) -> Gradients:
    """Return the bytes of gradients in successive phases.

    ZeRO partitions gradients from stage 2 on. It updates in fp32, in stage 3 one group of weights at a time. With an
    offloaded optimizer no gradients stay on the GPU.
    """
    zero, full, count = setup.zero, setup.trained.method == "full", trained_weights(shape, setup)
    processes = zero.processes if zero.stage >= 2 else 1
    per_weight = 0.0 if zero.offload_optimizer else setup.gradient_bytes / processes
    complete = per_weight * count
    accumulated = complete * setup.accumulates
    head = per_weight * shape.vocab_size * shape.hidden_size * full  # the embedding is as large
    down = shape.hidden_size * shape.intermediate_size
    first_layer = per_weight * (shape.linear_weights / shape.num_layers - down) * full
    nearly_all = max(accumulated, complete - head - first_layer - per_weight * shape.adapter_weights)
    group = min(count / processes, SUBGROUP) if zero.stage == 3 else count / processes
    fp32_copy = FP32 * group * setup.fp32_copies * (not zero.offload_optimizer)
    return Gradients(accumulated, max(accumulated, head), nearly_all, complete, complete + fp32_copy)


def phases(shape: ModelShape, setup: Setup) -> Phases:
    """Return the bytes of temporary memory by part, for each phase of the step in which memory may peak."""
    numbers, images, checkpointing = setup.numbers, setup.micro_batch.images, setup.checkpointing
    n, full, gradients = setup.micro_batch.positions, setup.trained.method == "full", gradient_memory(shape, setup)

    kind = (setup.attention, setup.micro_batch.tokens, setup.liger)
    saved_per_layer = activations.layer_saved(shape, numbers, setup.trained, *kind) * n
    layer = activations.layer_backward(shape, numbers, setup.trained, *kind) * n
    layer += activations.weight_gradient(shape, numbers, setup.trained, setup.accumulates)
    mask = float(numbers.compute * n * setup.micro_batch.tokens * setup.attention.masked)
    checkpoint = numbers.stream * shape.hidden_size * n * checkpointing
    kept = activations.int8_inputs(shape, numbers) * n if _is_int8(setup) else 0.0
    saved = ((checkpoint or saved_per_layer) + kept) * shape.num_layers + mask
    # Autocast keeps its copies of trained weights until the forward pass ends; a recomputed layer makes its own again.
    copies = float(numbers.compute * trained_weights(shape, setup) * numbers.casts)
    layer_copies = copies / shape.num_layers

    head, head_backward = activations.head_and_loss(shape, numbers, setup.micro_batch.targets, full, setup.loss)
    pixels = activations.pixel_bytes(shape, images, setup.pixel_bytes) * setup.batches
    normalized = activations.pixel_bytes(shape, images) if setup.pixel_bytes < FP32 else 0.0
    views = {"projector and adapter": activations.views_saved(shape, numbers, images), "images": pixels}
    in_layer = {"one layer": layer, "dequantization buffers": _dequantized(shape, setup), **views}

    def parts(saved: float, copies: float, **temporary: float) -> dict[str, float]:
        return {"saved activations": saved, "copies of trained weights": copies, **temporary}

    saved_at_last = saved if checkpointing else saved - saved_per_layer
    temporary: Phases = {
        "the vision tower's forward pass": {"vision tower": _tower(shape, setup), "images": pixels + normalized},
        "lm_head's forward pass": parts(saved, copies, logits=head, **views),
        "lm_head's backward pass": parts(saved, 0.0 if checkpointing else copies, logits=head_backward, **views),
        "the last layer's backward pass": parts(saved_at_last, layer_copies if checkpointing else copies, **in_layer),
        "the first layer's backward pass": parts(checkpoint + kept + mask, layer_copies, **in_layer),
        "the adapter's backward pass": {
            "projector and adapter": views["projector and adapter"]
            + activations.views_backward(shape, numbers, images),
            "images": pixels,
        },
        "the optimizer step": {},
    }
    before = gradients.accumulated
    in_phase = [before, before, before, *gradients[1:]]
    return {
        phase: {**found, "gradients": size}
        for (phase, found), size in zip(temporary.items(), in_phase, strict=True)
    }  # fmt: skip


def _tower(shape: ModelShape, setup: Setup) -> float:
    weight = int(BYTES_PER_WEIGHT[setup.others])
    stream = FP32 if setup.numbers.casts and setup.cuda else weight
    return activations.tower_forward(shape, weight, stream, setup.micro_batch.images, setup.attention.eager)


def _is_int8(setup: Setup) -> bool:
    return setup.frozen == "int8" and setup.trained.method != "full"


def _dequantized(shape: ModelShape, setup: Setup) -> float:
    is_quantized = setup.frozen not in ("fp32", "bf16") and setup.trained.method != "full"
    return activations.dequantized(shape, setup.numbers) if is_quantized else 0.0


def estimate(shape: ModelShape, setup: Setup) -> Estimate:
    """Return the peak of a training step from the second step on, when the optimizer states exist."""
    constant = constant_memory(shape, setup)
    if setup.cuda and setup.zero.processes > 1:
        constant["NCCL buffers"] = NCCL_BUFFERS
    return _peak(constant, phases(shape, setup), setup.cuda)


def _peak(constant: dict[str, float], temporary: Phases, cuda: bool) -> Estimate:
    phase = max(temporary, key=lambda name: sum(temporary[name].values()))
    parts = {**constant, **temporary[phase]}
    if cuda:
        freed = sum(temporary[phase].values()) - temporary[phase].get("gradients", 0.0)
        parts |= {"CUDA context": CUDA_CONTEXT, "fragmentation": FRAGMENTATION * freed}
    return Estimate({part: size for part, size in parts.items() if size}, phase)


def estimate_generation(
    shape: ModelShape,
    weight_format: WeightFormat,
    rows: int,
    prompt: int,
    new: int,
    images: int,
    logits: int = 1,
    compute: int = 2,
) -> Estimate:
    """Return the peak of text generation. The KV cache stays; a layer holds the residual stream, its norm and the MLP.

    Args:
        weight_format: of the LLM's linear layers.
        rows: number of prompts.
        prompt: tokens of each prompt.
        new: generated tokens of each row.
        images: number of images in the batch.
        logits: positions of each prompt at which lm_head runs (all of them before transformers 4.45, and in fp32).
        compute: bytes per number.
    """
    others = BYTES_PER_WEIGHT["fp32" if compute == FP32 else "bf16"]
    weights = BYTES_PER_WEIGHT[weight_format] * shape.linear_weights
    weights += others * (shape.other_weights + shape.adapter_weights + (shape.tower.weights if shape.tower else 0))
    cache = 2.0 * compute * rows * (prompt + new) * shape.num_layers * shape.kv_width
    n, numbers = rows * prompt, NumberBytes(compute, compute, compute)
    buffers = 0.0 if weight_format in ("fp32", "bf16") else activations.dequantized(shape, numbers)
    temporary = {
        "the vision tower's forward pass": {
            "vision tower": activations.tower_forward(shape, compute, compute, images)
        },
        "the prompt's forward pass": {
            "one layer": n * compute * (4 * shape.hidden_size + 3 * shape.intermediate_size),
            "dequantization buffers": buffers,
        },
        "lm_head's forward pass": {
            "logits": rows * logits * shape.vocab_size * (compute + FP32),
            "one layer": 2 * n * compute * shape.hidden_size,
        },
    }  # fmt: skip
    return _peak({"weights": weights, "KV cache": cache}, temporary, cuda=True)


def gib(count: float) -> str:
    """Return bytes as nvidia-smi counts them, for example "13.5 GiB"; in MiB below half a GiB."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**29 else f"{count / 2**20:.0f} MiB"
