"""uint8 pixels that the model normalizes have the bits of the published ones, and cost a quarter of the bytes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil

from senna.data.images import load_image
from senna.model import SennaLlavaLlamaForCausalLM
from senna.model.config import IMAGE_TOKEN_INDEX, SennaConfig
from senna.model.loading import open_model
from senna.model.pixels import PixelScaling, normalize
from tests.helpers.paths import GOLDEN
from tests.helpers.published_pixels import clip_processor, load_levels, published

HALF = [0.5, 0.5, 0.5]
IDS = torch.tensor([[1, IMAGE_TOKEN_INDEX, 5, IMAGE_TOKEN_INDEX, 9]])  # (B, T) with two views


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.int32)


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("aspect_ratio", ["pad", "square"])
def test_normalized_levels_have_the_bits_of_stored_published_pixels(aspect_ratio):
    processor, arrays = CLIPImageProcessorPil.from_pretrained(GOLDEN / "clip_tiny"), np.load(GOLDEN / "images.npz")
    cuts = {"center": np.s_[:, 160:176, 160:176], "corner": np.s_[:, :8, :8], "br": np.s_[:, -8:, -8:]}
    seen = 0
    for record in json.loads((GOLDEN / "images.json").read_text())["images"]:
        levels = load_levels(GOLDEN / record["file"], processor, aspect_ratio)
        assert (levels.dtype, levels.is_contiguous()) == (torch.uint8, True)
        pixels = normalize(levels[None], PixelScaling.from_processor(processor))[0].numpy()
        for cut, index in cuts.items():
            key = f"{record['file'].split('/')[-1]}.{aspect_ratio}.{cut}"
            if key in arrays:
                seen += 1
                np.testing.assert_array_equal(pixels[index].view(np.int32), arrays[key].view(np.int32), err_msg=key)
    assert seen > 5


@pytest.mark.parametrize("aspect_ratio", ["pad", "square"])
@pytest.mark.parametrize("size", [(160, 90), (90, 160), (37, 112), (112, 112)], ids=str)
def test_normalized_levels_have_the_bits_of_the_processor(size, aspect_ratio):
    processor = clip_processor(56)
    for mean, std in (([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]), (HALF, [0.3] * 3)):
        processor.image_mean, processor.image_std = mean, std
        image = noise(*size)
        if aspect_ratio == "square" or mean is not HALF:  # the helper pads with CLIP's colour
            expected = published(image, processor, aspect_ratio)
            levels = load_levels(image, processor, aspect_ratio)
            assert torch.equal(bits(normalize(levels[None], PixelScaling.from_processor(processor))[0]), bits(expected))
            assert torch.equal(bits(load_image(image, processor, aspect_ratio)), bits(expected))


def test_every_level_of_every_channel_has_the_bits_of_the_processor():
    levels = torch.arange(256, dtype=torch.uint8).repeat(3).view(3, 16, 16)
    processor = clip_processor(16)
    image = Image.fromarray(levels.permute(1, 2, 0).numpy())
    expected = processor.preprocess(image, do_resize=False, do_center_crop=False, return_tensors="pt")["pixel_values"]
    assert torch.equal(bits(normalize(levels[None], PixelScaling())), bits(expected))


def test_float_pixels_are_not_changed():
    pixels = torch.randn(2, 3, 4, 4)
    assert normalize(pixels, PixelScaling()) is pixels


def levels_and_pixels(side: int, scaling: PixelScaling) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two views as levels, uint8 (V, 3, H, W), and normalized."""
    levels = torch.randint(256, (2, 3, side, side), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return levels, normalize(levels, scaling)


def test_the_model_computes_the_same_from_levels_and_from_normalized_pixels(model):
    levels, pixels = levels_and_pixels(model.config.image_side, PixelScaling())
    with torch.no_grad():
        expected = model(IDS, images=pixels[None]).logits
        assert torch.equal(model(IDS, images=levels[None]).logits, expected)
        assert torch.equal(model(IDS, images=[levels]).logits, expected)
        half = model.to(torch.bfloat16)
        assert torch.equal(half(IDS, images=levels[None]).logits, half(IDS, images=pixels[None].bfloat16()).logits)


def test_the_model_normalizes_as_the_image_processor_of_its_folder(tmp_path, model):
    processor = clip_processor(model.config.image_side)
    processor.image_mean, processor.image_std, processor.rescale_factor = HALF, [0.25] * 3, 1 / 128
    model.save_pretrained(tmp_path / "first")
    processor.save_pretrained(tmp_path / "first")
    opened, _ = open_model(tmp_path / "first")
    levels, pixels = levels_and_pixels(opened.config.image_side, PixelScaling.from_processor(processor))
    assert torch.equal(pixels[0, 0], (levels[0, 0].float() / 128 - 0.5) / 0.25)
    with torch.no_grad():
        expected = opened(IDS, images=pixels[None]).logits
        assert torch.equal(opened(IDS, images=levels[None]).logits, expected)
        # The normalization is part of the configuration, so the model alone has it too.
        opened.save_pretrained(tmp_path / "second")
        alone = SennaLlavaLlamaForCausalLM.from_pretrained(tmp_path / "second").eval()
        assert torch.equal(alone(IDS, images=levels[None]).logits, expected)


def test_a_stored_configuration_names_no_other_normalization_than_clip(tmp_path):
    config = SennaConfig()
    config.set_pixel_scaling(PixelScaling.from_processor(clip_processor()))
    config.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert all(stored.get(key) is None for key in ("image_mean", "image_std", "rescale_factor"))
    assert SennaConfig.from_pretrained(tmp_path).pixel_scaling == PixelScaling.from_processor(clip_processor())


def test_the_table_can_be_used_after_inference_mode():
    scaling = PixelScaling(mean=(0.1, 0.2, 0.3))  # of no other test, so that the table is made here
    levels = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    with torch.inference_mode():
        normalize(levels, scaling)
    weight = torch.ones(1, 3, 2, 2, requires_grad=True)
    (normalize(levels, scaling) * weight).sum().backward()
    assert torch.equal(weight.grad, normalize(levels, scaling))
