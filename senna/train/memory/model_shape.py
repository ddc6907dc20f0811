"""The dimensions of a model and the number of weights of its parts, which its memory follows from. Plain numbers, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from senna.model.config import SennaConfig

LINEARS = ("q", "k", "v", "o", "gate", "up", "down")
"""The linear layers of a Llama decoder layer."""


@dataclass(frozen=True)
class Tower:
    """The dimensions of a CLIP vision tower; ``image_size`` and ``patch_size`` are in pixels."""

    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_layers: int
    layers_run: int  # the layers up to the selected features; later ones are never run
    image_size: int
    patch_size: int

    @property
    def patches(self) -> int:
        """Number of patches without the class token: 576 for 336-pixel images and 14-pixel patches."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def weights(self) -> int:
        """Number of weights: embeddings, two outer norms, and per layer attention, MLP and two norms, with biases."""
        d, i = self.hidden_size, self.intermediate_size
        embedding = 3 * self.patch_size**2 * d + d + (self.patches + 1) * d
        layer = 4 * (d * d + d) + (d * i + i) + (i * d + d) + 4 * d
        return embedding + 4 * d + self.num_layers * layer


@dataclass(frozen=True)
class ModelShape:
    """The dimensions of a Llama and, for a Senna model, of its vision tower and adapter.

    ``view_tokens`` is the number of LLM tokens that one image becomes.
    """

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    tied: bool = False  # lm_head shares the embedding's weights
    tower: Tower | None = None
    view_tokens: int = 0

    @classmethod
    def from_config(cls, config: SennaConfig) -> ModelShape:
        """Return the dimensions that a configuration describes."""
        vision = config.tower_config
        tower = Tower(
            vision.hidden_size,
            vision.intermediate_size,
            vision.num_attention_heads,
            vision.num_hidden_layers,
            config.vision_layers,
            config.image_side,
            cast(int, vision.patch_size),
        )
        return cls(
            config.hidden_size,
            config.intermediate_size,
            config.num_hidden_layers,
            config.num_attention_heads,
            cast(int, config.num_key_value_heads),
            cast(int, config.head_dim),
            config.vocab_size,
            config.tie_word_embeddings,
            tower,
            config.mm_adapter_tokens,
        )

    @property
    def query_width(self) -> int:
        """Width of the queries of all heads."""
        return self.num_heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Width of the keys, which is also the width of the values."""
        return self.num_kv_heads * self.head_dim

    @property
    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """(in_features, out_features) of each linear layer of a decoder layer."""
        d, q, kv, i = self.hidden_size, self.query_width, self.kv_width, self.intermediate_size
        return {"q": (d, q), "k": (d, kv), "v": (d, kv), "o": (q, d), "gate": (d, i), "up": (d, i), "down": (i, d)}

    @property
    def linear_weights(self) -> int:
        """Number of weights in the linear layers of all decoder layers. These are quantized, and LoRA adapts them."""
        return self.num_layers * sum(rows * columns for rows, columns in self.linear_shapes.values())

    @property
    def other_weights(self) -> int:
        """Number of weights in the LLM's embedding, lm_head and norms."""
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tied else 2)
        return embeddings + (2 * self.num_layers + 1) * self.hidden_size

    @property
    def llm_weights(self) -> int:
        """Number of weights of the LLM."""
        return self.linear_weights + self.other_weights

    @property
    def adapter_weights(self) -> int:
        """Number of weights in the projector (two linear layers) and the driving vision adapter (three, over the tokens)."""
        if self.tower is None:
            return 0
        d, k = self.hidden_size, self.view_tokens
        projector = self.tower.hidden_size * d + d + d * d + d
        return projector + self.tower.patches * k + k + 2 * (k * k + k)

    def lora_weights(self, rank: int, linears: tuple[str, ...] = LINEARS) -> int:
        """Return the number of LoRA weights: A (rank x in) and B (out x rank) for each linear layer named in ``linears``.

        The formula is from arXiv 2106.09685, section 4.1.
        """
        return self.num_layers * rank * sum(sum(self.linear_shapes[name]) for name in linears)


def published_config() -> SennaConfig:
    """Return the configuration of the published model: Vicuna-7B and CLIP ViT-L/14-336."""
    from senna.model.config import SennaConfig

    return SennaConfig(
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
        vocab_size=32000,
        tie_word_embeddings=False,
    )
