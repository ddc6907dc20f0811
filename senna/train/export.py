"""The final folder of a run: a model or a LoRA folder, which the next stage and `load_model` open."""

import copy
import shutil
from pathlib import Path
from typing import Any

import torch

from senna.contents import absolute
from senna.files import SAVING, publish_files
from senna.model.loading import quiet_transformers
from senna.model.lora import save_lora
from senna.model.parts import is_adapter_weight
from senna.model.senna_llava_llama import SennaLlavaLlamaForCausalLM
from senna.model.source import ModelSource
from senna.train.arguments import TrainArguments
from senna.train.checkpoint import saving
from senna.train.trainer import SennaTrainer


def save_final(trainer: SennaTrainer) -> None:
    """Write model, tokenizer and image processor, in the precision of the run. All processes must call it."""
    args = trainer.args
    output_dir = Path(args.output_dir)
    staging = output_dir / SAVING
    if trainer.is_world_process_zero() and staging.exists():
        shutil.rmtree(staging)
    with saving(output_dir):
        (_save_lora_folder if args.lora_enable else _save_model_folder)(trainer, staging)
        if trainer.is_world_process_zero():
            trainer.tokenizer.save_pretrained(staging)
            trainer.image_processor.save_pretrained(staging)
            publish_files(staging, output_dir)


def _save_model_folder(trainer: SennaTrainer, staging: Path) -> None:
    is_partitioned = trainer.args.zero_stage == 3
    weights = trainer.gathered_weights(lambda name, parameter: True) if is_partitioned else None
    if trainer.is_world_process_zero():
        write_model(trainer.unwrapped_model(), staging, trainer.args, weights)


def write_model(
    model: SennaLlavaLlamaForCausalLM,
    folder: Path,
    args: TrainArguments,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write configuration and weights of a complete model in the precision of the run.

    Args:
        weights: all weights by name, if the model's own are partitioned by ZeRO-3.
    """
    with quiet_transformers():
        if weights is None:
            model.to(args.precision)  # type: ignore[arg-type]
        model.save_pretrained(folder, state_dict=weights)


def _save_lora_folder(trainer: SennaTrainer, staging: Path) -> None:
    weights = trainer.gathered_weights(lambda name, parameter: parameter.requires_grad or is_adapter_weight(name))
    if trainer.is_world_process_zero():
        write_lora(trainer.unwrapped_model(), staging, trainer.args, trainer.source, weights)


def write_lora(
    model: SennaLlavaLlamaForCausalLM, folder: Path, args: TrainArguments, source: ModelSource,
    weights: dict[str, torch.Tensor],
) -> None:  # fmt: skip
    """Write configuration and weights of a LoRA folder in the precision of the run.

    Args:
        source: the model that the run started from, which becomes the base.
        weights: LoRA, projector and driving vision adapter by name.
    """
    folder.mkdir(parents=True)
    weights = {name: tensor.to("cpu", args.precision) for name, tensor in weights.items()}
    save_lora(model, weights, folder, absolute(source.path))
    config: Any = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # it describes how the base was loaded, not the weights of this folder
    config.base_quantization = args.quantization
    config.dtype = args.precision
    config.architectures = [type(model).__name__]
    config.mm_vision_tower = absolute(source.vision_tower)
    config.save_pretrained(folder)
