"""Modules between the vision tower and the LLM.

Shapes: N views, P patch tokens per view, K adapter tokens per view, C vision tower width, D LLM width.
"""

from collections.abc import Iterable
from typing import cast

import torch
from torch import nn

ADAPTER_INIT_STD = 0.01  # of new adapters in the published stage 1


class ProjectorLinear(nn.Linear):
    """A Linear that keeps torch's initialization, as in the published stage 1, instead of the LLM's."""


class AdapterLinear(nn.Linear):
    """A Linear initialized with weights from normal(0, 0.01) and a zero bias."""

    @torch.no_grad()
    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=ADAPTER_INIT_STD)
        nn.init.zeros_(self.bias)


class Projector(nn.Sequential):
    """The ``mlp2x_gelu`` projector, applied to each token: (..., C) -> (..., D)."""

    def __init__(self, tower_width: int, llm_width: int):
        super().__init__(ProjectorLinear(tower_width, llm_width), nn.GELU(), ProjectorLinear(llm_width, llm_width))


class DrivingVisionAdapter(nn.Module):
    """An MLP over the token axis that reduces each view from P to K tokens. Channels do not mix."""

    def __init__(self, patches: int, tokens: int):
        super().__init__()
        self.adapter = nn.Sequential(
            AdapterLinear(patches, tokens),
            nn.GELU(),
            AdapterLinear(tokens, tokens),
            nn.GELU(),
            AdapterLinear(tokens, tokens),
        )

    def reset(self) -> None:
        """Initialize all layers again, in place."""
        for layer in cast(Iterable[AdapterLinear], self.adapter[::2]):
            layer.reset_parameters()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map (N, P, D) projected features to (N, K, D) view tokens."""
        return self.adapter(features.transpose(1, 2)).transpose(1, 2)
