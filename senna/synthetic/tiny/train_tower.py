"""A small CLIP vision tower that has learnt to see the road: it stands for a pretrained CLIP.

Two things make seconds enough where contrastive learning takes days: the first layer starts as the whitened principal
components of patches (as training would make it), and every patch is told what it shows and, in the driving world, what
lies ahead (outlook.py). What is trained is the output of the last layer but one, which LLaVA's towers are read at; the last
layer keeps its random start.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from senna.synthetic.tiny.patch_labels import CLASSES
from senna.synthetic.tiny.scene_labels import OUTLOOK
from senna.synthetic.tiny.tower_dataset import draw_lessons
from senna.synthetic.workers import report_step

# B pictures, P patches, D hidden size

OPPONENTS = ((0.3, 0.59, 0.11), (0.7, -0.7, 0.0), (0.35, 0.35, -0.7))  # brightness, red less green, yellow less blue


@dataclass(frozen=True)
class SeeingRecipe:
    """Geometry of the tower and the length of its training. `pictures` are those that go with each of the `journeys`."""

    image_size: int = 224
    patch_size: int = 16
    hidden_size: int = 96
    layers: int = 4
    journeys: int = 80
    pictures: int = 36
    steps: int = 1000
    batch_size: int = 16
    learning_rate: float = 2e-3


def make_clip(folder: str | os.PathLike[str], seed: int, recipe: SeeingRecipe) -> CLIPVisionModel:
    """Train a tower on pictures of its own and write it, with its image processor, to `folder`."""
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": recipe.image_size},
        crop_size={"height": recipe.image_size, "width": recipe.image_size},
    )
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (processor.image_mean, processor.image_std))
    lessons = draw_lessons(seed, recipe.journeys, recipe.pictures, recipe.image_size, recipe.patch_size)
    pixels = torch.from_numpy(lessons.pixels).permute(0, 3, 1, 2)
    classes, outlook = torch.from_numpy(lessons.classes), torch.from_numpy(lessons.outlook)
    weights = torch.from_numpy(lessons.weights).float()
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tower = CLIPVisionModel(_config(recipe))
        heads = nn.ModuleList([nn.LayerNorm(recipe.hidden_size)])
        heads.extend(nn.Linear(recipe.hidden_size, answers) for answers in (*CLASSES.values(), *OUTLOOK.values()))
        _start_from_patches(tower, (pixels[:512].float() / 255 - mean) / std, recipe)
    parameters = [*tower.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.steps, pct_start=0.1
    )
    for step in range(1, recipe.steps + 1):
        batch = torch.randint(len(pixels), (recipe.batch_size,), generator=generator)
        features = _features(tower, (pixels[batch].float() / 255 - mean) / std)  # (B, P, D)
        normed = heads[0](features)
        loss = _patch_loss(normed, heads[1 : 1 + len(CLASSES)], classes[batch], weights[batch])
        loss = loss + _outlook_loss(normed, heads[1 + len(CLASSES) :], outlook[batch])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        report_step("the tiny CLIP learns to see", step, recipe.steps, loss.item())
    tower.save_pretrained(folder)
    processor.save_pretrained(folder)
    return tower


def _config(recipe: SeeingRecipe) -> CLIPVisionConfig:
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
def _start_from_patches(tower: CLIPVisionModel, pictures: torch.Tensor, recipe: SeeingRecipe) -> None:
    """Set the patch embedding to whitened principal components and the positions to sines and cosines.

    Components of brightness and of two colour differences, a third each: of all three colours together they would be of
    brightness alone, and a lamp is a small thing whose colour matters.
    """
    patch, hidden = recipe.patch_size, recipe.hidden_size
    count = hidden // len(OPPONENTS)
    for index, weights in enumerate(torch.tensor(OPPONENTS)):
        plane = torch.einsum("c,bchw->bhw", weights, pictures)[:, None]
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
    turn, _ = torch.linalg.qr(torch.randn(hidden, hidden))
    tower.embeddings.position_embedding.weight[1:] = 0.7 * waves @ turn


def _features(tower: CLIPVisionModel, pixels: torch.Tensor) -> torch.Tensor:
    """hidden_states[-2] without the class token, (B, P, D), the last layer not run."""
    hidden = tower.pre_layrnorm(tower.embeddings(pixels))
    for layer in tower.encoder.layers[:-1]:
        hidden = layer(hidden, attention_mask=None)
    return hidden[:, 1:]


def _patch_loss(
    normed: torch.Tensor, heads: Sequence[nn.Module], classes: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """The sum of the labels' cross entropies, each averaged over patches by weight."""
    total = normed.new_zeros(())
    for index, head in enumerate(heads):
        losses = F.cross_entropy(head(normed).transpose(1, 2), classes[:, index], reduction="none")  # (B, P)
        total = total + (losses * weights[:, index]).sum() / weights[:, index].sum()
    return total


def _outlook_loss(normed: torch.Tensor, heads: Sequence[nn.Module], outlook: torch.Tensor) -> torch.Tensor:
    """The sum of the cross entropies of what lies ahead, which every patch of a picture is asked; -1 is not asked."""
    asked = outlook[:, 0] >= 0
    if not asked.any():
        return normed.new_zeros(())
    losses = [
        F.cross_entropy(head(normed[asked]).flatten(0, 1), outlook[asked, index].repeat_interleave(normed.shape[1]))
        for index, head in enumerate(heads)
    ]
    return torch.stack(losses).sum()
