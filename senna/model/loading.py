"""Opening checkpoints: ours, the published ones (Senna, LLaVA-1.5), or a bare Llama plus a CLIP tower."""

import logging
import sys
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import BitsAndBytesConfig, CLIPVisionModel, PreTrainedTokenizerBase
from transformers.models.clip import CLIPImageProcessorPil
from transformers.utils import logging as hf_logging

from senna.errors import UsageError
from senna.model.config import SennaConfig
from senna.model.config_files import DEFAULT_TOWER, read_config, resolve_tower
from senna.model.senna_llava_llama import SennaLlavaLlamaForCausalLM
from senna.model.tokenizer import load_tokenizer

logger = logging.getLogger(__name__)

NOT_QUANTIZED = ["model.vision_tower", "model.mm_projector", "model.img_adapter", "lm_head"]
PARTS = {
    "vision_tower": "model.vision_tower.",
    "mm_projector": "model.mm_projector.",
    "img_adapter": "model.img_adapter.",
}


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


def _load_tower(model: SennaLlavaLlamaForCausalLM, tower: str) -> None:
    """Copy a CLIP model's vision weights into the tower."""
    try:
        with quiet_transformers():
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
    for key, value in config_changes.items():
        if value is not None:
            setattr(config, key, value)
    extra = {"quantization_config": _quantization(quantization)} if quantization else {}
    with quiet_transformers():
        model, info = SennaLlavaLlamaForCausalLM.from_pretrained(
            path,
            config=config,
            dtype=dtype,
            attn_implementation=attn_implementation,
            device_map={"": device} if quantization else None,
            output_loading_info=True,
            **extra,
        )
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
    if "vision_tower" in new or vision_tower is not None:
        _load_tower(model, resolve_tower(config.mm_vision_tower, path))
    model = model if quantization else model.to(device)
    return model.eval(), [part for part in new if part != "vision_tower"]


def load_image_processor(path: str, config: SennaConfig) -> CLIPImageProcessorPil:
    """The preprocessing of ``path`` (a checkpoint or a tower), else of the tower that the configuration names.

    Where neither has one, and for OpenAI's own tower, CLIP's constants at the tower's size.
    """
    for source in (path, resolve_tower(config.mm_vision_tower, path)):
        folder = Path(source)
        lacks_one = folder.is_dir() and not (folder / "preprocessor_config.json").is_file()
        if lacks_one or source == DEFAULT_TOWER:
            continue
        try:
            return CLIPImageProcessorPil.from_pretrained(source)
        except OSError:
            continue  # a hub name without one, as that of a language model
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
