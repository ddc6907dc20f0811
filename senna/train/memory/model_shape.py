"""Sizes of a model that its memory follows from, and how many weights its parts have. Plain numbers, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from senna.model.config import SennaConfig

LINEARS = ("q", "k", "v", "o", "gate", "up", "down")
"""The Linears of a Llama layer."""


@dataclass(frozen=True)
class Tower:
    """A CLIP vision tower."""

    width: int
    inner: int  # of its MLPs
    heads: int
    layers: int
    layers_run: int  # up to the selected features
    side: int  # pixels
    patch: int  # pixels

    @property
    def patches(self) -> int:
        """Without the class token: 576 at 336/14."""
        return (self.side // self.patch) ** 2

    @property
    def weights(self) -> int:
        """Patch embedding, class token, positions, two outer norms; attention, MLP and two norms a layer, with biases."""
        c, i = self.width, self.inner
        embedding = 3 * self.patch**2 * c + c + (self.patches + 1) * c
        layer = 4 * (c * c + c) + (c * i + i) + (i * c + c) + 4 * c
        return embedding + 4 * c + self.layers * layer


@dataclass(frozen=True)
class ModelShape:
    """A Llama, and of Senna its tower and the tokens that a view becomes."""

    width: int
    inner: int  # of its MLPs
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    vocabulary: int
    tied: bool = False  # the head is the embedding
    tower: Tower | None = None
    view_tokens: int = 0

    @classmethod
    def of(cls, config: SennaConfig) -> ModelShape:
        """The sizes that a configuration says."""
        vision = config.vision_config
        tower = Tower(
            vision.hidden_size,
            vision.intermediate_size,
            vision.num_attention_heads,
            vision.num_hidden_layers,
            config.vision_layers,
            vision.image_size,
            vision.patch_size,
        )
        return cls(
            config.hidden_size,
            config.intermediate_size,
            config.num_hidden_layers,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
            config.vocab_size,
            config.tie_word_embeddings,
            tower,
            config.mm_adapter_tokens,
        )

    @property
    def query_width(self) -> int:
        return self.heads * self.head_width

    @property
    def kv_width(self) -> int:
        """Of the keys, and of the values."""
        return self.kv_heads * self.head_width

    @property
    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """(in, out) of each Linear of a layer."""
        d, q, kv, i = self.width, self.query_width, self.kv_width, self.inner
        return {"q": (d, q), "k": (d, kv), "v": (d, kv), "o": (q, d), "gate": (d, i), "up": (d, i), "down": (i, d)}

    @property
    def linear_weights(self) -> int:
        """Of all layers: what is quantised, and what LoRA stands beside."""
        return self.layers * sum(a * b for a, b in self.linear_shapes.values())

    @property
    def other_weights(self) -> int:
        """Of the LLM: embedding, head and norms."""
        embeddings = self.vocabulary * self.width * (1 if self.tied else 2)
        return embeddings + (2 * self.layers + 1) * self.width

    @property
    def llm_weights(self) -> int:
        return self.linear_weights + self.other_weights

    @property
    def adapter_weights(self) -> int:
        """Projector (two Linears) and driving vision adapter (three, over the tokens)."""
        if self.tower is None:
            return 0
        d, k = self.width, self.view_tokens
        projector = self.tower.width * d + d + d * d + d
        return projector + self.tower.patches * k + k + 2 * (k * k + k)

    def lora_weights(self, rank: int, on: tuple[str, ...] = LINEARS) -> int:
        """A (rank x in) and B (out x rank) beside each of the Linears ``on`` (arXiv 2106.09685, section 4.1)."""
        return self.layers * rank * sum(sum(self.linear_shapes[name]) for name in on)


def published_config() -> SennaConfig:
    """Of the published model, Vicuna-7B and CLIP ViT-L/14-336: what is judged where no model is named."""
    from senna.model.config import SennaConfig

    heads = {"num_attention_heads": 32, "num_key_value_heads": 32}
    return SennaConfig(
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        **heads,
        vocab_size=32000,
        tie_word_embeddings=False,
    )
