"""Flags that a run refuses: those of transformers' Trainer that it would ignore or that would break its checkpoints, and
those of LoRA that exclude each other.
"""

from dataclasses import MISSING, fields
from enum import Enum
from typing import Any

from senna.errors import UsageError

_EVALUATION = ("validation has flags of its own", "omit it; see --eval_data_path")
_HUB = ("training uploads nothing", "omit it, and upload the finished folder with hf upload")
_SAMPLER = ("Senna orders the samples itself", "omit it; see --group_by_modality_length")

FIXED = {
    "mm_projector_type": "mlp2x_gelu", "mm_use_im_start_end": False, "mm_use_im_patch_token": False, "lazy_preprocess": True,
    "is_multimodal": True, "lora_bias": "none", "quant_type": "nf4", "double_quant": True, "remove_unused_columns": False,
    "logging_nan_inf_filter": False,
}  # fmt: skip
"""Fields that have a single supported value. They exist so that the published scripts run unchanged."""

REFUSED: dict[str, tuple[str, str]] = {
    "save_only_model": (
        "a run could not continue from such a checkpoint",
        "omit it, and use senna export on a checkpoint",
    ),
    "save_on_each_node": (
        "the main process writes the checkpoints",
        "omit it, and use an --output_dir that all nodes share",
    ),
    "enable_jit_checkpoint": ("a stopped run continues from its last checkpoint", "omit it, and lower --save_steps"),
    "restore_callback_states_from_checkpoint": ("Senna's callbacks have no state", "omit it"),
    **dict.fromkeys(
        """do_eval do_predict eval_delay eval_on_start eval_accumulation_steps eval_do_concat_batches
        eval_use_gather_object batch_eval_metrics include_for_metrics prediction_loss_only bf16_full_eval fp16_full_eval
        greater_is_better label_names include_inputs_for_metrics""".split(),
        _EVALUATION,
    ),
    **dict.fromkeys(
        """push_to_hub hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision push_to_hub_model_id
        push_to_hub_organization push_to_hub_token""".split(),
        _HUB,
    ),
    **dict.fromkeys(("train_sampling_strategy", "length_column_name", "group_by_length"), _SAMPLER),
    "accelerator_config": ("Senna sets accelerate up itself", "omit it"),
    "parallelism_config": (
        "the model has no tensor or context parallelism",
        "use --deepspeed configs/deepspeed/zero3.json",
    ),
    "fsdp": ("FSDP is not supported", "use --deepspeed configs/deepspeed/zero3.json"),
    "fsdp_config": ("FSDP is not supported", "use --deepspeed configs/deepspeed/zero3.json"),
    "auto_find_batch_size": ("the batch size is part of a run's settings", "set --per_device_train_batch_size"),
    "label_smoothing_factor": ("Senna's loss has no label smoothing", "omit it"),
    "neftune_noise_alpha": ("views are embedded together with the text", "omit it"),
    "optim_target_modules": ("Senna chooses the trained parts itself", "omit it; see --lora_enable"),
    "liger_kernel_config": ("Liger's kernels are chosen by Senna", "omit it; --use_liger_kernel True switches them on"),
    "use_cache": ("training needs no cache of keys and values", "omit it"),
}
"""Flag -> why it cannot be obeyed, and what to do. Every value but the default is refused."""


def check_refused(args: Any) -> None:
    """Raise UsageError for a flag that a run would not obey, and for one without the other that it needs."""
    for name, only in FIXED.items():
        if getattr(args, name) != only:
            raise UsageError(f"--{name} {getattr(args, name)} is not supported", remedy=f"use {only}, or omit --{name}")
    for field in fields(args):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        value = _plain(getattr(args, field.name, default))
        if field.name in REFUSED and value not in (_plain(default), [], "", {}, None):
            reason, remedy = REFUSED[field.name]
            raise UsageError(f"--{field.name} {value} is not supported: {reason}", remedy=remedy)
    if _plain(args.save_strategy) == "best":
        raise UsageError(
            "--save_strategy best is not supported: a run continues from its newest checkpoint",
            remedy="use --save_strategy steps with --metric_for_best_model, which keeps the best checkpoint too",
        )
    if args.loss_weight == "record" and not args.average_tokens_across_devices:
        raise UsageError(
            "--average_tokens_across_devices False is not supported with --loss_weight record",
            remedy="omit one of them",
        )
    if args.class_balance and args.plan_loss != "choice":
        raise UsageError(
            f"--class_balance {args.class_balance} needs --plan_loss choice",
            remedy="add --plan_loss choice, or omit it",
        )
    _check_lora(args)


def _check_lora(args: Any) -> None:
    if args.lora_enable and args.tune_mm_mlp_adapter:
        raise UsageError(
            "--lora_enable excludes --tune_mm_mlp_adapter, which trains no part of the LLM", remedy="omit one of them"
        )
    if args.lora_enable and args.lora_r < 1:
        raise UsageError(f"--lora_r {args.lora_r}: the rank must be 1 or more", remedy="use 128, 64 or 32")
    if args.bits < 16 and not args.lora_enable:
        raise UsageError(
            f"--bits {args.bits}: quantized weights cannot be trained", remedy="add --lora_enable True (QLoRA)"
        )


def _plain(value: Any) -> Any:
    """Return the value of an Enum member, and other values unchanged."""
    return value.value if isinstance(value, Enum) else value
