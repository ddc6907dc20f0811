"""The frozen CLIP vision tower.

Shapes: N images of H x W pixels, P patch tokens per image, C vision tower width.
"""

import torch
from torch import nn
from transformers import CLIPVisionModel

from senna.model.config import SennaConfig
from senna.model.pixels import normalize


class _ClipTower(nn.Module):
    """A wrapper that only adds a level to parameter names (``vision_tower.vision_tower.vision_model``, as published)."""

    def __init__(self, config: SennaConfig):
        super().__init__()
        self.vision_model = CLIPVisionModel(config.tower_config)


class VisionTower(nn.Module):
    """CLIP features of one hidden layer. Always frozen, in evaluation mode and without gradient.

    Layers after the selected one are kept, because checkpoints contain them, but never run.
    """

    def __init__(self, config: SennaConfig):
        super().__init__()
        self.vision_tower = _ClipTower(config)
        self.scaling = config.pixel_scaling
        self.layers_run = config.vision_layers
        self.keep_class_token = config.mm_vision_select_feature == "cls_patch"
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "VisionTower":
        """Stay in evaluation mode, whatever ``mode`` the surrounding model switches to."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode (N, 3, H, W) pixels to (N, P, C) features (P + 1 with the class token).

        Args:
            pixels: uint8 levels, which are normalized here, or floats that are normalized already.
        """
        clip = self.vision_tower.vision_model
        hidden = clip.pre_layrnorm(clip.embeddings(normalize(pixels, self.scaling)))  # (N, 1 + P, C)
        for layer in clip.encoder.layers[: self.layers_run]:
            hidden = layer(hidden, None)  # (N, 1 + P, C)
        return hidden if self.keep_class_token else hidden[:, 1:]  # (N, P, C)
