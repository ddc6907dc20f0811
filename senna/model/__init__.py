"""The model: `SennaConfig`, `SennaLlavaLlamaForCausalLM`, `load_model`."""

from senna.model.config import IGNORE_INDEX, IMAGE_TOKEN_INDEX, SennaConfig
from senna.model.loading import load_model
from senna.model.senna_llava_llama import SennaLlavaLlamaForCausalLM

__all__ = ["IGNORE_INDEX", "IMAGE_TOKEN_INDEX", "SennaConfig", "SennaLlavaLlamaForCausalLM", "load_model"]
