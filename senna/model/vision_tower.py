"""The frozen CLIP vision tower. N images, P patches, C tower width."""

import torch
from torch import nn
from transformers import CLIPVisionModel

from senna.model.config import SennaConfig


class _ClipTower(nn.Module):
    """Only a level in the names: published checkpoints say ``vision_tower.vision_tower.vision_model``."""

    def __init__(self, config: SennaConfig):
        super().__init__()
        self.vision_model = CLIPVisionModel(config.vision_config)


class VisionTower(nn.Module):
    """CLIP patch features of one layer, always frozen, in evaluation mode and without gradient.

    Layers past the selected one are kept, since checkpoints hold them, and never run.
    """

    def __init__(self, config: SennaConfig):
        super().__init__()
        self.vision_tower = _ClipTower(config)
        self.layers_run = config.vision_layers
        self.keep_class_token = config.mm_vision_select_feature == "cls_patch"
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "VisionTower":
        """Stays in evaluation mode whatever the model around it does."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) pixels, normalised as CLIP expects -> (N, P, C) features in the tower's dtype."""
        clip = self.vision_tower.vision_model
        hidden = clip.pre_layrnorm(clip.embeddings(pixels))  # (N, 1 + P, C)
        for layer in clip.encoder.layers[: self.layers_run]:
            hidden = layer(hidden, None)
        return hidden if self.keep_class_token else hidden[:, 1:]
