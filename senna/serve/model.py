"""Senna as a model of vLLM: our projector and adapter between vLLM's CLIP tower and vLLM's Llama.

Tensor parallelism, quantization of the LLM, prefix caching and CUDA graphs are those of vLLM's Llama.

Shapes: N images, H x W pixels, P patch tokens per image, C tower width, K tokens per view, D LLM width, L scheduled tokens.
"""

from collections.abc import Iterable

import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.model_executor.models.clip import CLIPVisionModel
from vllm.model_executor.models.interfaces import SupportsMultiModal, SupportsPP
from vllm.model_executor.models.utils import AutoWeightsLoader, WeightsMapper, init_vllm_registered_model, maybe_prefix
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.sequence import IntermediateTensors

from senna.model.adapter import DrivingVisionAdapter, Projector
from senna.model.config import SennaConfig
from senna.model.parts import CLIP_PREFIX, DRIVING_ADAPTER, PARTS, PROJECTOR
from senna.model.pixels import PixelScaling, normalize
from senna.model.source import ModelSource
from senna.serve.processor import SennaDummyInputs, SennaInfo, SennaProcessor
from senna.views import IMAGE_TOKEN


@MULTIMODAL_REGISTRY.register_processor(SennaProcessor, info=SennaInfo, dummy_inputs=SennaDummyInputs)
class SennaForVLLM(nn.Module, SupportsMultiModal, SupportsPP):
    """The architecture ``SennaLlavaLlamaForCausalLM`` for vLLM."""

    packed_modules_mapping = {  # noqa: RUF012
        "qkv_proj": ["q_proj", "k_proj", "v_proj"],
        "gate_up_proj": ["gate_proj", "up_proj"],
    }
    hf_to_vllm_mapper = WeightsMapper(
        orig_to_new_prefix={
            CLIP_PREFIX: "vision_tower.vision_model.",
            PARTS[PROJECTOR]: "mm_projector.",
            PARTS[DRIVING_ADAPTER]: "img_adapter.",
            "model.": "language_model.model.",
            "lm_head.": "language_model.lm_head.",
        }
    )

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str:
        """Return the text that stands for an image in a prompt."""
        return IMAGE_TOKEN

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        config: SennaConfig = vllm_config.model_config.hf_config
        self.config = config
        self.dtype = vllm_config.model_config.dtype
        self.scaling = PixelScaling.from_processor(
            ModelSource.resolve(vllm_config.model_config.model).load_image_processor()
        )
        self.keep_class_token = config.mm_vision_select_feature == "cls_patch"
        with self._mark_tower_model(vllm_config, "image"):
            self.vision_tower = CLIPVisionModel(
                config.tower_config,
                num_hidden_layers_override=config.vision_layers,
                require_post_norm=False,
                prefix=maybe_prefix(prefix, "vision_tower"),
            )
            self.mm_projector = Projector(config.tower_config.hidden_size, config.hidden_size)
            self.img_adapter = DrivingVisionAdapter(config.patch_tokens, config.mm_adapter_tokens)
        with self._mark_language_model(vllm_config):
            self.language_model = init_vllm_registered_model(
                vllm_config=vllm_config,
                hf_config=config,
                architectures=["LlamaForCausalLM"],
                prefix=maybe_prefix(prefix, "language_model"),
            )
        self.make_empty_intermediate_tensors = self.language_model.make_empty_intermediate_tensors

    def embed_multimodal(self, pixel_values: torch.Tensor | None = None, **kwargs: object) -> torch.Tensor | list:
        """Encode uint8 (N, 3, H, W) pixels to (N, K, D) embeddings; no images to an empty list."""
        if pixel_values is None:
            return []
        strategy = "full" if self.keep_class_token else "default"
        pixels = normalize(pixel_values, self.scaling).to(self.dtype)
        features = self.vision_tower(pixels, feature_select_strategy=strategy)  # (N, P, C)
        return self.img_adapter(self.mm_projector(features))

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: object,
    ) -> torch.Tensor | IntermediateTensors:
        """Return the (L, D) hidden states of the LLM, or what the next pipeline stage continues with."""
        if intermediate_tensors is not None:
            inputs_embeds = None
        return self.language_model.model(input_ids, positions, intermediate_tensors, inputs_embeds=inputs_embeds)

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor | None:
        """Return the (L, vocabulary) logits of (L, D) hidden states."""
        return self.language_model.compute_logits(hidden_states)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Load a checkpoint under our names, and return the names of the loaded parameters."""
        return AutoWeightsLoader(self).load_weights(weights, mapper=self.hf_to_vllm_mapper)
