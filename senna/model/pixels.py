"""Normalization of uint8 pixels, on the device of the model.

Pixels travel from the image files to the device as the 256 levels that resizing rounds them to, in a quarter of the bytes of
float32. A level has one normalized value per channel. These values are computed once, on the CPU, and looked up: the result
has the same bits on every device.

Shapes: N images of H x W pixels.
"""

import functools
from dataclasses import dataclass
from typing import Any

import torch

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class PixelScaling:
    """The arithmetic of an image processor after resizing: level v becomes (v * scale - mean) / std, channel by channel."""

    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    scale: float = 1 / 255

    @classmethod
    def from_processor(cls, image_processor: Any) -> "PixelScaling":
        """Read the scaling from a CLIP image processor, or from any object with its attributes."""
        scale = getattr(image_processor, "rescale_factor", None)
        mean, std = tuple(image_processor.image_mean), tuple(image_processor.image_std)
        return cls(mean, std, 1 / 255 if scale is None else float(scale))


@functools.lru_cache(maxsize=16)
def level_values(scaling: PixelScaling, device: torch.device) -> torch.Tensor:
    """Return the normalized value of each level in each channel, float32 (3 * 256,).

    The values are bit-identical to the processor's if its factor is 1 / 255: the processor multiplies in float64 and rounds to
    float32, which for these 256 levels equals a float32 division. For another factor they are within 1e-6.
    """
    with torch.inference_mode(False):  # the table is used again outside of inference mode
        levels = torch.arange(256, dtype=torch.float32)
        levels = levels / 255 if scaling.scale == 1 / 255 else levels * scaling.scale  # (256,)
        mean, std = torch.tensor(scaling.mean)[:, None], torch.tensor(scaling.std)[:, None]  # (3, 1) each
        return ((levels - mean) / std).flatten().to(device)


def normalize(pixels: torch.Tensor, scaling: PixelScaling) -> torch.Tensor:
    """Return uint8 pixels (N, 3, H, W) as normalized float32. Float pixels are normalized already, and returned unchanged."""
    if pixels.is_floating_point():
        return pixels
    first = torch.arange(0, 3 * 256, 256, dtype=torch.int32, device=pixels.device).view(3, 1, 1)
    index = pixels.int().add_(first)  # (N, 3, H, W) entries of the table
    return level_values(scaling, pixels.device).index_select(0, index.flatten()).view(pixels.shape)
