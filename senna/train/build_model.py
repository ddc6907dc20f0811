"""The model of a run: loaded, with LoRA if requested, and with the parts frozen that the flags freeze."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

from senna.errors import UsageError
from senna.model.loading import open_model
from senna.model.lora import add_lora, leave_casts_to_autocast
from senna.model.parts import DRIVING_ADAPTER, VISION_TOWER, is_lora_weight
from senna.model.senna_llava_llama import SennaLlavaLlamaForCausalLM
from senna.model.source import ModelSource
from senna.train.arguments import TrainArguments
from senna.train.liger import use_liger_kernels, wants_liger

logger = logging.getLogger(__name__)


@contextmanager
def unpartitioned_loading(args: TrainArguments) -> Iterator[None]:
    """Keep transformers from partitioning weights while they are loaded under ZeRO-3.

    The steps between loading and training (another tower, new parts, LoRA) need unpartitioned tensors. DeepSpeed partitions
    the finished model. The peak memory is the same, since each process reads the checkpoint in both cases.
    """
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if args.deepspeed:
            set_hf_deepspeed_config(args.hf_deepspeed_config)


def freeze(model: SennaLlavaLlamaForCausalLM, args: TrainArguments) -> None:
    """Set ``requires_grad`` of all parameters as the flags say; the tower is always frozen.

    Raises:
        UsageError: no parameter is left to train.
    """
    parts = model.model
    for name, parameter in model.named_parameters():
        is_llm_trainable = is_lora_weight(name) if args.lora_enable else parameter.is_floating_point()
        parameter.requires_grad_(is_llm_trainable and not (args.tune_mm_mlp_adapter or args.freeze_backbone))
    parts.mm_projector.requires_grad_(not args.freeze_mm_mlp_adapter)
    parts.img_adapter.requires_grad_(not args.freeze_img_adapter)
    parts.vision_tower.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UsageError(
            "the flags freeze every part of the model",
            remedy="omit --freeze_mm_mlp_adapter, --freeze_img_adapter or --freeze_backbone",
        )


def build_model(args: TrainArguments, source: ModelSource) -> SennaLlavaLlamaForCausalLM:
    """Return the model to train: frozen parts in the training precision, trained parts in fp32 (under DeepSpeed in the
    training precision, because DeepSpeed keeps fp32 copies).

    Raises:
        UsageError: another tower is given under LoRA, or no parameter is left to train.
    """
    with unpartitioned_loading(args):
        model, new_parts = open_model(
            source,
            quantization=args.quantization,
            dtype=args.precision,
            attn_implementation=args.attn_implementation,
            device=args.device if args.quantization else "cpu",
            mm_adapter_tokens=args.mm_adapter_tokens,
            mm_vision_select_layer=args.mm_vision_select_layer,
            tokenizer_model_max_length=args.model_max_length,
            image_aspect_ratio=args.image_aspect_ratio,
        )
    model.config.tokenizer_padding_side = "right"
    model.config.use_cache = False
    if args.lora_enable and VISION_TOWER in new_parts:
        raise UsageError(
            f"--vision_tower {args.vision_tower}: {source.path} holds another tower, and a LoRA folder cannot "
            "hold a tower",
            remedy="omit --vision_tower (VISION_TOWER)",
        )
    untrained = [part for part in new_parts if part != VISION_TOWER]
    if args.init_weight_img_adapter and DRIVING_ADAPTER not in untrained:
        model.model.img_adapter.reset()
        untrained.append(DRIVING_ADAPTER)
    if untrained and not args.tune_mm_mlp_adapter:
        logger.warning(
            "%s holds no %s: training starts from new weights; stage 1 trains them",
            source.path,
            " and no ".join(untrained),
        )
    if wants_liger(args.use_liger_kernel, args.device):
        use_liger_kernels(model)
    args.use_liger_kernel = False  # keeps the Trainer from applying its own switch
    if args.lora_enable:
        add_lora(model, args.lora_r, args.lora_alpha, args.lora_dropout)
        leave_casts_to_autocast(model)
    freeze(model, args)
    if not args.deepspeed:
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    return model


def count_weights(parameter: torch.nn.Parameter) -> int:
    """Return the number of weights in a parameter; a 4-bit parameter packs two weights into a byte."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else state.shape.numel()
