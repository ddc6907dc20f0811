"""Pixels of the published code, computed with today's Pillow and transformers."""

import numpy as np
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil

from senna.data.images import PixelRules, load_image, load_pixels

CLIP_MEAN_COLOUR = (122, 116, 104)


def clip_processor(size: int = 336) -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})


def load_levels(source, processor, aspect_ratio: str = "pad") -> torch.Tensor:
    """Return the pixels of an image as a data set yields them, uint8 (3, H, W)."""
    return load_image(source, processor, aspect_ratio, dtype=torch.uint8)


def published(image: Image.Image, processor, aspect_ratio: str, **options) -> torch.Tensor:
    """Return the values of the published code, with today's Pillow and transformers."""
    image = image.convert("RGB")
    if aspect_ratio == "pad":
        side = max(image.size)
        square = Image.new("RGB", (side, side), CLIP_MEAN_COLOUR)
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        image = square
    return processor.preprocess(image, return_tensors="pt", **options)["pixel_values"][0]


def published_pixels(image: Image.Image, processor, aspect_ratio: str) -> np.ndarray:
    planes = published(image, processor, aspect_ratio, do_rescale=False, do_normalize=False)
    return planes.permute(1, 2, 0).numpy()


def share_of_changed_pixels(path) -> float:
    """Return the share of pixels, 0 to 1, in which a fast image differs from the published one, by one level at most."""
    processor = clip_processor()
    expected = published_pixels(Image.open(path), processor, "pad").astype(int)
    difference = np.abs(load_pixels(path, PixelRules.from_processor(processor), decode="fast") - expected).max(axis=2)
    assert difference.max() <= 1
    return (difference > 0).mean()
