"""The final folder of a run: a model or a LoRA folder, which the next stage and `load_model` open."""

import copy
import shutil
from pathlib import Path
from typing import Any

from senna.files import SAVING, publish_files
from senna.model.loading import quiet_transformers
from senna.model.lora import save_lora
from senna.model.parts import is_adapter_weight
from senna.train.checkpoint import saving
from senna.train.trainer import SennaTrainer


def absolute(name: str) -> str:
    """Return a local path as an absolute path, and a hub name unchanged."""
    return str(Path(name).resolve()) if Path(name).exists() else name


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
    model = trainer.unwrapped_model()
    is_partitioned = trainer.args.zero_stage == 3
    weights = trainer.gathered_weights(lambda name, parameter: True) if is_partitioned else None
    if not trainer.is_world_process_zero():
        return
    with quiet_transformers():
        if not is_partitioned:
            model.to(trainer.args.precision)  # type: ignore[arg-type]
        model.save_pretrained(staging, state_dict=weights)


def _save_lora_folder(trainer: SennaTrainer, staging: Path) -> None:
    args, model = trainer.args, trainer.unwrapped_model()
    weights = trainer.gathered_weights(lambda name, parameter: parameter.requires_grad or is_adapter_weight(name))
    if not trainer.is_world_process_zero():
        return
    staging.mkdir(parents=True)
    weights = {name: tensor.to("cpu", args.precision) for name, tensor in weights.items()}
    save_lora(model, weights, staging, absolute(trainer.source.path))
    config: Any = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # it describes how the base was loaded, not the weights of this folder
    config.base_quantization = args.quantization
    config.dtype = args.precision
    config.architectures = [type(model).__name__]
    config.mm_vision_tower = absolute(trainer.source.vision_tower)
    config.save_pretrained(staging)
