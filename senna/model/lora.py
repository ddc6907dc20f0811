"""LoRA on the LLM, and its folders: ours, LLaVA's, and plain PEFT's.

Ours holds PEFT's ``adapter_config.json`` and ``adapter_model.safetensors``, the projector and the driving vision adapter in
``non_lora_trainables.safetensors``, the whole configuration, the tokenizer and the image processor; of its base only the name.
LLaVA's has the same under ``.bin``, which are read with ``weights_only=True``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from senna.errors import UsageError
from senna.model.parts import is_adapter_weight
from senna.model.source import ADAPTER_CONFIG, _find, base_of

if TYPE_CHECKING:  # PEFT takes seconds to import, and a plain checkpoint opens without it
    from peft import LoraConfig

LORA_WEIGHTS, OTHER_WEIGHTS = "adapter_model", "non_lora_trainables"
PREFIX = "base_model.model."  # what PEFT puts before every name of the model it wraps
TARGETS = r"model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"
"""Every Linear of the LLM but lm_head; of the tower, whose Linears have like names, none."""


@dataclass(frozen=True)
class LoraFolder:
    """What a LoRA folder holds. ``config`` is PEFT's; weights have the names of the model, LoRA's with PEFT's endings."""

    path: str
    base: str
    base_quantization: str | None  # what the base was in while this was trained: "nf4", "int8", None
    config: LoraConfig
    lora: dict[str, torch.Tensor]
    others: dict[str, torch.Tensor]


def _read_weights(path: str, stem: str) -> dict[str, torch.Tensor]:
    """A weight file of a LoRA folder, ``{}`` where there is none. Pickles are read without running code."""
    if (safe := _find(path, f"{stem}.safetensors")) is not None:
        try:
            return load_file(safe)
        except SafetensorError as error:
            raise UsageError(f"LoRA folder {path}: {safe.name} is damaged ({error}); copy or train it again") from error
    if (pickled := _find(path, f"{stem}.bin")) is None:
        return {}
    try:
        return torch.load(pickled, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises several kinds for a file that is damaged or holds more than tensors
        raise UsageError(
            f"LoRA folder {path}: {pickled.name} holds more than weights, or is damaged, and was not opened "
            f"({str(error).splitlines()[0]})"
        ) from error


def _own_name(name: str) -> str:
    """A weight's name in the model: without what PEFT or LLaVA put before it."""
    name = name.removeprefix(PREFIX)
    return name.removeprefix("model.") if name.startswith("model.model.") else name


def read_lora(path: str, base: str | None = None) -> LoraFolder:
    """Everything in a LoRA folder. Raises UsageError for what is missing, damaged, or no LoRA."""
    from peft import LoraConfig

    try:
        config = LoraConfig.from_pretrained(str(_find(path, ADAPTER_CONFIG).parent))
    except (TypeError, ValueError) as error:
        raise UsageError(f"LoRA folder {path}: {ADAPTER_CONFIG}: {str(error).splitlines()[0]}") from error
    lora = {_own_name(name): tensor for name, tensor in _read_weights(path, LORA_WEIGHTS).items()}
    others = {_own_name(name): tensor for name, tensor in _read_weights(path, OTHER_WEIGHTS).items()}
    # Some of LLaVA's descendants keep the projector in the LoRA file.
    others |= {name: lora.pop(name) for name in list(lora) if "lora_" not in name}
    if not lora:
        raise UsageError(f"LoRA folder {path}: no LoRA weights ({LORA_WEIGHTS}.safetensors or .bin) in it")
    # The layers that have weights: names such as q_proj alone would mean the tower's layers too.
    config.target_modules = {name.split(".lora_")[0] for name in lora}
    whole = _find(path, "config.json")
    quantization = json.loads(whole.read_text(encoding="utf-8")).get("base_quantization") if whole else None
    return LoraFolder(path, base_of(path, base), quantization, config, lora, others)


def add_lora(model: nn.Module, rank: int, alpha: int, dropout: float) -> None:
    """Put new, trainable LoRA on every Linear of the LLM but lm_head, in place; the model computes the same as before."""
    from peft import LoraConfig

    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, bias="none", task_type="CAUSAL_LM", target_modules=TARGETS
    )
    _inject(model, config)


def _inject(model: nn.Module, config: LoraConfig) -> None:
    from peft import inject_adapter_in_model

    inject_adapter_in_model(config, model)
    model._hf_peft_config_loaded = True  # transformers refuses to train a quantised model without


def attach_lora(model: nn.Module, folder: LoraFolder) -> None:
    """Put a folder's LoRA and other weights on a model, in place. Raises UsageError for weights that do not fit."""
    from peft import set_peft_model_state_dict

    config = folder.config
    missing = [name for name in config.target_modules if name not in dict(model.named_modules())]
    if missing:
        raise UsageError(f"LoRA folder {folder.path}: its base {folder.base} has no layer {missing[0]}: another model")
    state = dict(model.named_parameters())
    for name, tensor in folder.others.items():
        if name not in state or state[name].shape != tensor.shape:
            shape = tuple(state[name].shape) if name in state else "none"
            raise UsageError(
                f"LoRA folder {folder.path}: {name} is {tuple(tensor.shape)}, in its base {folder.base} {shape}: another model"
            )
        state[name].data.copy_(tensor)
    _inject(model, config)
    try:
        result = set_peft_model_state_dict(model, folder.lora)
    except RuntimeError as error:
        raise UsageError(f"LoRA folder {folder.path}: its weights do not fit {folder.base}: {error}") from error
    if result.unexpected_keys:
        raise UsageError(f"LoRA folder {folder.path}: unknown weight {result.unexpected_keys[0]}")


@torch.no_grad()
def merge_lora(model: nn.Module) -> None:
    """Add every LoRA to the weights it stands beside and take it off, in place. The base must not be quantised."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)  # refuses weights that are not finite
            model.set_submodule(name, module.get_base_layer())
    del model.peft_config
    model._hf_peft_config_loaded = False


def save_lora(model: nn.Module, weights: dict[str, torch.Tensor], folder: Path, base: str) -> None:
    """Write the LoRA part of a folder from ``weights`` (by their names in the model, LoRA, projector and adapter)."""
    from peft import get_peft_model_state_dict

    lora = get_peft_model_state_dict(model, {name: tensor for name, tensor in weights.items() if "lora_" in name})
    others = {name: tensor for name, tensor in weights.items() if is_adapter_weight(name)}
    for stem, tensors in ((LORA_WEIGHTS, lora), (OTHER_WEIGHTS, others)):
        named = {PREFIX + name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(named, folder / f"{stem}.safetensors", metadata={"format": "pt"})
    config = model.peft_config["default"]
    config.base_model_name_or_path = base
    config.save_pretrained(str(folder))
