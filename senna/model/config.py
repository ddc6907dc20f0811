"""The model's configuration: a Llama configuration plus the vision keys of the published checkpoints."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, CLIPVisionConfig, LlamaConfig

from senna.model.pixels import PixelScaling

IMAGE_TOKEN_INDEX = -200  # one image in input_ids
IGNORE_INDEX = -100  # a position without a target, in labels

CLIP_VIT_L_14_336: dict[str, int] = dict(
    hidden_size=1024,
    intermediate_size=4096,
    num_hidden_layers=24,
    num_attention_heads=16,
    image_size=336,
    patch_size=14,
    projection_dim=768,
)
"""Geometry of openai/clip-vit-large-patch14-336, the vision tower of every published checkpoint."""


@strict
class SennaConfig(LlamaConfig):
    """Configuration of a Llama and its vision part, under the keys of LLaVA and Senna checkpoints.

    Published checkpoints have no ``vision_config``; the vision tower then has the geometry of CLIP ViT-L/14-336. Checkpoints
    of this project also store ``mm_adapter_tokens``, so that small models run through the same code.

    Raises ValueError for values that the model's code does not support.
    """

    model_type = "llava_llama"
    # transformers declares this name as a property and reads a plain dictionary
    sub_configs = {"vision_config": CLIPVisionConfig}  # type: ignore[assignment]  # noqa: RUF012

    vision_config: dict | CLIPVisionConfig | None = None  # see `tower_config`, which has the right type
    mm_vision_tower: str | None = "openai/clip-vit-large-patch14-336"
    mm_hidden_size: int | None = None  # width of the vision tower; default: the width in vision_config
    mm_projector_type: str | None = "mlp2x_gelu"
    mm_vision_select_layer: int = -2  # index into CLIP's hidden_states
    mm_vision_select_feature: str = "patch"  # "patch" drops the class token, "cls_patch" keeps it
    mm_adapter_tokens: int = 128  # LLM tokens per view
    image_mean: list[float] | None = None  # of the tower's image processor, see `pixel_scaling`; default: CLIP's
    image_std: list[float] | None = None
    rescale_factor: float | None = None
    image_aspect_ratio: str | None = "pad"
    tokenizer_padding_side: str = "right"
    tokenizer_model_max_length: int | None = 2048
    base_quantization: str | None = None  # LoRA folders: the base's quantization during training ("nf4", "int8")

    def __post_init__(self, **kwargs: Any) -> None:
        vision = dict(CLIP_VIT_L_14_336) if self.vision_config is None else self.vision_config
        self.vision_config = CLIPVisionConfig(**vision) if isinstance(vision, dict) else vision  # type: ignore[arg-type]
        if self.mm_hidden_size is None:
            self.mm_hidden_size = self.tower_config.hidden_size
        super().__post_init__(**kwargs)

    @property
    def tower_config(self) -> CLIPVisionConfig:
        """The vision tower's configuration: ``vision_config``, which is an object after construction."""
        assert isinstance(self.vision_config, CLIPVisionConfig)
        return self.vision_config

    @property
    def pixel_scaling(self) -> PixelScaling:
        """The normalization of uint8 pixels."""
        mean, std, scale = self.image_mean, self.image_std, self.rescale_factor
        default = PixelScaling()
        return PixelScaling(tuple(mean or default.mean), tuple(std or default.std), scale or default.scale)

    def set_pixel_scaling(self, scaling: PixelScaling) -> None:
        """Set the normalization of uint8 pixels. CLIP's is the default, which a stored configuration does not name."""
        default = PixelScaling()
        self.image_mean = None if scaling.mean == default.mean else list(scaling.mean)
        self.image_std = None if scaling.std == default.std else list(scaling.std)
        self.rescale_factor = None if scaling.scale == default.scale else scaling.scale

    def validate_architecture(self) -> None:
        """Raise ValueError for a model that this code would compute wrongly."""
        super().validate_architecture()
        if self.mm_projector_type not in (None, "mlp2x_gelu"):
            raise ValueError(f"mm_projector_type {self.mm_projector_type!r} is not known; Senna's is 'mlp2x_gelu'")
        if self.mm_vision_select_feature not in ("patch", "cls_patch"):
            raise ValueError(f"mm_vision_select_feature {self.mm_vision_select_feature!r}: 'patch' or 'cls_patch'")
        layers = self.tower_config.num_hidden_layers
        if not -layers - 1 <= self.mm_vision_select_layer <= layers:
            raise ValueError(f"mm_vision_select_layer {self.mm_vision_select_layer}: the tower has {layers} layers")

    def check_tower(self) -> None:
        """Raise ValueError if the vision tower's width differs from the width that the projector was made for.

        This is not part of the validation: a published configuration names its tower only, and is read before the tower is
        found.
        """
        if self.mm_hidden_size != self.tower_config.hidden_size:
            raise ValueError(
                f"mm_hidden_size {self.mm_hidden_size} differs from the vision tower's width "
                f"{self.tower_config.hidden_size}: {self.mm_vision_tower!r} is not this checkpoint's tower"
            )

    @property
    def vision_layers(self) -> int:
        """Number of tower layers to run. CLIP's hidden_states[0] is the embedding, hidden_states[i] the output of layer i."""
        select = self.mm_vision_select_layer
        return select if select >= 0 else self.tower_config.num_hidden_layers + 1 + select

    @property
    def patch_tokens(self) -> int:
        """Number of tokens per view that leave the vision tower (576 for 336-pixel images with 14-pixel patches)."""
        patches = (self.image_side // int(self.tower_config.patch_size)) ** 2  # type: ignore[arg-type]
        return patches + (self.mm_vision_select_feature == "cls_patch")

    @property
    def image_side(self) -> int:
        """Height and width of the images that the vision tower takes, in pixels."""
        return int(self.tower_config.image_size)  # type: ignore[arg-type]


AutoConfig.register("llava_llama", SennaConfig)
