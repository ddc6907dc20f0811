"""Images of a request to the pixels of the vision tower, by the code that training uses.

Shapes: N images, H x W pixels, K tokens per view.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.parse import ImageProcessorItems, MultiModalDataParser
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptReplacement,
)

from senna.data.images import PixelRules, load_pixels
from senna.model.config import SennaConfig
from senna.model.source import ModelSource
from senna.serve.tokenizer import image_token_id
from senna.views import IMAGE_TOKEN, VIEWS

_FILLER = 0
"""The id at the positions of images in the engine. It is in the vocabulary: vLLM looks up log-probabilities of prompts by id,
and would stop at the id of ``<image>``. The embedding at these positions is that of the image."""


class ImageParser(MultiModalDataParser):
    """Resizes images, uint8 (H, W, 3) each. vLLM's own parser would rotate them by EXIF, and blend transparent ones.

    An array of that form passes unchanged: `senna.serve.images` has resized it.
    """

    def __init__(self, rules: PixelRules, aspect_ratio: str) -> None:
        super().__init__()
        self.rules, self.aspect_ratio = rules, aspect_ratio

    def _parse_image_data(self, data: Any) -> ImageProcessorItems | None:
        if data is None:
            return None
        images = data if isinstance(data, list) else [data]
        return ImageProcessorItems([self._resized(image) for image in images])

    def _resized(self, image: Any) -> np.ndarray:
        if isinstance(image, Image.Image):
            return load_pixels(image, self.rules, self.aspect_ratio)
        if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape[2:] == (3,):
            return image
        raise ValueError(f"an image must be a PIL image, got {type(image).__name__}")


class SennaInfo(BaseProcessingInfo):
    """Facts about a model's images that vLLM asks for."""

    def get_hf_config(self) -> SennaConfig:
        """Return the model's configuration."""
        return self.ctx.get_hf_config(SennaConfig)

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """Return the largest number of images of a prompt: one for each camera."""
        return {"image": len(VIEWS)}

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int]:
        """Return the number of tokens of an image."""
        return {"image": self.get_hf_config().mm_adapter_tokens}

    @cached_property
    def rules(self) -> PixelRules:
        """The settings of the model folder's image processor."""
        return PixelRules.from_processor(ModelSource.resolve(self.model_id).load_image_processor())

    def get_data_parser(self) -> MultiModalDataParser:
        """Return the parser of a request's images."""
        return ImageParser(self.rules, self.get_hf_config().image_aspect_ratio or "pad")


class SennaDummyInputs(BaseDummyInputsBuilder[SennaInfo]):
    """The largest input, with which vLLM measures memory."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        """Return the placeholders of the images."""
        return IMAGE_TOKEN * mm_counts.get("image", 0)

    def get_dummy_mm_data(self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Mapping[str, Any]) -> dict:
        """Return images of the tower's size."""
        side = self.info.get_hf_config().image_side
        count = mm_counts.get("image", 0)
        overrides = mm_options.get("image")
        return {"image": self._get_dummy_images(width=side, height=side, num_images=count, overrides=overrides)}


class SennaProcessor(BaseMultiModalProcessor[SennaInfo]):
    """Passes the levels of pixels on, and replaces each ``<image>`` of a prompt by the placeholders of its K tokens."""

    def _call_hf_processor(self, hf_data: Mapping[str, Any], hf_kwargs: Mapping[str, object]) -> BatchFeature:
        levels = np.stack(hf_data["images"]).transpose(0, 3, 1, 2)
        return BatchFeature({"pixel_values": torch.from_numpy(levels).contiguous()})  # uint8 (N, 3, H, W)

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        return {"pixel_values": MultiModalFieldConfig.batched("image")}

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, object], out_mm_kwargs: Any
    ) -> Sequence[PromptReplacement]:
        target = [image_token_id(self.info.get_tokenizer())]
        tokens = self.info.get_hf_config().mm_adapter_tokens
        return [PromptReplacement(modality="image", target=target, replacement=[_FILLER] * tokens)]
