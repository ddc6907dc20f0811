"""The tokenizer of a served model: that of the model folder, with ``<image>`` as a special token behind the vocabulary.

vLLM knows it as ``--tokenizer-mode senna``. Prompts are not encoded by it but by `senna.data.tokenize`, as in training
(`senna.serve.renderer`); it decodes, and it gives the placeholder of an image its id.
"""

from pathlib import Path
from typing import Any

from vllm.tokenizers.hf import get_cached_tokenizer

from senna.data.serving import add_image_token
from senna.data.tokenize import encode_prompt
from senna.model.tokenizer import load_tokenizer
from senna.views import IMAGE_TOKEN

MODE = "senna"
"""The name of the tokenizer and of the renderer in vLLM's registries."""


def image_token_id(tokenizer: Any) -> int:
    """Return the id of ``<image>``."""
    return tokenizer.get_vocab()[IMAGE_TOKEN]


def encode_with_placeholders(text: str, tokenizer: Any) -> list[int]:
    """Return the ids of `encode_prompt`, in which each image is one ``<image>``."""
    placeholder = image_token_id(tokenizer)
    return [placeholder if token < 0 else token for token in encode_prompt(text, tokenizer).tolist()]


class SennaTokenizer:
    """The entry of vLLM's registry of tokenizers."""

    @classmethod
    def from_pretrained(cls, path: str | Path, *args: Any, truncation_side: str = "left", **kwargs: Any) -> Any:
        """Load the tokenizer of a model folder for vLLM."""
        tokenizer = add_image_token(load_tokenizer(path))
        tokenizer.truncation_side = truncation_side
        return get_cached_tokenizer(tokenizer)
