"""Bytes that a forward pass saves for the backward pass, and bytes of temporary tensors on top. Plain numbers, no torch.

The terms follow what autograd saves, counted as in section 4.1 of arXiv 2205.05198. A linear layer saves its input if
its weight is trained, a product saves both factors, SiLU its input, dropout its mask. Here a norm also saves its input
in fp32. Fused attention saves query, key, value, output and one fp32 log-sum-exp per head (FlashAttention, arXiv
2205.14135).

Letters in the formulas:

- d: ``hidden_size``, the width of the residual stream
- i: ``intermediate_size``, the width inside the MLP
- c: bytes of a number in matrix products (``NumberBytes.compute``)
- s: bytes of a number in the residual stream (``NumberBytes.stream``)
"""

from dataclasses import dataclass
from typing import Literal

from senna.train.memory.model_shape import LINEARS, ModelShape

FP32 = 4
SHARED_INPUTS = (("q", "k", "v"), ("o",), ("gate", "up"), ("down",))
"""Groups of linear layers in a decoder layer that read the same input."""


@dataclass(frozen=True)
class MicroBatch:
    """The size of one micro-batch on one process."""

    rows: int
    tokens: int  # per row, view tokens and padding included
    targets: int  # in all rows; lm_head runs at the targets only
    images: int  # in all rows

    @property
    def positions(self) -> int:
        """Number of token positions in all rows."""
        return self.rows * self.tokens


@dataclass(frozen=True)
class NumberBytes:
    """Bytes per number: in matrix products, in the residual stream, and in a trained weight.

    If trained weights are wider than ``compute``, autocast copies them and the tensors that they multiply.
    """

    compute: int
    stream: int
    trained: int

    @property
    def casts(self) -> bool:
        """True if autocast copies trained weights."""
        return self.trained != self.compute


@dataclass(frozen=True)
class Trained:
    """The trained part of the LLM. The projector and the driving vision adapter are always trained."""

    method: Literal["adapters", "lora", "full"] = "adapters"
    rank: int = 0  # of LoRA
    linears: tuple[str, ...] = LINEARS  # the linear layers that LoRA adapts
    dropout: bool = True  # LoRA uses dropout
    mask: int = 1  # bytes per element of a dropout mask: 1 on CUDA; on a CPU the width of the input
    casts_inputs: bool = False  # LoRA casts its inputs to the type of the trained weights: PEFT's default, not Senna's


@dataclass(frozen=True)
class Attention:
    """The kind of attention in the LLM.

    ``eager`` attention saves a value for each pair of positions; sdpa, flash, flex and split save none. ``masked``
    means that a mask over all pairs is allocated. ``gathered`` is the number of keys per position of a packed row that
    ``split`` copies on a GPU, where each branch gets the keys of its prefix.
    """

    eager: bool = False
    masked: bool = False
    gathered: float = 0.0


@dataclass(frozen=True)
class Loss:
    """The way the cross-entropy is computed: over ``chunks`` of the targets in turn, whose logits all stay in memory."""

    chunks: int = 1
    compiled: bool = False  # into one kernel without fp32 copies


def layer_saved(
    shape: ModelShape, numbers: NumberBytes, trained: Trained, attention: Attention, tokens: int, liger: bool = False
) -> float:
    """Return the bytes per token that a decoder layer saves, including its input if a norm reads that unchanged."""
    d, i, c, s = shape.hidden_size, shape.intermediate_size, numbers.compute, numbers.stream
    full, lora = trained.method == "full", trained.method == "lora"
    # Two norms. Each saves its input in fp32 (Liger: in its own type) and, if its weight is trained, the normalized input.
    norms = 2 * d * ((s if liger else FP32) + (s if full and not liger else 0))
    pairs = shape.num_heads * tokens * (FP32 + (c if c < FP32 else 0)) if attention.eager else FP32 * shape.num_heads
    attending = c * (shape.query_width + 2 * shape.kv_width) + pairs
    attending += gathered_keys(shape, numbers, attention)
    output = c * shape.query_width if full or not attention.eager else 0
    swiglu = i * c * (2 if liger else 3)  # gate, silu(gate), up; Liger computes silu again
    saved = norms + attending + output + swiglu
    if full:
        # Autocast makes a copy for each of q, k, v, gate and up; otherwise these share two inputs.
        copies = 5 if s != c else 2
        saved += copies * c * d + i * c
    if lora:
        saved += _lora_saved(shape, numbers, trained)
    return saved


def _lora_saved(shape: ModelShape, numbers: NumberBytes, trained: Trained) -> float:
    """Return the bytes per token that a layer's LoRA saves: the dropout masks and the inputs of A and of B."""
    saved = 0.0
    for group in SHARED_INPUTS:
        adapted = [name for name in group if name in trained.linears]
        width = shape.linear_shapes[group[0]][0]
        separate = trained.dropout or (trained.casts_inputs and numbers.casts)  # each A then has an input of its own
        inputs = len(adapted) if separate else min(len(adapted), 1)
        if group == ("o",) and not separate:
            inputs = 0  # the output of the attention, which is saved anyway
        saved += inputs * numbers.compute * width + len(adapted) * numbers.compute * trained.rank
        saved += len(adapted) * trained.mask * width * trained.dropout
    return saved


def weight_gradient(shape: ModelShape, numbers: NumberBytes, trained: Trained, accumulates: bool) -> float:
    """Return the bytes of temporary tensors while full training computes the weight gradient of the largest linear layer.

    Under autocast the gradient first exists in the type of the products. With accumulation it exists beside the
    gradient of the earlier micro-batches, to which it is added.
    """
    if trained.method != "full":
        return 0.0
    largest = max(rows * columns for rows, columns in shape.linear_shapes.values())
    return float(largest * ((numbers.compute if numbers.casts else 0) + (numbers.trained if accumulates else 0)))


def layer_backward(
    shape: ModelShape, numbers: NumberBytes, trained: Trained, attention: Attention, tokens: int, liger: bool = False
) -> float:
    """Return the peak bytes per token in the backward pass of a decoder layer, including all that the layer saved.

    The peak is at the MLP's last linear layer and the product before it: the gradient of the residual stream exists
    twice (a copy bypasses the MLP), with the gradients of the product and of its two factors. LoRA with dropout needs
    more only if it casts its inputs: the gradient of its input then exists before and after the dropout in the width of
    the trained weights. With eager attention the peak may be at the softmax instead, after the MLP is done.
    """
    d, i, c, s = shape.hidden_size, shape.intermediate_size, numbers.compute, numbers.stream
    saved = layer_saved(shape, numbers, trained, attention, tokens, liger)
    temporary = 2 * s * d + (2 if trained.method == "full" else 3) * i * c
    if trained.method == "lora" and trained.casts_inputs and "down" in trained.linears and trained.dropout:
        temporary = max(temporary, 2 * s * d + i * c + 2 * i * numbers.trained)
    # The gradients of gathered keys and values exist until they are added up, after the MLP is done.
    temporary = max(temporary, 2 * s * d - 3 * i * c + gathered_keys(shape, numbers, attention))
    if not attention.eager:
        return saved + temporary
    softmax = saved - 3 * i * c + 2 * s * d + shape.num_heads * tokens * _softmax_pair(c)
    return max(saved + temporary, softmax)


def gathered_keys(shape: ModelShape, numbers: NumberBytes, attention: Attention) -> float:
    """Return the bytes per token of the keys and values that ``split`` attention gathers on a GPU, for all query heads."""
    return 2.0 * attention.gathered * numbers.compute * shape.query_width


def int8_inputs(shape: ModelShape, numbers: NumberBytes) -> float:
    """Return the bytes per token and layer that int8 linear layers keep in addition to what autograd saves: their inputs.

    bitsandbytes keeps them as attributes of the autograd node, which gradient checkpointing does not free. Layers that read
    the same input keep one tensor.
    """
    return float(numbers.compute * sum(shape.linear_shapes[group[0]][0] for group in SHARED_INPUTS))


def _softmax_pair(c: int) -> int:
    """Return the bytes per pair of positions while eager attention computes its softmax or the softmax's gradient."""
    return FP32 + (2 * c if c < FP32 else c)


def head_and_loss(
    shape: ModelShape, numbers: NumberBytes, targets: int, trained: bool, loss: Loss
) -> tuple[float, float]:
    """Return the bytes of lm_head and the loss in the forward pass and in the backward pass.

    The forward pass holds the logits, their fp32 copy and the log-softmax. The backward pass first holds the
    log-softmax, its gradient and the gradient of its input, all in fp32; then the gradients of the logits and of
    lm_head.
    """
    logits, c = targets * shape.vocab_size, numbers.compute
    weight = 0
    if trained:
        weight = shape.vocab_size * shape.hidden_size * (numbers.trained + (c if numbers.casts else 0))
    all_logits = c * logits if loss.chunks > 1 else 0
    if loss.compiled:  # one kernel reads logits and writes their gradient
        return float(c * logits), c * logits * (1 + 1 / loss.chunks) + weight
    forward = (2 * FP32 + (c if c < FP32 else 0)) * logits / loss.chunks
    backward = max(all_logits + 3 * FP32 * logits / loss.chunks, c * logits + weight)
    return all_logits + forward, float(backward)


def tower_forward(shape: ModelShape, weight_bytes: int, stream: int, images: int, eager: bool = False) -> float:
    """Return the peak bytes of temporary tensors in the forward pass of the frozen tower, which saves nothing.

    The peak of a layer is in its MLP: the layer's input, the stream after the attention and its norm, the MLP's hidden
    layer and the two tensors of quick GELU, x sigmoid(1.702 x). With eager attention it may be at query, key, value and
    the fp32 scores.

    Args:
        weight_bytes: bytes per weight of the tower.
        stream: bytes per number in the residual stream; autocast returns the result of a norm in fp32.
    """
    if shape.tower is None:
        return 0.0
    tower, positions = shape.tower, shape.tower.patches + 1
    cast = weight_bytes * tower.hidden_size if stream != weight_bytes else 0
    mlp = 3 * stream * tower.hidden_size + cast + 3 * weight_bytes * tower.intermediate_size
    attention = (2 * stream + 3 * weight_bytes) * tower.hidden_size
    attention += tower.num_heads * positions * _softmax_pair(weight_bytes)
    return float(images * positions * (max(mlp, attention) if eager else mlp))


def views_saved(shape: ModelShape, numbers: NumberBytes, images: int) -> float:
    """Return the bytes that the projector and the driving vision adapter save; gradient checkpointing does not cover them.

    Per patch: the tower's features, the input and output of GELU, and the projector's output transposed to run over
    tokens. Per view token: the inputs and outputs of two GELUs.
    """
    if shape.tower is None:
        return 0.0
    c, d = numbers.compute, shape.hidden_size
    return images * c * (shape.tower.patches * (shape.tower.hidden_size + 3 * d) + 4 * shape.view_tokens * d)


def views_backward(shape: ModelShape, numbers: NumberBytes, images: int) -> float:
    """Return the peak bytes of temporary tensors in their backward pass: two gradients of width d per patch."""
    return 0.0 if shape.tower is None else 2.0 * images * numbers.compute * shape.tower.patches * shape.hidden_size


def pixel_bytes(shape: ModelShape, images: int, bytes_per_value: int = FP32) -> float:
    """Return the bytes of images, (N, 3, H, W)."""
    return 0.0 if shape.tower is None else 3.0 * bytes_per_value * images * shape.tower.image_size**2


def dequantized(shape: ModelShape, numbers: NumberBytes) -> float:
    """Return the bytes of the largest linear layer in the type of the products; it is dequantized at each use."""
    return float(numbers.compute * max(rows * columns for rows, columns in shape.linear_shapes.values()))
