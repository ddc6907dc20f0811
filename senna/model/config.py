"""The model's configuration: a Llama configuration plus the vision keys of the published checkpoints."""

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, CLIPVisionConfig, LlamaConfig

IMAGE_TOKEN_INDEX = -200  # stands for one image in input_ids
IGNORE_INDEX = -100  # a position that is no target

CLIP_VIT_L_14_336 = dict(
    hidden_size=1024,
    intermediate_size=4096,
    num_hidden_layers=24,
    num_attention_heads=16,
    image_size=336,
    patch_size=14,
    projection_dim=768,
)
"""Geometry of openai/clip-vit-large-patch14-336, the tower of every published checkpoint."""


@strict
class SennaConfig(LlamaConfig):
    """A Llama configuration and the vision part, under the keys that LLaVA and Senna checkpoints use.

    Published checkpoints carry no ``vision_config``: without one the tower is CLIP ViT-L/14-336. Unlike theirs, ours also
    say how many tokens a view becomes (``mm_adapter_tokens``), so that a small model is the same code.
    """

    model_type = "llava_llama"
    sub_configs = {"vision_config": CLIPVisionConfig}  # noqa: RUF012 - the name and the form are transformers'

    vision_config: dict | CLIPVisionConfig | None = None
    mm_vision_tower: str | None = "openai/clip-vit-large-patch14-336"
    mm_hidden_size: int | None = None  # width of the tower; from vision_config when absent
    mm_projector_type: str | None = "mlp2x_gelu"
    mm_vision_select_layer: int = -2
    mm_vision_select_feature: str = "patch"  # "patch" leaves the class token out, "cls_patch" keeps it
    mm_adapter_tokens: int = 128  # tokens a view becomes
    image_aspect_ratio: str | None = "pad"
    tokenizer_padding_side: str = "right"
    tokenizer_model_max_length: int | None = 2048
    base_quantization: str | None = None  # of a LoRA folder: what its base was in while it was trained ("nf4", "int8")

    def __post_init__(self, **kwargs):
        vision = CLIP_VIT_L_14_336 if self.vision_config is None else self.vision_config
        self.vision_config = CLIPVisionConfig(**vision) if isinstance(vision, dict) else vision
        if self.mm_hidden_size is None:
            self.mm_hidden_size = self.vision_config.hidden_size
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Refuse what this code does not compute, rather than compute something else."""
        super().validate_architecture()
        if self.mm_projector_type not in (None, "mlp2x_gelu"):
            raise ValueError(f"mm_projector_type {self.mm_projector_type!r} is not known; Senna's is 'mlp2x_gelu'")
        if self.mm_vision_select_feature not in ("patch", "cls_patch"):
            raise ValueError(f"mm_vision_select_feature {self.mm_vision_select_feature!r}: 'patch' or 'cls_patch'")
        layers = self.vision_config.num_hidden_layers
        if not -layers - 1 <= self.mm_vision_select_layer <= layers:
            raise ValueError(f"mm_vision_select_layer {self.mm_vision_select_layer}: the tower has {layers} layers")

    def check_tower(self) -> None:
        """Raise ValueError where the tower's width is not what the projector was made for.

        Not part of the validation: a published configuration only names its tower, and is read before that is found.
        """
        if self.mm_hidden_size != self.vision_config.hidden_size:
            raise ValueError(
                f"mm_hidden_size {self.mm_hidden_size} differs from the vision tower's width "
                f"{self.vision_config.hidden_size}: {self.mm_vision_tower!r} is not this checkpoint's tower"
            )

    @property
    def vision_layers(self) -> int:
        """How many tower layers the selected feature needs: hidden_states[0] is the embedding, [i] follows layer i."""
        select = self.mm_vision_select_layer
        return select if select >= 0 else self.vision_config.num_hidden_layers + 1 + select

    @property
    def patch_tokens(self) -> int:
        """Tokens of a view as they leave the tower (576 at 336/14)."""
        patches = (self.vision_config.image_size // self.vision_config.patch_size) ** 2
        return patches + (self.mm_vision_select_feature == "cls_patch")


AutoConfig.register("llava_llama", SennaConfig)
