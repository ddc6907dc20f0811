"""A small CLIP vision tower that has learnt to see the road: it stands for a pretrained CLIP.

Two things make seconds enough where contrastive learning takes days: the first layer starts as the whitened principal
components of patches (as training would make it), and every patch is told what it shows. What is trained is the output
of the last layer but one, which LLaVA's towers are read at; the last layer keeps its random start.
"""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from senna.synthetic.crew import report_step
from senna.synthetic.patches import CLASSES, label_patches
from senna.synthetic.pictures import IMAGES, scene_of, write_pictures_into
from senna.synthetic.sampling import front_camera

# B pictures, P patches, D hidden size


@dataclass(frozen=True)
class SeeingRecipe:
    """Geometry of the tower and the length of its training."""

    image_size: int = 160
    patch_size: int = 16
    hidden_size: int = 96
    layers: int = 4
    pictures: int = 1536
    steps: int = 400
    batch_size: int = 32
    learning_rate: float = 2e-3


def make_clip(folder: str | os.PathLike[str], seed: int, recipe: SeeingRecipe) -> CLIPVisionModel:
    """Train a tower on pictures of its own and write it, with its image processor, to `folder`."""
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": recipe.image_size},
        crop_size={"height": recipe.image_size, "width": recipe.image_size},
    )
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (processor.image_mean, processor.image_std))
    pixels, classes, weights = _lessons(seed, recipe)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tower = CLIPVisionModel(_config(recipe))
        heads = nn.ModuleList([nn.LayerNorm(recipe.hidden_size)])
        heads.extend(nn.Linear(recipe.hidden_size, answers) for answers in CLASSES.values())
        _start_from_patches(tower, (pixels[:512].float() / 255 - mean) / std, recipe)
    parameters = [*tower.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.steps, pct_start=0.1
    )
    for step in range(1, recipe.steps + 1):
        batch = torch.randint(len(pixels), (recipe.batch_size,), generator=generator)
        features = _features(tower, (pixels[batch].float() / 255 - mean) / std)  # (B, P, D)
        loss = _seeing_loss(features, heads, classes[batch], weights[batch])
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


def _lessons(seed: int, recipe: SeeingRecipe) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pixels uint8 (N, 3, H, W), classes (N, 5, P) and weights (N, 5, P) of freshly drawn pictures."""
    size = (recipe.image_size, recipe.image_size)

    def load(path: Path) -> np.ndarray:
        with Image.open(path) as picture:
            return np.asarray(picture.resize(size, Image.Resampling.BICUBIC))

    with tempfile.TemporaryDirectory(prefix="senna-tiny-clip-") as scratch:
        write_pictures_into(Path(scratch), recipe.pictures, seed)
        with ThreadPoolExecutor() as pool:
            pixels = np.stack(list(pool.map(load, sorted((Path(scratch) / IMAGES).iterdir()))))
    camera = front_camera(recipe.image_size)
    labels = [label_patches(scene_of(seed, i)[0], camera, recipe.patch_size) for i in range(recipe.pictures)]
    classes = torch.from_numpy(np.stack([label.classes for label in labels]))
    weights = torch.from_numpy(np.stack([label.weights for label in labels])).float()
    return torch.from_numpy(pixels).permute(0, 3, 1, 2), classes, weights


@torch.no_grad()
def _start_from_patches(tower: CLIPVisionModel, pictures: torch.Tensor, recipe: SeeingRecipe) -> None:
    """Set the patch embedding to whitened principal components and the positions to sines and cosines."""
    patch, hidden = recipe.patch_size, recipe.hidden_size
    patches = F.unfold(pictures, patch, stride=patch).transpose(1, 2).reshape(-1, 3 * patch * patch)
    sample = patches[torch.randperm(len(patches))[:8192]]
    _, spread, components = torch.linalg.svd(sample - sample.mean(dim=0), full_matrices=False)
    spread = spread / len(sample) ** 0.5
    kept = min(hidden, len(components))
    filters = components[:kept] / (spread[:kept, None] + 0.02 * spread[0]) * 0.7
    tower.embeddings.patch_embedding.weight[:kept] = filters.view(kept, 3, patch, patch)
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


def _seeing_loss(
    features: torch.Tensor, heads: nn.ModuleList, classes: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """The sum of the five labels' cross entropies, each averaged over patches by weight."""
    normed = heads[0](features)
    total = features.new_zeros(())
    for index, head in enumerate(heads[1:]):
        losses = F.cross_entropy(head(normed).transpose(1, 2), classes[:, index], reduction="none")  # (B, P)
        total = total + (losses * weights[:, index]).sum() / weights[:, index].sum()
    return total
