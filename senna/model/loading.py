"""Open checkpoints: this project's, the published ones (Senna, LLaVA-1.5), or a bare Llama plus a CLIP tower."""

import copy
import logging
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import BitsAndBytesConfig, CLIPVisionModel, PreTrainedTokenizerBase
from transformers.models.clip import CLIPImageProcessorPil
from transformers.utils import logging as hf_logging

from senna.errors import UsageError, first_line
from senna.model.config import SennaConfig
from senna.model.generation import read_generation_config, savable
from senna.model.lora import attach_lora, merge_lora, read_lora
from senna.model.parts import NOT_QUANTIZED, PARTS, VISION_TOWER
from senna.model.pixels import PixelScaling
from senna.model.senna_llava_llama import SennaLlavaLlamaForCausalLM
from senna.model.source import ModelSource
from senna.model.tokenizer import load_tokenizer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadOptions:
    """Precision, attention implementation and device of a model that is opened."""

    dtype: str | torch.dtype = "auto"
    attn_implementation: str = "sdpa"
    device: str | torch.device = "cpu"


def _bitsandbytes_config(kind: str, dtype: str | torch.dtype) -> BitsAndBytesConfig:
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
    raise UsageError(f"quantization {kind!r} is not known", remedy="use 'nf4', 'int8' or None")


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hide transformers' warnings, since this module checks missing weights itself, and its progress bars outside terminals."""
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
    """Copy the vision weights of a CLIP model into the vision tower. Return True if they differ from those before."""
    try:
        with quiet_transformers():
            source = CLIPVisionModel.from_pretrained(tower, dtype=model.dtype, trust_remote_code=False)
    except OSError as error:
        raise UsageError(
            f"vision tower {tower}: the checkpoint does not hold it and it cannot be loaded ({first_line(error)})",
            remedy="name a folder or a hub name with --vision_tower",
        ) from error
    target, weights = model.model.vision_tower.vision_tower.vision_model, source.state_dict()
    before = target.state_dict()
    changed = any(not torch.equal(before[name].cpu(), tensor) for name, tensor in weights.items())
    target.load_state_dict(weights)
    return changed


def open_model(
    checkpoint: str | PathLike[str] | ModelSource,
    vision_tower: str | None = None,
    quantization: str | None = None,
    dtype: str | torch.dtype = "auto",
    attn_implementation: str = "sdpa",
    device: str | torch.device = "cpu",
    base: str | None = None,
    merge: bool = True,
    **config_changes: Any,
) -> tuple[SennaLlavaLlamaForCausalLM, list[str]]:
    """Open a checkpoint, and report the parts of the model that are not the checkpoint's own.

    Args:
        checkpoint: a path or hub name, or a `ModelSource`, which holds ``vision_tower`` and ``base`` already.
        vision_tower: a CLIP model whose weights replace the checkpoint's vision tower. Default: the checkpoint's own, or the
            one that its configuration names.
        quantization: "nf4", "int8" or None, for the Linears of the LLM.
        dtype, attn_implementation, device: see `load_model`; ``device`` is "cpu" by default.
        base: the base of a LoRA folder, if it has moved.
        merge: merge a LoRA folder into its base. LoRA trained on a quantized base is merged with the rounded weights that it
            was trained on, and the result is quantized again if ``quantization`` is given; all but the last step runs on
            the CPU. With False, the LoRA stays separate, on a base in ``quantization``.
        config_changes: values to set in the configuration before the model is built; None leaves a value unchanged.

    Returns:
        The model in evaluation mode, and the names of parts: "mm_projector" and "img_adapter" if they are new and untrained,
        "vision_tower" if it is another than the checkpoint's own.

    Raises:
        UsageError: a file is missing, damaged, or of another model.
    """
    source = checkpoint
    if not isinstance(source, ModelSource):
        source = ModelSource.resolve(source, base, vision_tower)
    config = copy.deepcopy(source.config)
    for key, value in config_changes.items():
        if value is not None:
            setattr(config, key, value)
    config.set_pixel_scaling(PixelScaling.from_processor(source.load_image_processor()))
    config.base_quantization = quantization if source.is_lora and not merge else None
    options = LoadOptions(dtype, attn_implementation, device)
    model, new = _open(source.lineage, config, quantization, options, merge)
    if VISION_TOWER in new:
        new.remove(VISION_TOWER)
        _load_tower(model, source.vision_tower)
    elif source.given_tower is not None and _load_tower(model, source.vision_tower):
        new.append(VISION_TOWER)
    if not quantization:
        model.to(device)  # type: ignore[arg-type]  # transformers' wrapper hides the signature of Module.to
    return model.eval(), new


def _open(
    lineage: tuple[str, ...], config: SennaConfig, quantization: str | None, options: LoadOptions, merge: bool = True
) -> tuple[SennaLlavaLlamaForCausalLM, list[str]]:
    """Open the first model of a lineage. The base of a LoRA folder may be a LoRA folder itself; that one is always merged."""
    path, *bases = lineage
    if not bases:
        return _open_complete(path, config, quantization, options)
    folder = read_lora(path, bases[0])
    # A merge needs the base in full precision, twice where it is quantized again: main memory has the room, a GPU has not.
    base_options = replace(options, device="cpu") if merge else options
    model, new = _open(tuple(bases), config, folder.base_quantization if merge else quantization, base_options)
    if merge and folder.base_quantization:
        with quiet_transformers():
            model = model.dequantize()
    attach_lora(model, folder)
    if merge:
        merge_lora(model)
        if quantization:
            model = requantize(model, quantization, options.dtype, options.device)
    return model, [part for part in new if not any(name.startswith(PARTS[part]) for name in folder.adapter_weights)]


def requantize(
    model: SennaLlavaLlamaForCausalLM, quantization: str, dtype: str | torch.dtype, device: str | torch.device
) -> SennaLlavaLlamaForCausalLM:
    """Return a model with the same weights, its LLM's Linears in "nf4" or "int8" and everything else in ``dtype``."""
    options = LoadOptions(dtype, model.config._attn_implementation or "sdpa", device)
    return _open_complete(None, model.config, quantization, options, model.state_dict())[0]


def _open_complete(
    path: str | None, config: SennaConfig, quantization: str | None, options: LoadOptions, state: dict | None = None
) -> tuple[SennaLlavaLlamaForCausalLM, list[str]]:
    """Build a model from a complete checkpoint, or from ``state``. Return it and the parts whose weights are missing."""
    extra: dict[str, Any] = {}
    if quantization:
        extra["quantization_config"] = _bitsandbytes_config(quantization, options.dtype)
    if state is not None:
        extra["state_dict"] = state
    if path is not None:
        extra["generation_config"] = read_generation_config(path, config)
    try:
        with quiet_transformers():
            loaded: Any = SennaLlavaLlamaForCausalLM.from_pretrained(
                path,
                config=config,
                dtype=options.dtype,
                attn_implementation=options.attn_implementation,
                device_map={"": options.device} if quantization else None,
                output_loading_info=True,
                trust_remote_code=False,
                **extra,
            )
    except pickle.UnpicklingError as error:  # transformers reads pickles with weights_only=True
        raise UsageError(
            f"model {path}: its pickled weights hold more than weights, or are damaged, and were not opened",
            remedy="copy it again from a source that you trust",
        ) from error
    except SafetensorError as error:
        raise UsageError(
            f"model {path}: a weight file is damaged or cut off ({error})", remedy="copy it again"
        ) from error
    model: SennaLlavaLlamaForCausalLM = loaded[0]
    model.generation_config = savable(
        model.generation_config.to_diff_dict(), config
    )  # of config.json, without the file
    info: dict[str, Any] = loaded[1]
    for module in model.modules():
        # On a CPU bitsandbytes would repack 4-bit weights at the first forward, after which there is no gradient.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]  # a plain attribute of bitsandbytes
    return model, _missing_parts(path, info)


def _missing_parts(path: str | None, info: dict[str, Any]) -> list[str]:
    """Return the parts that have missing weights. Raises UsageError for weights of the LLM, and for wrong shapes."""
    missing = set(info["missing_keys"])
    in_llm = sorted(key for key in missing if not key.startswith(tuple(PARTS.values())))
    wrong = [*in_llm, *(str(key) for key in info["mismatched_keys"])]
    if wrong:
        raise UsageError(
            f"model {path}: {len(wrong)} weights are missing or of another shape, the first {wrong[0]}",
            remedy="copy config.json and all weight files of the checkpoint again",
        )
    return [part for part, prefix in PARTS.items() if any(key.startswith(prefix) for key in missing)]


def load_model(
    path: str | PathLike[str],
    base: str | None = None,
    quantization: str | None = None,
    dtype: str | torch.dtype = "auto",
    device: str = "auto",
    attn_implementation: str = "sdpa",
) -> tuple[SennaLlavaLlamaForCausalLM, PreTrainedTokenizerBase, CLIPImageProcessorPil]:
    """Load a checkpoint for inference.

    Args:
        path: a folder or hub name of a Senna or LLaVA-1.5 checkpoint, or of a LoRA folder (this project's or LLaVA's). LoRA is
            merged into its base; with ``quantization`` it stays separate.
        base: the base of a LoRA folder, if it has moved; for other checkpoints, the folder of the tokenizer.
        quantization: "nf4", "int8" or None, for the Linears of the LLM. Needs bitsandbytes.
        dtype: "auto" is the precision of the checkpoint.
        device: "auto" is the GPU, if there is one.
        attn_implementation: "sdpa", "flash_attention_2" or "eager".

    Returns:
        The model in evaluation mode, the tokenizer and the image processor.

    Raises:
        UsageError: a file is missing, damaged, or of another model; or the device cannot be used.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    check_device(device)
    source = ModelSource.resolve(path, base)
    model, new = open_model(
        source,
        quantization=quantization,
        dtype=dtype,
        attn_implementation=attn_implementation,
        device=device,
        merge=quantization is None,
    )
    if new:
        logger.warning(
            "%s holds no %s: untrained weights are used, the answers mean nothing", path, " and no ".join(new)
        )
    tokenizer = load_tokenizer(source.tokenizer, model.config.tokenizer_model_max_length)
    return model, tokenizer, source.load_image_processor()


def check_device(name: str | torch.device) -> None:
    """Raise UsageError where torch cannot use a device."""
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {name} cannot be used: {str(error).splitlines()[0]}", remedy="use auto") from error
