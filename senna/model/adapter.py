"""What turns tower features into LLM tokens. N views, P patches, K tokens a view, C tower width, D LLM width."""

import torch
from torch import nn

ADAPTER_INIT_STD = 0.01  # new adapters of the published stage 1


class ProjectorLinear(nn.Linear):
    """A Linear that starts as torch starts one, which is what the published stage 1 does, not as the LLM's do."""


class AdapterLinear(nn.Linear):
    """A Linear that starts from normal(0, 0.01) and zero bias."""

    @torch.no_grad()
    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=ADAPTER_INIT_STD)
        nn.init.zeros_(self.bias)


class Projector(nn.Sequential):
    """The projector ``mlp2x_gelu``, each token by itself: (..., C) -> (..., D)."""

    def __init__(self, tower_width: int, llm_width: int):
        super().__init__(ProjectorLinear(tower_width, llm_width), nn.GELU(), ProjectorLinear(llm_width, llm_width))


class DrivingVisionAdapter(nn.Module):
    """Squeezes each view from P to K tokens by an MLP over the token axis, each channel by itself."""

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
        """Start anew."""
        for layer in self.adapter[::2]:
            layer.reset_parameters()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(N, P, D) -> (N, K, D)."""
        return self.adapter(features.transpose(1, 2)).transpose(1, 2)
