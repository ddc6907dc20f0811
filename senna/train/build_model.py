"""The model of a run: opened, given LoRA where asked for, and frozen where the flags say."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

from senna.errors import UsageError
from senna.model.loading import open_model
from senna.model.lora import add_lora
from senna.model.senna_llava_llama import SennaLlavaLlamaForCausalLM
from senna.train.arguments import TrainArguments

logger = logging.getLogger(__name__)


@contextmanager
def unpartitioned_loading(args: TrainArguments) -> Iterator[None]:
    """Keep transformers from splitting weights while they are loaded, as it would under ZeRO-3.

    DeepSpeed splits the finished model just as well, and all that happens to it before (another tower, new parts, LoRA)
    works on whole tensors. Memory is the same: each process reads the checkpoint in either case.
    """
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if args.deepspeed:
            set_hf_deepspeed_config(args.hf_deepspeed_config)


def freeze(model: SennaLlavaLlamaForCausalLM, args: TrainArguments) -> None:
    """Leave a gradient to what the flags say is trained; the tower never is."""
    parts = model.model
    for name, parameter in model.named_parameters():
        in_llm = "lora_" in name if args.lora_enable else parameter.is_floating_point()
        parameter.requires_grad_(in_llm and not (args.tune_mm_mlp_adapter or args.freeze_backbone))
    parts.mm_projector.requires_grad_(not args.freeze_mm_mlp_adapter)
    parts.img_adapter.requires_grad_(not args.freeze_img_adapter)
    parts.vision_tower.requires_grad_(False)
    if not any(p.requires_grad for p in model.parameters()):
        raise UsageError("the flags freeze every part of the model: nothing would be trained")


def use_liger_kernels(model: SennaLlavaLlamaForCausalLM) -> None:
    """Fused Triton kernels for the LLM's norms, rotary embedding and MLP. The loss stays ours: it looks at targets only.

    transformers' own switch knows models by their type and would leave this one as it is.
    """
    from liger_kernel.transformers import apply_liger_kernel_to_llama

    apply_liger_kernel_to_llama(cross_entropy=False, fused_linear_cross_entropy=False, model=model)


def build_model(args: TrainArguments) -> SennaLlavaLlamaForCausalLM:
    """The model to train: frozen parts in the training precision, trained parts in fp32 (DeepSpeed keeps its own fp32)."""
    with unpartitioned_loading(args):
        model, new = open_model(
            args.model_name_or_path,
            args.vision_tower,
            quantization=args.quantization,
            dtype=args.precision,
            attn_implementation=args.attn_implementation,
            device=args.device if args.quantization else "cpu",
            base=args.model_base,
            mm_adapter_tokens=args.mm_adapter_tokens,
            mm_vision_select_layer=args.mm_vision_select_layer,
            tokenizer_model_max_length=args.model_max_length,
            image_aspect_ratio=args.image_aspect_ratio,
        )
    model.config.tokenizer_padding_side = "right"
    model.config.use_cache = False
    if args.lora_enable and "vision_tower" in new:
        raise UsageError(
            f"--vision_tower {args.vision_tower}: {args.model_name_or_path} holds another tower, and a LoRA folder could not "
            "carry this one; leave --vision_tower (VISION_TOWER) out"
        )
    new = [part for part in new if part != "vision_tower"]
    if args.init_weight_img_adapter and "img_adapter" not in new:
        model.model.img_adapter.reset()
        new.append("img_adapter")
    if new and not args.tune_mm_mlp_adapter:
        logger.warning(
            "%s holds no %s: it starts untrained; stage 1 trains it", args.model_name_or_path, " and no ".join(new)
        )
    if args.use_liger_kernel:
        use_liger_kernels(model)
        args.use_liger_kernel = False  # done; the Trainer would look for them once more
    if args.lora_enable:
        add_lora(model, args.lora_r, args.lora_alpha, args.lora_dropout)
    freeze(model, args)
    if not args.deepspeed:
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    return model


def count(parameter: torch.nn.Parameter) -> int:
    """How many weights a parameter stands for: a packed one holds two in a byte."""
    packed = getattr(parameter, "quant_state", None)
    return parameter.numel() if packed is None else packed.shape.numel()
