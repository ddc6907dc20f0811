"""A small CLIP vision tower for the tiny preset, trained on labelled road images. It takes the place of a pretrained CLIP.

Two things reduce the training from days of contrastive learning to seconds: the patch embedding starts from whitened
principal components of patches, and there are dense targets: labels of each patch (`patch_labels`), and of each front view of
the driving world (`scene_labels`), which are read from the patches by attention. The loss is computed on the output of the
second-to-last layer, which is the one that LLaVA uses; the last layer keeps its random weights.
"""

from __future__ import annotations

import os

import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from senna.synthetic.tiny.patch_labels import NUM_CLASSES
from senna.synthetic.tiny.recipes import TowerRecipe
from senna.synthetic.tiny.scene_labels import SCENE_LABELS
from senna.synthetic.tiny.tower_dataset import draw_tower_dataset
from senna.synthetic.workers import report_step

# B images, P patches, D hidden size

OPPONENT_COLOURS = ((0.3, 0.59, 0.11), (0.7, -0.7, 0.0), (0.35, 0.35, -0.7))  # brightness, red - green, yellow - blue


def make_clip(folder: str | os.PathLike[str], seed: int, recipe: TowerRecipe) -> CLIPVisionModel:
    """Draw the training images, train a tower, write it and its image processor to `folder` and return the tower."""
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": recipe.image_size},
        crop_size={"height": recipe.image_size, "width": recipe.image_size},
    )
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (processor.image_mean, processor.image_std))
    dataset = draw_tower_dataset(
        seed, recipe.scenarios, recipe.images_per_scenario, recipe.image_size, recipe.patch_size
    )
    pixels = torch.from_numpy(dataset.pixels).permute(0, 3, 1, 2)
    classes, scene_labels = torch.from_numpy(dataset.patch_classes), torch.from_numpy(dataset.scene_labels)
    weights = torch.from_numpy(dataset.patch_weights).float()
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tower = CLIPVisionModel(_config(recipe))
        heads = _Heads(recipe.hidden_size)
        _initialize_embeddings(tower, (pixels[:512].float() / 255 - mean) / std, recipe)
    parameters = [*tower.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.steps, pct_start=0.1
    )
    for step in range(1, recipe.steps + 1):
        batch = torch.randint(len(pixels), (recipe.batch_size,), generator=generator)
        features = _features(tower, (pixels[batch].float() / 255 - mean) / std)  # (B, P, D)
        loss = heads(features, classes[batch], weights[batch], scene_labels[batch])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        report_step("training the tiny CLIP", step, recipe.steps, loss.item())
    tower.save_pretrained(folder)
    processor.save_pretrained(folder)
    return tower


def _config(recipe: TowerRecipe) -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=recipe.hidden_size,
        intermediate_size=4 * recipe.hidden_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.hidden_size // 32,
        image_size=recipe.image_size,
        patch_size=recipe.patch_size,
        projection_dim=recipe.hidden_size,
    )


@torch.no_grad()
def _initialize_embeddings(tower: CLIPVisionModel, pixels: torch.Tensor, recipe: TowerRecipe) -> None:
    """Set the patch embedding to whitened principal components and the position embedding to sines and cosines.

    A third of the components are for brightness and a third for each of two colour differences. Components of RGB patches
    would describe brightness alone, but the colour of a small lamp matters.

    Args:
        pixels: normalized images (N, 3, H, W).
    """
    patch, hidden = recipe.patch_size, recipe.hidden_size
    count = hidden // len(OPPONENT_COLOURS)
    for index, weights in enumerate(torch.tensor(OPPONENT_COLOURS)):
        plane = torch.einsum("c,bchw->bhw", weights, pixels)[:, None]
        patches = F.unfold(plane, patch, stride=patch).transpose(1, 2).reshape(-1, patch * patch)
        sample = patches[torch.randperm(len(patches))[:8192]]
        _, spread, components = torch.linalg.svd(sample - sample.mean(dim=0), full_matrices=False)
        spread = spread / len(sample) ** 0.5
        filters = components[:count] / (spread[:count, None] + 0.02 * spread[0]) * 0.7
        filters = filters.view(-1, 1, patch, patch) * weights.view(1, 3, 1, 1)
        tower.embeddings.patch_embedding.weight[index * count : index * count + len(filters)] = filters
    side, quarter = recipe.image_size // patch, hidden // 4
    frequencies = 3.0 / 100 ** (torch.arange(quarter) / quarter)
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    across, down = columns.reshape(-1, 1) * frequencies, rows.reshape(-1, 1) * frequencies
    waves = torch.cat([across.sin(), across.cos(), down.sin(), down.cos()], dim=1)
    rotation, _ = torch.linalg.qr(torch.randn(hidden, hidden))
    tower.embeddings.position_embedding.weight[1:] = 0.7 * waves @ rotation


def _features(tower: CLIPVisionModel, pixels: torch.Tensor) -> torch.Tensor:
    """Return `hidden_states[-2]` without the class token, (B, P, D). The last layer is not run."""
    hidden = tower.pre_layrnorm(tower.embeddings(pixels))
    for layer in tower.encoder.layers[:-1]:
        hidden = layer(hidden, attention_mask=None)
    return hidden[:, 1:]


class _Heads(nn.Module):
    """Predictions from patch features, and their loss. They are not part of the tower.

    A scene label is read by attention with a query of its own, so that it suffices if the patches that show a light say so.
    If every patch had to predict it, small objects were not learned in this time.
    """

    def __init__(self, hidden: int):
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.patch = nn.ModuleList(nn.Linear(hidden, count) for count in NUM_CLASSES.values())
        self.keys = nn.Linear(hidden, hidden)
        self.queries = nn.Parameter(torch.randn(len(SCENE_LABELS), hidden))
        self.scene = nn.ModuleList(nn.Linear(hidden, count) for count in SCENE_LABELS.values())

    def forward(
        self, features: torch.Tensor, classes: torch.Tensor, weights: torch.Tensor, scene_labels: torch.Tensor
    ) -> torch.Tensor:
        """Return the sum of the cross-entropies of all labels.

        Args:
            features: (B, P, D).
            classes, weights: targets and loss weights of the patches (B, 5, P).
            scene_labels: targets of the images (B, 9); images with -1 are left out.
        """
        normed = self.norm(features)
        return self._patch_loss(normed, classes, weights) + self._scene_loss(normed, scene_labels)

    def _patch_loss(self, normed: torch.Tensor, classes: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        total = normed.new_zeros(())
        for index, head in enumerate(self.patch):
            losses = F.cross_entropy(head(normed).transpose(1, 2), classes[:, index], reduction="none")  # (B, P)
            total = total + (losses * weights[:, index]).sum() / weights[:, index].sum()
        return total

    def _scene_loss(self, normed: torch.Tensor, scene_labels: torch.Tensor) -> torch.Tensor:
        has_labels = scene_labels[:, 0] >= 0
        if not has_labels.any():
            return normed.new_zeros(())
        normed, targets = normed[has_labels], scene_labels[has_labels]
        scores = self.keys(normed) @ self.queries.T / normed.shape[-1] ** 0.5  # (B, P, 9)
        read = scores.softmax(dim=1).transpose(1, 2) @ normed  # (B, 9, D)
        losses = [F.cross_entropy(head(read[:, index]), targets[:, index]) for index, head in enumerate(self.scene)]
        return torch.stack(losses).sum()
