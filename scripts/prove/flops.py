"""Model FLOPs of a training step and the peak rates of cards, for the model FLOPs utilization (MFU). No torch.

MFU = model FLOPs of a step / (seconds of the step x peak FLOPs per second of the card), as in PaLM (arXiv 2204.02311, appendix
B). Model FLOPs are those that the method needs: recomputed activations, padding and masked pairs do not count.
"""

import re
from dataclasses import dataclass

from senna.train.memory.model_shape import ModelShape

PEAK = {
    r"NVIDIA B200": 2250e12,
    r"NVIDIA H200": 989e12,
    r"NVIDIA H100 NVL": 835e12,
    r"NVIDIA H100 PCIe": 756e12,
    r"NVIDIA H100( 80GB HBM3)?": 989e12,
    r"NVIDIA A100[- ]((SXM4|PCIE)-)?(40|80)GB( PCIe)?": 312e12,
    r"NVIDIA L40S": 362e12,
    r"NVIDIA L4": 121e12,
    r"NVIDIA A10": 125e12,
    r"NVIDIA GeForce RTX 5090": 209.5e12,
    r"NVIDIA GeForce RTX 4090": 165.2e12,
    r"NVIDIA GeForce RTX 3090": 71e12,
}
"""Pattern of a complete device name -> dense bf16 FLOPs per second of the tensor cores, accumulating in fp32, without sparsity.

Source: NVIDIA's data sheets of the data center cards (half of the figure "with sparsity"), and the appendices of the Ampere
GA102, Ada and RTX Blackwell architecture whitepapers for GeForce. Slices of a card (MIG), laptops and "Ti" have other rates."""


def peak_flops(device: str) -> float | None:
    """Return the peak rate of a card by the name that torch gives it; None if it is not known."""
    return next((peak for pattern, peak in PEAK.items() if re.fullmatch(pattern, device)), None)


@dataclass(frozen=True)
class Work:
    """The size of a step.

    Attributes:
        tokens: in all rows, view tokens included, padding not.
        pairs: (query, key) pairs that attention computes.
        targets: positions at which lm_head runs.
        images: number of images.
    """

    tokens: int
    pairs: int
    targets: int
    images: int


def step_flops(shape: ModelShape, work: Work, method: str, rank: int = 0) -> float:
    """Return the model FLOPs of forward and backward pass.

    A matrix product of w weights takes 2 w FLOPs a token forward, 2 w for the gradient of its input, and 2 w for the gradient
    of its weights if they are trained. Attention takes 4 x width FLOPs a pair forward (two products) and twice that backward.

    Args:
        method: "adapters", "lora" or "full": what is trained in the LLM. Projector and adapter are always trained.
        rank: of LoRA.
    """
    passes = 3 if method == "full" else 2
    flops = 2.0 * passes * shape.linear_weights * work.tokens
    flops += 2.0 * passes * shape.vocab_size * shape.hidden_size * work.targets
    flops += 3 * 4.0 * shape.query_width * shape.num_layers * work.pairs
    if method == "lora":
        flops += 3 * 2.0 * shape.lora_weights(rank) * work.tokens
    tower = shape.tower
    if tower is not None:
        width, positions = tower.hidden_size, tower.patches + 1
        layer = 2.0 * (4 * width**2 + 2 * width * tower.intermediate_size) * positions + 4.0 * width * positions**2
        projector = 2.0 * (width + shape.hidden_size) * shape.hidden_size * tower.patches
        adapter = 2.0 * (tower.patches + 2 * shape.view_tokens) * shape.view_tokens * shape.hidden_size
        flops += work.images * (tower.layers_run * layer + 3 * (projector + adapter))
    return flops
