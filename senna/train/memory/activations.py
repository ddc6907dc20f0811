"""Bytes that a forward keeps for the backward pass, and what a moment of work takes on top. Plain numbers, no torch.

The terms follow what autograd saves, counted as in section 4.1 of arXiv 2205.05198: a Linear its input where its weight
trains, a product both factors, SiLU its input, a dropout its mask; here also a norm its input in fp32, and fused attention its
query, key, value, output and one fp32 log-sum-exp a head (FlashAttention, arXiv 2205.14135).

n tokens, D width, I inner width, c bytes of what is multiplied, s bytes of the residual stream.
"""

from dataclasses import dataclass
from typing import Literal

from senna.train.memory.model_shape import LINEARS, ModelShape

FP32 = 4
SHARED_INPUTS = (("q", "k", "v"), ("o",), ("gate", "up"), ("down",))
"""Linears of a layer that read the same input."""


@dataclass(frozen=True)
class Work:
    """One micro-batch on one process."""

    rows: int
    tokens: int  # of a row, view tokens and padding included
    targets: int  # of all rows: where the head runs
    images: int  # of all rows

    @property
    def places(self) -> int:
        return self.rows * self.tokens


@dataclass(frozen=True)
class Numbers:
    """Bytes a number takes: ``compute`` in matrix products, ``stream`` in the residual stream, ``trained`` a trained weight.

    Where trained weights are wider than ``compute``, autocast makes copies of them and of what they multiply.
    """

    compute: int
    stream: int
    trained: int

    @property
    def casts(self) -> bool:
        return self.trained != self.compute


@dataclass(frozen=True)
class Trained:
    """What trains: projector and adapter in any case."""

    what: Literal["adapters", "lora", "full"] = "adapters"
    rank: int = 0
    on: tuple[str, ...] = LINEARS
    dropout: bool = True  # of LoRA
    mask: int = 1  # bytes a number of a dropout's mask: 1 on CUDA, on a CPU a number as wide as what is dropped


@dataclass(frozen=True)
class Attention:
    """``eager`` keeps all pairs, where sdpa, flash, flex and split keep none; ``masked``: a mask of all pairs is made."""

    eager: bool = False
    masked: bool = False


@dataclass(frozen=True)
class Loss:
    """How the cross-entropy is taken: of all targets at once or of ``chunks`` one after the other, whose logits all stay."""

    chunks: int = 1
    compiled: bool = False  # into one kernel, which makes no fp32 copies


def layer_kept(
    g: ModelShape, numbers: Numbers, trained: Trained, attention: Attention, tokens: int, liger: bool = False
) -> float:
    """Bytes per token that a Llama layer keeps, its input (the residual stream) included where a norm reads it unchanged."""
    d, i, c, s = g.width, g.inner, numbers.compute, numbers.stream
    full, lora = trained.what == "full", trained.what == "lora"
    # Two norms: each keeps its input in fp32 (Liger: as it is), and where its weight trains the normalised input.
    norms = 2 * d * ((s if liger else FP32) + (s if full and not liger else 0))
    pairs = g.heads * tokens * (FP32 + (c if c < FP32 else 0)) if attention.eager else FP32 * g.heads
    attending = c * (g.query_width + 2 * g.kv_width) + pairs
    output = c * g.query_width if full or not attention.eager else 0
    swiglu = i * c * (2 if liger else 3)  # gate, silu(gate), up; Liger computes silu again
    kept = norms + attending + output + swiglu
    if full:
        copies = 5 if s != c else 2  # autocast makes one for each of q, k, v and gate, up; else these share
        kept += copies * c * d + i * c
    if lora:
        kept += _lora_kept(g, numbers, trained)
    return kept


def _lora_kept(g: ModelShape, numbers: Numbers, trained: Trained) -> float:
    """Bytes per token that a layer's LoRA keeps: per Linear the mask of its dropout, what A and what B multiplies."""
    kept = 0.0
    for shared in SHARED_INPUTS:
        on = [name for name in shared if name in trained.on]
        width = g.linear_shapes[shared[0]][0]
        own = trained.dropout or numbers.casts  # an input of its own for each A
        inputs = len(on) if own else min(len(on), 1)
        if shared == ("o",) and not own:
            inputs = 0  # the attention's output, which is kept anyway
        kept += inputs * numbers.compute * width + len(on) * numbers.compute * trained.rank
        kept += len(on) * trained.mask * width * trained.dropout
    return kept


def weight_work(g: ModelShape, numbers: Numbers, trained: Trained, accumulates: bool) -> float:
    """Bytes of a Linear's gradient while it is made (full training): in the products' precision under autocast, and beside
    the one of earlier micro-batches that it is added to."""
    if trained.what != "full":
        return 0.0
    largest = max(a * b for a, b in g.linear_shapes.values())
    return float(largest * ((numbers.compute if numbers.casts else 0) + (numbers.trained if accumulates else 0)))


def layer_peak(
    g: ModelShape, numbers: Numbers, trained: Trained, attention: Attention, tokens: int, liger: bool = False
) -> float:
    """Bytes per token at the widest moment of a layer's backward pass, all that it keeps included: the MLP's last Linear and
    the product before it, or with eager attention, when the MLP is done, the softmax.

    At the MLP: the stream's gradient, twice (it goes on past the MLP); those of the product and of its two factors. LoRA with
    dropout beside that Linear holds its input's gradient before and after the dropout, as wide as its weights.
    """
    d, i, c, s = g.width, g.inner, numbers.compute, numbers.stream
    kept = layer_kept(g, numbers, trained, attention, tokens, liger)
    work = 2 * s * d + (2 if trained.what == "full" else 3) * i * c
    if trained.what == "lora" and "down" in trained.on and trained.dropout:
        work = max(work, 2 * s * d + i * c + 2 * i * numbers.trained)
    if not attention.eager:
        return kept + work
    return max(kept + work, kept - 3 * i * c + 2 * s * d + g.heads * tokens * _pair_work(c))


def _pair_work(c: int) -> int:
    """Bytes a pair takes while eager attention computes its softmax, or that one's gradient: in fp32 and as it is."""
    return FP32 + (2 * c if c < FP32 else c)


def head_work(g: ModelShape, numbers: Numbers, targets: int, trained: bool, loss: Loss) -> tuple[float, float]:
    """Bytes of the head and the loss at the targets: in the forward pass (logits, in fp32, their log-softmax), and in the
    backward pass (log-softmax, its gradient, that of its input, all fp32; then that of the logits and of the head itself)."""
    logits, c = targets * g.vocabulary, numbers.compute
    weight = g.vocabulary * g.width * (numbers.trained + (c if numbers.casts else 0)) if trained else 0
    stay = c * logits if loss.chunks > 1 else 0
    if loss.compiled:  # one kernel reads logits and writes their gradient
        return float(c * logits), c * logits * (1 + 1 / loss.chunks) + weight
    forward = (2 * FP32 + (c if c < FP32 else 0)) * logits / loss.chunks
    return stay + forward, float(max(stay + 3 * FP32 * logits / loss.chunks, c * logits + weight))


def tower_work(g: ModelShape, held: int, stream: int, images: int, eager: bool = False) -> float:
    """Bytes of the frozen tower's widest moment (nothing is kept): a layer's input, the stream behind its attention and that
    one's norm, the MLP's inner layer and the two of quick GELU, x sigmoid(1.702 x); or with eager attention query, key, value
    and all pairs, in fp32 too. ``held`` is of its weights; under autocast a norm's result, and so the ``stream``, is fp32.
    """
    if g.tower is None:
        return 0.0
    tower, places = g.tower, g.tower.patches + 1
    cast = held * tower.width if stream != held else 0
    mlp = 3 * stream * tower.width + cast + 3 * held * tower.inner
    attention = 2 * stream * tower.width + 3 * held * tower.width + tower.heads * places * _pair_work(held)
    return float(images * places * (max(mlp, attention) if eager else mlp))


def views_kept(g: ModelShape, numbers: Numbers, images: int) -> float:
    """Bytes that projector and driving vision adapter keep, which no checkpointing makes anew.

    A patch: the tower's features as the projector reads them, GELU's input and output, the projector's output laid out over
    tokens. A view token: two GELUs' inputs and outputs.
    """
    if g.tower is None:
        return 0.0
    c, d = numbers.compute, g.width
    return images * c * (g.tower.patches * (g.tower.width + 3 * d) + 4 * g.view_tokens * d)


def views_work(g: ModelShape, numbers: Numbers, images: int) -> float:
    """Bytes of the widest moment of their backward pass: the gradients of two of a patch's wide tensors."""
    return 0.0 if g.tower is None else 2.0 * images * numbers.compute * g.tower.patches * g.width


def pixel_bytes(g: ModelShape, images: int) -> float:
    """The batch's images, fp32 (N, 3, H, W)."""
    return 0.0 if g.tower is None else 3.0 * FP32 * images * g.tower.side**2


def dequantised(g: ModelShape, numbers: Numbers) -> float:
    """The largest Linear of a layer in the precision of the products, made anew each time it is used."""
    return float(numbers.compute * max(a * b for a, b in g.linear_shapes.values()))
