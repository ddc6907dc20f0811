"""Floating-point operations of training, and from them the MFU (model FLOPs utilization). Plain numbers, no torch.

The operations are those that the model's mathematics needs, as in appendix B of PaLM (arXiv 2204.02311): of matrix products
only, two for a multiplication with an addition; without padding, without pairs of tokens that a mask hides, and without what
gradient checkpointing computes again.
"""

from dataclasses import dataclass

from senna.train.memory.model_shape import ModelShape


@dataclass(frozen=True)
class TrainedParts:
    """The parts of a model whose weights are trained. ``rank`` is that of LoRA, 0 without."""

    llm: bool
    lm_head: bool
    projector: bool
    adapter: bool
    rank: int = 0


@dataclass(frozen=True)
class Work:
    """The amount that a model has processed; see `senna.data.batch.BatchCounts`."""

    tokens: float
    targets: float
    images: float
    pairs: float


def training_flops(shape: ModelShape, trained: TrainedParts, work: Work) -> float:
    """Return the operations of the forward and the backward pass.

    A product whose two factors need a gradient takes twice as many operations backward as forward: weights that are trained,
    and all of attention. Where only one needs it (the input of frozen weights), it takes as many.
    """
    llm = 2.0 * shape.linear_weights * work.tokens * (3 if trained.llm else 2)
    lora = 2.0 * shape.lora_weights(trained.rank) * work.tokens * 3
    attention = 4.0 * shape.num_layers * shape.query_width * work.pairs * 3
    lm_head = 2.0 * shape.vocab_size * shape.hidden_size * work.targets * (3 if trained.lm_head else 2)
    return llm + lora + attention + lm_head + work.images * (_tower_flops(shape) + _view_flops(shape, trained))


def _tower_flops(shape: ModelShape) -> float:
    """Return the operations of an image in the frozen vision tower, forward only, in the layers that are run."""
    if shape.tower is None:
        return 0.0
    d, positions = shape.tower.hidden_size, shape.tower.patches + 1
    weights = 4 * d * d + 2 * d * shape.tower.intermediate_size
    layer = 2 * weights * positions + 4 * d * positions**2
    return 2.0 * shape.tower.patches * 3 * shape.tower.patch_size**2 * d + shape.tower.layers_run * layer


def _view_flops(shape: ModelShape, trained: TrainedParts) -> float:
    """Return the operations of an image in the projector and the driving vision adapter, forward and backward.

    The first trained product needs no gradient of its input, and nothing below it needs any.
    """
    if shape.tower is None:
        return 0.0
    d, k, patches = shape.hidden_size, shape.view_tokens, shape.tower.patches
    products = [
        (patches * shape.tower.hidden_size * d, trained.projector),
        (patches * d * d, trained.projector),
        (d * patches * k, trained.adapter),
        (d * k * k, trained.adapter),
        (d * k * k, trained.adapter),
    ]
    total, needs_input = 0.0, False
    for size, is_trained in products:
        total += 2.0 * size * (1 + is_trained + needs_input)
        needs_input |= is_trained
    return total


@dataclass(frozen=True)
class Peak:
    """Peak TFLOP/s of a card by the type of the factors; None where its tensor cores lack the type."""

    bf16: float | None
    fp16: float
    tf32: float | None
    fp32: float


def _card(half: float, tf32: float, fp32: float) -> Peak:
    return Peak(half, half, tf32, fp32)


_H100 = _card(989.4, 494.7, 66.9)
_A100 = _card(312, 156, 19.5)
PEAKS = {
    "B200": _card(2250, 1125, 75),
    "H200": _H100,
    "H200 NVL": _card(835.5, 417.5, 60),
    "H100 80GB HBM3": _H100,
    "GH200 480GB": _H100,
    "H100 NVL": _card(835.5, 417.5, 60),
    "H100 PCIe": _card(756, 378, 51.2),
    "A100-SXM4-40GB": _A100,
    "A100-SXM4-80GB": _A100,
    "A100-PCIE-40GB": _A100,
    "A100 80GB PCIe": _A100,
    "A40": _card(149.7, 74.8, 37.4),
    "A30": _card(165, 82, 10.3),
    "A10": _card(125, 62.5, 31.2),
    "RTX A6000": _card(154.8, 77.4, 38.7),
    "L40S": _card(362, 183, 91.6),
    "L40": _card(181, 90.5, 90.5),
    "L4": _card(121, 60, 30.3),
    "RTX 6000 Ada Generation": _card(364.2, 182.1, 91.1),
    "RTX 5090": _card(209.5, 104.8, 104.8),
    "RTX 4090": _card(165.2, 82.6, 82.6),
    "RTX 3090": _card(71, 35.6, 35.6),
    "V100-SXM2-16GB": Peak(None, 125, None, 15.7),
    "V100-SXM2-32GB": Peak(None, 125, None, 15.7),
    "V100-PCIE-16GB": Peak(None, 112, None, 14),
    "V100-PCIE-32GB": Peak(None, 112, None, 14),
    "T4": Peak(None, 65, None, 8.1),
}
"""Name of a card, without NVIDIA, Tesla and GeForce -> its peak for dense matrices, which is half of what data sheets state
"with sparsity". From NVIDIA's data sheets; of the GeForce cards and the V100 from the appendices of NVIDIA's architecture white
papers (GeForce: sums in fp32)."""


def card_peak(card: str, precision: str) -> float | None:
    """Return the peak TFLOP/s of a card, or None if it is not known.

    Args:
        card: as ``torch.cuda.get_device_name`` returns it.
        precision: "bf16", "fp16", "tf32" or "fp32".
    """
    for brand in ("NVIDIA ", "Tesla ", "GeForce "):
        card = card.removeprefix(brand)
    return getattr(PEAKS[card], precision) if card in PEAKS else None
