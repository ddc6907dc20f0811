"""Opening checkpoints: ours, the published ones (Senna, LLaVA-1.5), or a bare Llama plus a CLIP tower."""

import logging
import pickle
import sys
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from transformers import BitsAndBytesConfig, CLIPVisionModel, PreTrainedTokenizerBase
from transformers.models.clip import CLIPImageProcessorPil
from transformers.utils import logging as hf_logging

from senna.errors import UsageError
from senna.model.config import SennaConfig
from senna.model.lora import attach_lora, merge_lora, read_lora
from senna.model.parts import NOT_QUANTIZED, PARTS
from senna.model.senna_llava_llama import SennaLlavaLlamaForCausalLM
from senna.model.source import (
    is_lora,
    load_image_processor,
    read_config,
    resolve_tower,
    tokenizer_source,
)
from senna.model.tokenizer import load_tokenizer

logger = logging.getLogger(__name__)


def _quantization(kind: str, dtype: str | torch.dtype) -> BitsAndBytesConfig:
    if kind == "nf4":
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype if isinstance(dtype, torch.dtype) else torch.bfloat16,
            llm_int8_skip_modules=NOT_QUANTIZED,
        )
    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=NOT_QUANTIZED)
    raise UsageError(f"quantization {kind!r} is not known: 'nf4', 'int8' or None")


@contextmanager
def quiet_transformers():
    """Without transformers' table of missing weights, since which may be new is judged here; bars on terminals only."""
    verbosity, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    if not sys.stderr.isatty():
        hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()


def _load_tower(model: SennaLlavaLlamaForCausalLM, tower: str) -> bool:
    """Copy a CLIP model's vision weights into the tower; whether that changed it."""
    try:
        with quiet_transformers():
            source = CLIPVisionModel.from_pretrained(tower, dtype=model.dtype)
    except OSError as error:
        raise UsageError(
            f"vision tower {tower}: the checkpoint does not hold it and it cannot be loaded "
            f"({str(error).splitlines()[0]}); name a folder or a hub name with --vision_tower"
        ) from error
    target, weights = model.model.vision_tower.vision_tower.vision_model, source.state_dict()
    before = target.state_dict()
    changed = any(not torch.equal(before[name].cpu(), tensor) for name, tensor in weights.items())
    target.load_state_dict(weights)
    return changed


@dataclass(frozen=True)
class _How:
    """In what form a model is opened."""

    dtype: str | torch.dtype
    attn_implementation: str
    device: str | torch.device


def open_model(
    path: str,
    vision_tower: str | None = None,
    quantization: str | None = None,
    dtype: str | torch.dtype = "auto",
    attn_implementation: str = "sdpa",
    device: str | torch.device = "cpu",
    base: str | None = None,
    merge: bool = True,
    **config_changes,
) -> tuple[SennaLlavaLlamaForCausalLM, list[str]]:
    """A model from ``path``, and which of its parts are not the checkpoint's: "mm_projector", "img_adapter" (new, untrained),
    "vision_tower" (another than the checkpoint's own).

    A tower that the checkpoint lacks comes from ``vision_tower`` or from where the configuration says.
    ``config_changes`` are set in the configuration before the model is built.

    A LoRA folder is opened on its base (``base`` where given) and merged; what was trained on a quantised base is merged
    with the rounded weights that it saw, and quantised again where ``quantization`` asks for it. With ``merge=False`` its
    LoRA stays beside the base, which then is as ``quantization`` says.
    """
    config = read_config(path, vision_tower, base)
    for key, value in config_changes.items():
        if value is not None:
            setattr(config, key, value)
    config.base_quantization = None if merge or not is_lora(path) else quantization
    tower = resolve_tower(config.mm_vision_tower, path, base)
    how = _How(dtype, attn_implementation, device)
    model, new = _open(path, config, quantization, how, base, merge)
    if "vision_tower" in new:
        new.remove("vision_tower")
        _load_tower(model, tower)
    elif vision_tower is not None and _load_tower(model, tower):
        new.append("vision_tower")
    return (model if quantization else model.to(device)).eval(), new


def _open(
    path: str, config: SennaConfig, quantization: str | None, how: _How, base: str | None = None, merge: bool = True
) -> tuple[SennaLlavaLlamaForCausalLM, list[str]]:
    """A checkpoint, or a LoRA folder on a base that may be a LoRA folder again."""
    if not is_lora(path):
        return _open_whole(path, config, quantization, how)
    folder = read_lora(path, base)
    model, new = _open(folder.base, config, folder.base_quantization if merge else quantization, how)
    if merge and folder.base_quantization:
        with quiet_transformers():
            model = model.dequantize()
    attach_lora(model, folder)
    if merge:
        merge_lora(model)
        if quantization:
            model = requantized(model, quantization, how.dtype, how.device)
    return model, [part for part in new if not any(name.startswith(PARTS[part]) for name in folder.others)]


def requantized(
    model: SennaLlavaLlamaForCausalLM, quantization: str, dtype: str | torch.dtype, device: str | torch.device
) -> SennaLlavaLlamaForCausalLM:
    """A model of the same weights whose LLM's Linears are held in "nf4" or "int8"; what else it has in ``dtype``."""
    how = _How(dtype, model.config._attn_implementation, device)
    return _open_whole(None, model.config, quantization, how, model.state_dict())[0]


def _open_whole(
    path: str | None, config: SennaConfig, quantization: str | None, how: _How, state: dict | None = None
) -> tuple[SennaLlavaLlamaForCausalLM, list[str]]:
    """The weights of a checkpoint, or ``state``, in a model of this configuration, and the parts that are missing there."""
    extra = {"quantization_config": _quantization(quantization, how.dtype)} if quantization else {}
    if state is not None:
        extra["state_dict"] = state
    try:
        with quiet_transformers():
            model, info = SennaLlavaLlamaForCausalLM.from_pretrained(
                path,
                config=config,
                dtype=how.dtype,
                attn_implementation=how.attn_implementation,
                device_map={"": how.device} if quantization else None,
                output_loading_info=True,
                **extra,
            )
    except pickle.UnpicklingError as error:  # transformers reads pickles with weights_only=True
        raise UsageError(
            f"model {path}: its pickled weights hold more than weights, or are damaged, and were not opened"
        ) from error
    except SafetensorError as error:
        raise UsageError(f"model {path}: a weight file is damaged or cut off ({error}); copy it again") from error
    for module in model.modules():
        # On a CPU bitsandbytes would repack 4-bit weights at the first forward, after which there is no gradient.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    missing = set(info["missing_keys"])
    new = [part for part, prefix in PARTS.items() if any(key.startswith(prefix) for key in missing)]
    others = sorted(key for key in missing if not key.startswith(tuple(PARTS.values())))
    if others or info["mismatched_keys"]:
        wrong = [*others, *(str(key) for key in info["mismatched_keys"])]
        raise UsageError(f"model {path}: {len(wrong)} weights are missing or of another shape, the first {wrong[0]}")
    return model, new


def load_model(
    path: str,
    base: str | None = None,
    quantization: str | None = None,
    dtype: str | torch.dtype = "auto",
    device: str = "auto",
    attn_implementation: str = "sdpa",
) -> tuple[SennaLlavaLlamaForCausalLM, PreTrainedTokenizerBase, CLIPImageProcessorPil]:
    """A checkpoint ready for use: (model in evaluation mode, tokenizer, image processor).

    Args: ``path`` a folder or hub name of a Senna or LLaVA-1.5 checkpoint, or of a LoRA folder (ours or LLaVA's), which is
    merged into its base, or with ``quantization`` stays beside it; ``base`` the base of a LoRA folder, where it has moved, or
    for another checkpoint where the tokenizer is, if not there; ``quantization`` "nf4" | "int8" | None (the LLM's Linears;
    needs bitsandbytes); ``dtype`` "auto" is the checkpoint's own; ``device`` "auto" is the GPU where there is one;
    ``attn_implementation`` "sdpa" | "flash_attention_2" | "eager". Raises UsageError with what is missing and where.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    path = str(path)
    model, new = open_model(
        path,
        quantization=quantization,
        dtype=dtype,
        attn_implementation=attn_implementation,
        device=device,
        base=base,
        merge=quantization is None,
    )
    if new:
        logger.warning(
            "%s holds no %s: untrained weights are used, the answers mean nothing", path, " and no ".join(new)
        )
    tokenizer = load_tokenizer(tokenizer_source(path, base), model.config.tokenizer_model_max_length)
    return model, tokenizer, load_image_processor(path, model.config, base if is_lora(path) else None)
