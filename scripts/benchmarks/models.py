"""Models with random weights, frozen and cast as in `senna train`, and random images."""

import argparse
import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import nn
from transformers import CLIPVisionConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from senna.model import SennaConfig, SennaLlavaLlamaForCausalLM
from senna.model.packed_attention import PACKED, use_packed_attention
from senna.synthetic.tiny.train_llm import LlmRecipe
from senna.synthetic.tiny.train_tower import TowerRecipe
from senna.train.build_model import freeze

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
MAX_LENGTH = 2048
BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # names in Linux's /proc/cpuinfo; the last is ARM's
LOG_KEYS = {"kinds", "counts"}  # not for `forward`


@dataclass(frozen=True)
class Geometry:
    """Sizes of a model."""

    hidden: int = 512
    layers: int = 8
    heads: int = 8
    intermediate: int = 1376
    vocabulary: int = 32000
    tower_hidden: int = 256
    tower_layers: int = 8
    tower_heads: int = 4
    image_size: int = 336
    patch_size: int = 14
    view_tokens: int = 128

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace) -> "Geometry":
        """Take the sizes from the hidden flags and derive the others from the LLM's width, as in the default."""
        hidden = arguments.hidden
        return cls(
            hidden=hidden,
            layers=arguments.layers,
            heads=max(hidden // 64, 1),
            intermediate=hidden * 43 // 16,
            vocabulary=arguments.vocabulary,
            tower_hidden=hidden // 2,
            tower_layers=arguments.layers,
            tower_heads=max(hidden // 128, 1),
            image_size=arguments.image_size,
            view_tokens=arguments.view_tokens,
        )

    @classmethod
    def tiny(cls) -> "Geometry":
        """Return the sizes of the tiny preset."""
        llm, tower = LlmRecipe(), TowerRecipe()
        return cls(
            hidden=llm.hidden_size,
            layers=llm.layers,
            heads=llm.heads,
            intermediate=llm.hidden_size * 11 // 4,
            vocabulary=llm.vocab_size,
            tower_hidden=tower.hidden_size,
            tower_layers=tower.layers,
            tower_heads=tower.hidden_size // 32,
            image_size=tower.image_size,
            patch_size=tower.patch_size,
            view_tokens=llm.prefix_positions,
        )

    def __str__(self) -> str:
        return (
            f"hidden {self.hidden} x {self.layers} layers, CLIP {self.tower_hidden} x {self.tower_layers} at "
            f"{self.image_size}/{self.patch_size}, {self.view_tokens} tokens a view, vocabulary {self.vocabulary}"
        )

    def config(self, attention: str = "sdpa") -> SennaConfig:
        vision = CLIPVisionConfig(
            hidden_size=self.tower_hidden,
            intermediate_size=4 * self.tower_hidden,
            num_hidden_layers=self.tower_layers,
            num_attention_heads=self.tower_heads,
            image_size=self.image_size,
            patch_size=self.patch_size,
            projection_dim=self.tower_hidden,
        )
        return SennaConfig(
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads,
            vocab_size=self.vocabulary,
            max_position_embeddings=MAX_LENGTH,
            tie_word_embeddings=False,
            vision_config=vision.to_dict(),
            mm_adapter_tokens=self.view_tokens,
            tokenizer_model_max_length=MAX_LENGTH,
            use_cache=False,
            attn_implementation=attention,
        )


def build(geometry: Geometry, precision: str, stage: int, checkpointing: bool = True) -> SennaLlavaLlamaForCausalLM:
    """Return a model in training mode with fixed random weights: frozen ones in the precision, trained ones in fp32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = SennaLlavaLlamaForCausalLM(geometry.config())
    flags = {
        "lora_enable": False,
        "tune_mm_mlp_adapter": stage == 1,
        "freeze_backbone": False,
        "freeze_mm_mlp_adapter": False,
        "freeze_img_adapter": False,
    }
    freeze(model, SimpleNamespace(**flags))
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(PRECISIONS[precision])
    if checkpointing:
        enable_checkpointing(model)
    return model.train()


def enable_checkpointing(model: SennaLlavaLlamaForCausalLM) -> None:
    """Switch on activation checkpointing under the name that this version of transformers gives it."""
    renamed = hasattr(model, "activation_checkpointing_enable")
    (model.activation_checkpointing_enable if renamed else model.gradient_checkpointing_enable)()


def random_model(
    geometry: Geometry, dtype: torch.dtype, device: str, held: str = "", attention: str = "sdpa"
) -> SennaLlavaLlamaForCausalLM:
    """Return a model whose random weights are made on the device: main memory and disk hold none of them.

    Args:
        held: "nf4" to quantize the LLM's linear layers, each decoder layer as soon as it exists, so that the device never holds
            all of them in ``dtype``; else "".
    """
    config = geometry.config(attention)
    config.num_hidden_layers = 1 if held else geometry.layers
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with _new_tensors(dtype, device):
            model = SennaLlavaLlamaForCausalLM(config)
        if not held:
            return model
        model.config.num_hidden_layers = geometry.layers
        model.model.layers = nn.ModuleList()
        for index in range(geometry.layers):
            with _new_tensors(dtype, device):
                layer = LlamaDecoderLayer(model.config, index)
            model.model.layers.append(_in_nf4(layer, dtype, device))
    model.is_loaded_in_4bit = True  # PEFT reads it
    return model


def _in_nf4(layer: nn.Module, dtype: torch.dtype, device: str) -> nn.Module:
    """Replace the Linears of a layer by nf4 ones with double quantization, as `senna train --bits 4` loads them."""
    import bitsandbytes

    options = {"compress_statistics": True, "quant_type": "nf4"}
    for name, linear in list(layer.named_modules()):
        if isinstance(linear, nn.Linear):
            with torch.device("meta"):
                quantized = bitsandbytes.nn.Linear4bit(
                    linear.in_features, linear.out_features, bias=False, compute_dtype=dtype, **options
                )
            weight = bitsandbytes.nn.Params4bit(linear.weight.data, requires_grad=False, module=quantized, **options)
            quantized.weight = weight.to(device)  # this quantizes
            quantized.support_avx512bf16_for_cpu = False  # see `senna.model.loading`
            layer.set_submodule(name, quantized)
    return layer


@contextlib.contextmanager
def _new_tensors(dtype: torch.dtype, device: str) -> Iterator[None]:
    """Create tensors on the device, floating-point ones in ``dtype``, as transformers does while it loads a checkpoint."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def model_inputs(batch: dict[str, Any], device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return the entries of a collator's batch that `forward` takes, on the device."""
    return {key: send_to_device(value, device) for key, value in batch.items() if key not in LOG_KEYS}


def set_attention(model: SennaLlavaLlamaForCausalLM, kind: str) -> None:
    """Set `sdpa` or `eager` in the tower and the LLM, or a kind of packed attention, or "auto", in the LLM and sdpa in the
    tower."""
    model.set_attn_implementation("eager" if kind == "eager" else "sdpa")
    if kind == "auto" or kind in PACKED:
        use_packed_attention(model, kind)


def autocast(precision: str, device: torch.device | str = "cpu") -> AbstractContextManager:
    """Return the autocast context that the Trainer uses under `--bf16 True`; none for fp32."""
    kind = torch.device(device).type
    return contextlib.nullcontext() if precision == "fp32" else torch.autocast(kind, PRECISIONS[precision])


def precisions_here() -> list[str]:
    """Return fp32, and bf16 if the processor supports it; emulated bf16 would give meaningless times."""
    try:
        words = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        words = set()
    if words & BF16_FLAGS:
        return ["fp32", "bf16"]
    print("This processor does not support bf16 (no avx512_bf16, no amx_bf16): fp32 only.")
    return ["fp32"]


def random_images(count: int, geometry: Geometry, generator: torch.Generator) -> torch.Tensor:
    """Return random images, float32 (count, 3, H, W)."""
    return torch.randn(count, 3, geometry.image_size, geometry.image_size, generator=generator)
