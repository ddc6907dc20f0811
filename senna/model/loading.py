"""Opening checkpoints: ours, the published ones (Senna, LLaVA-1.5), or a bare Llama plus a CLIP tower."""

import logging
import sys
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import (
    BitsAndBytesConfig,
    CLIPVisionConfig,
    CLIPVisionModel,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.models.clip import CLIPImageProcessorPil
from transformers.utils import logging as hf_logging

from senna.errors import UsageError
from senna.model.config import CLIP_VIT_L_14_336, SennaConfig
from senna.model.senna_llava_llama import SennaLlavaLlamaForCausalLM
from senna.model.tokenizer import load_tokenizer

logger = logging.getLogger(__name__)

DEFAULT_TOWER = "openai/clip-vit-large-patch14-336"
NOT_QUANTIZED = ["vision_tower", "mm_projector", "img_adapter", "lm_head"]
PARTS = {
    "vision_tower": "model.vision_tower.",
    "mm_projector": "model.mm_projector.",
    "img_adapter": "model.img_adapter.",
}


def _config_dict(path: str, what: str) -> dict:
    """config.json of a folder or hub name. Raises UsageError where there is none."""
    folder = Path(path)
    if folder.exists() and not (folder / "config.json").is_file():
        hint = " (a LoRA folder: merge it into its base first)" if (folder / "adapter_config.json").is_file() else ""
        raise UsageError(
            f"{what} {path}: no config.json there{hint}; give a folder that holds one model, or a hub name"
        )
    if not folder.exists() and (folder.is_absolute() or path.count("/") > 1 or path.startswith(".")):
        raise UsageError(f"{what} {path}: no such folder")
    try:
        return PretrainedConfig.get_config_dict(path)[0]
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{what} {path}: neither a folder here nor a model that the hub could give ({str(error).splitlines()[0]})"
        ) from error


def resolve_tower(name: str | None, checkpoint: str | None = None) -> str:
    """Where the tower called ``name`` is: a folder (also beside or inside the checkpoint's folder), else the hub name."""
    name = name or DEFAULT_TOWER
    places = [Path(name)]
    if checkpoint is not None and not Path(name).is_absolute():
        places += [Path(checkpoint) / name, Path(checkpoint).resolve().parent / name]
    return next((str(place) for place in places if (place / "config.json").is_file()), name)


def read_config(path: str, vision_tower: str | None = None) -> SennaConfig:
    """The complete configuration of a checkpoint, or of the model that a bare Llama and ``vision_tower`` make.

    Raises UsageError where ``path`` is missing or is no Llama.
    """
    raw = _config_dict(path, "model")
    kind, published = raw.pop("model_type", None), "mm_vision_tower" in raw
    if kind not in ("llava_llama", "llama") and not (kind == "llava" and published):
        raise UsageError(
            f"model {path}: model_type {kind!r}; Senna is built on a Llama (or is a Senna or LLaVA-1.5 checkpoint)"
        )
    if kind == "llama":
        raw["mm_vision_tower"] = vision_tower or DEFAULT_TOWER
    if "vision_config" not in raw or vision_tower is not None:
        name = vision_tower or raw.get("mm_vision_tower")
        tower = resolve_tower(name, path)
        if tower == DEFAULT_TOWER:  # known by heart, so that a published checkpoint opens without the hub
            raw["vision_config"] = dict(CLIP_VIT_L_14_336)
        else:
            _config_dict(tower, "vision tower")
            raw["vision_config"] = CLIPVisionConfig.from_pretrained(tower).to_dict()
        raw["mm_vision_tower"] = tower if vision_tower else name
        raw["mm_hidden_size"] = None if kind == "llama" else raw.get("mm_hidden_size")
    raw.pop("architectures", None)
    if (raw.get("quantization_config") or {}).get("quant_method") == "gguf":
        del raw["quantization_config"]  # says where the weights came from; saved again, they are plain
    return SennaConfig.from_dict(raw)


def _quantization(kind: str | None) -> BitsAndBytesConfig | None:
    if kind is None:
        return None
    if kind == "nf4":
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
            llm_int8_skip_modules=NOT_QUANTIZED,
        )
    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=NOT_QUANTIZED)
    raise UsageError(f"quantization {kind!r} is not known: 'nf4', 'int8' or None")


@contextmanager
def _quiet_loading():
    """Without transformers' table of missing weights: which are expected to be new is judged here. Bars on terminals only."""
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


def _load_tower(model: SennaLlavaLlamaForCausalLM, tower: str) -> None:
    """Copy a CLIP model's vision weights into the tower."""
    try:
        with _quiet_loading():
            source = CLIPVisionModel.from_pretrained(tower, dtype=model.dtype)
    except OSError as error:
        raise UsageError(
            f"vision tower {tower}: the checkpoint does not hold it and it cannot be loaded "
            f"({str(error).splitlines()[0]}); name a folder or a hub name with --vision_tower"
        ) from error
    model.model.vision_tower.vision_tower.vision_model.load_state_dict(source.state_dict())


def open_model(
    path: str,
    vision_tower: str | None = None,
    adapter_tokens: int | None = None,
    quantization: str | None = None,
    dtype: str | torch.dtype = "auto",
    attn_implementation: str = "sdpa",
    device: str = "cpu",
    **config_changes,
) -> tuple[SennaLlavaLlamaForCausalLM, list[str]]:
    """A model from ``path``, and which of its parts the checkpoint did not hold and are new ("mm_projector", "img_adapter").

    A tower that the checkpoint lacks comes from ``vision_tower`` or from where the configuration says.
    ``config_changes`` are set in the configuration before the model is built.
    """
    config = read_config(path, vision_tower)
    for key, value in {"mm_adapter_tokens": adapter_tokens, **config_changes}.items():
        if value is not None:
            setattr(config, key, value)
    extra = {"quantization_config": _quantization(quantization)} if quantization else {}
    with _quiet_loading():
        model, info = SennaLlavaLlamaForCausalLM.from_pretrained(
            path,
            config=config,
            dtype=dtype,
            attn_implementation=attn_implementation,
            device_map={"": device} if quantization else None,
            output_loading_info=True,
            **extra,
        )
    for (
        module
    ) in model.modules():  # bitsandbytes would repack 4-bit weights at the first forward, and lose the gradient
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    missing = set(info["missing_keys"])
    new = [part for part, prefix in PARTS.items() if any(key.startswith(prefix) for key in missing)]
    others = sorted(key for key in missing if not key.startswith(tuple(PARTS.values())))
    if others or info["mismatched_keys"]:
        wrong = [*others, *(str(key) for key in info["mismatched_keys"])]
        raise UsageError(f"model {path}: {len(wrong)} weights are missing or of another shape, the first {wrong[0]}")
    if "vision_tower" in new or vision_tower is not None:
        _load_tower(model, resolve_tower(config.mm_vision_tower, path))
    model = model if quantization else model.to(device)
    return model.eval(), [part for part in new if part != "vision_tower"]


def load_image_processor(path: str, config: SennaConfig) -> CLIPImageProcessorPil:
    """CLIP's preprocessing: the checkpoint's own, else its tower's, else CLIP's constants at the tower's size."""
    for folder in (path, resolve_tower(config.mm_vision_tower, path)):
        if (Path(folder) / "preprocessor_config.json").is_file():
            return CLIPImageProcessorPil.from_pretrained(folder)
    side = config.vision_config.image_size
    return CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


def load_model(
    path: str,
    base: str | None = None,
    quantization: str | None = None,
    dtype: str | torch.dtype = "auto",
    device: str = "auto",
    attn_implementation: str = "sdpa",
) -> tuple[SennaLlavaLlamaForCausalLM, PreTrainedTokenizerBase, CLIPImageProcessorPil]:
    """A checkpoint ready for use: (model in evaluation mode, tokenizer, image processor).

    Args: ``path`` a folder or hub name of a Senna or LLaVA-1.5 checkpoint; ``base`` where the tokenizer is, if not there;
    ``quantization`` "nf4" | "int8" | None (the LLM's Linears; needs bitsandbytes); ``dtype`` "auto" is the checkpoint's own;
    ``device`` "auto" is the GPU where there is one; ``attn_implementation`` "sdpa" | "flash_attention_2" | "eager".
    Raises UsageError with what is missing and where.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    path = str(path)
    model, new = open_model(
        path, quantization=quantization, dtype=dtype, attn_implementation=attn_implementation, device=device
    )
    if new:
        logger.warning(
            "%s holds no %s: untrained weights are used, the answers mean nothing", path, " and no ".join(new)
        )
    tokenizer = load_tokenizer(base or path, model.config.tokenizer_model_max_length)
    return model, tokenizer, load_image_processor(path, model.config)
