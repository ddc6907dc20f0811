"""LoRA on the LLM, and LoRA folders: this project's, LLaVA's and plain PEFT's.

A folder of this project holds PEFT's ``adapter_config.json`` and ``adapter_model.safetensors``, the projector and the driving
vision adapter in ``non_lora_trainables.safetensors``, the complete configuration, the tokenizer and the image processor. Of
its base it holds only the name. LLaVA's folders hold the same in ``.bin`` files, which are read with ``weights_only=True``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from senna.errors import UsageError, first_line
from senna.model.parts import LORA_TARGETS, PEFT_PREFIX, is_adapter_weight, is_lora_weight, lora_module, own_name
from senna.model.source import ADAPTER_CONFIG, find_file

if TYPE_CHECKING:  # PEFT takes seconds to import, and a plain checkpoint opens without it
    from peft import LoraConfig

LORA_WEIGHTS, NON_LORA_WEIGHTS = "adapter_model", "non_lora_trainables"  # file stems


@dataclass(frozen=True)
class LoraFolder:
    """The contents of a LoRA folder.

    Attributes:
        path: the folder or hub name.
        base: the folder or hub name of its base.
        base_quantization: the base's quantization during training: "nf4", "int8" or None.
        config: PEFT's configuration; ``target_modules`` lists the modules that have weights.
        lora: LoRA matrices, by the names that PEFT saves, without its prefix.
        adapter_weights: weights of the projector and the driving vision adapter, by their names in the model.
    """

    path: str
    base: str
    base_quantization: str | None
    config: LoraConfig
    lora: dict[str, torch.Tensor]
    adapter_weights: dict[str, torch.Tensor]


def _read_weights(path: str, stem: str) -> dict[str, torch.Tensor]:
    """Read a weight file of a LoRA folder; return ``{}`` if there is none. Pickles are read without running code."""
    if (safe := find_file(path, f"{stem}.safetensors")) is not None:
        try:
            return load_file(safe)
        except SafetensorError as error:
            raise UsageError(
                f"LoRA folder {path}: {safe.name} is damaged ({error})", remedy="copy or train it again"
            ) from error
    if (pickled := find_file(path, f"{stem}.bin")) is None:
        return {}
    try:
        return torch.load(pickled, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises several kinds for a file that is damaged or holds more than tensors
        raise UsageError(
            f"LoRA folder {path}: {pickled.name} holds more than weights, or is damaged, and was not opened "
            f"({first_line(error)})",
            remedy="copy it again from a source that you trust",
        ) from error


def read_lora(path: str, base: str) -> LoraFolder:
    """Read a LoRA folder whose base is ``base``. Raises UsageError for content that is missing, damaged, or not LoRA."""
    from peft import LoraConfig

    adapter_config = find_file(path, ADAPTER_CONFIG)
    if adapter_config is None:
        raise UsageError(f"{path} is not a LoRA folder: it has no {ADAPTER_CONFIG}", remedy="give a LoRA folder")
    try:
        config = cast("LoraConfig", LoraConfig.from_pretrained(str(adapter_config.parent), trust_remote_code=False))
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"LoRA folder {path}: {ADAPTER_CONFIG}: {first_line(error)}", remedy="copy or train it again"
        ) from error
    lora = {own_name(name): tensor for name, tensor in _read_weights(path, LORA_WEIGHTS).items()}
    adapter_weights = {own_name(name): tensor for name, tensor in _read_weights(path, NON_LORA_WEIGHTS).items()}
    # Some descendants of LLaVA keep the projector in the LoRA file.
    adapter_weights |= {name: lora.pop(name) for name in list(lora) if not is_lora_weight(name)}
    if not lora:
        raise UsageError(
            f"LoRA folder {path}: no LoRA weights in it", remedy=f"copy its {LORA_WEIGHTS}.safetensors (or .bin) too"
        )
    # Names such as q_proj alone would match layers of the vision tower too.
    config.target_modules = {lora_module(name) for name in lora}  # type: ignore[assignment]  # declared as a list
    model_config = find_file(path, "config.json")
    values = json.loads(model_config.read_text(encoding="utf-8")) if model_config else {}
    return LoraFolder(path, base, values.get("base_quantization"), config, lora, adapter_weights)


def add_lora(model: PreTrainedModel, rank: int, alpha: int, dropout: float) -> None:
    """Add new, trainable LoRA to every Linear of the LLM except lm_head, in place. The model's output does not change."""
    from peft import LoraConfig

    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, bias="none", task_type="CAUSAL_LM", target_modules=LORA_TARGETS
    )
    _inject(model, config)


def _inject(model: PreTrainedModel, config: LoraConfig) -> None:
    from peft import inject_adapter_in_model

    inject_adapter_in_model(config, model)
    model._hf_peft_config_loaded = True  # without it transformers refuses to train a quantized model


def leave_casts_to_autocast(model: nn.Module) -> None:
    """Make LoRA layers pass their inputs on as they are, in place. For training, where autocast casts what needs it.

    PEFT casts the input of each adapted layer to the fp32 of its trained weights, and autocast casts it back: the same values
    through copies of twice the size.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.cast_input_dtype_enabled = False  # type: ignore[assignment]  # a plain attribute of PEFT's layers


def attach_lora(model: PreTrainedModel, folder: LoraFolder) -> None:
    """Load the weights of a LoRA folder into a model, in place. Raises UsageError for weights that do not fit."""
    from peft import set_peft_model_state_dict

    another_model = "give the base that this LoRA was trained on"
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    missing = [name for name in folder.config.target_modules or () if name not in modules]
    if missing:
        raise UsageError(
            f"LoRA folder {folder.path}: its base {folder.base} has no layer {missing[0]}", remedy=another_model
        )
    for name, tensor in folder.adapter_weights.items():
        shape = tuple(parameters[name].shape) if name in parameters else None
        if shape != tuple(tensor.shape):
            raise UsageError(
                f"LoRA folder {folder.path}: {name} is {tuple(tensor.shape)}, in its base {folder.base} {shape}",
                remedy=another_model,
            )
        parameters[name].data.copy_(tensor)
    _inject(model, folder.config)
    try:
        result = set_peft_model_state_dict(model, folder.lora)
    except RuntimeError as error:
        raise UsageError(
            f"LoRA folder {folder.path}: its weights do not fit {folder.base}: {error}", remedy=another_model
        ) from error
    if result.unexpected_keys:
        raise UsageError(
            f"LoRA folder {folder.path}: unknown weight {result.unexpected_keys[0]}", remedy="copy or train it again"
        )


@torch.no_grad()
def merge_lora(model: PreTrainedModel) -> None:
    """Add every LoRA product to the weight that it adapts and remove the LoRA, in place. The base must not be quantized."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)  # refuses weights that are not finite
            model.set_submodule(name, module.get_base_layer())
    del model.peft_config
    model._hf_peft_config_loaded = False


def save_lora(model: nn.Module, weights: dict[str, torch.Tensor], folder: Path, base: str) -> None:
    """Write the LoRA files of a folder.

    Args:
        weights: LoRA, projector and driving vision adapter, by their names in the model.
        base: the folder or hub name to record as the base.
    """
    from peft import get_peft_model_state_dict

    lora = get_peft_model_state_dict(model, {name: tensor for name, tensor in weights.items() if is_lora_weight(name)})
    adapter_weights = {name: tensor for name, tensor in weights.items() if is_adapter_weight(name)}
    for stem, tensors in ((LORA_WEIGHTS, lora), (NON_LORA_WEIGHTS, adapter_weights)):
        named = {PEFT_PREFIX + name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(named, folder / f"{stem}.safetensors", metadata={"format": "pt"})
    config = cast(Any, model).peft_config["default"]
    config.base_model_name_or_path = base
    config.save_pretrained(str(folder))
