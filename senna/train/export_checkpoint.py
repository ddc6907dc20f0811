"""Make a model or a LoRA folder of a run's checkpoint, which holds only the weights that the run trains: `senna export`."""

import contextlib
import importlib.util
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import set_seed

from senna.data.serving import prepare_for_serving
from senna.errors import UsageError, first_line
from senna.files import check_free_space, publish_files, writing
from senna.model.loading import quiet_transformers
from senna.model.parts import is_adapter_weight
from senna.model.source import ModelSource, training_checkpoint
from senna.model.tokenizer import load_tokenizer
from senna.run_folder import RUN_FILE, new_folder, read_settings
from senna.train.build_model import build_model
from senna.train.export import write_lora, write_model
from senna.train.fields import TrainArguments
from senna.train.manifest import TRAINED_WEIGHTS, damage
from senna.train.options import options_of


def export(checkpoint: Path, out: Path, moved: Mapping[str, str | None], serve: bool = False) -> str:
    """Export a checkpoint, and return the summary to print.

    Args:
        moved: field of `TrainArguments` -> the new place of a model that has moved since the run, or None.
        serve: also write what other servers need (`senna.data.serving`).

    Raises:
        UsageError: the checkpoint is missing, damaged or of another model, or ``out`` is in use.
        SennaError: the folder cannot be written.
    """
    checkpoint = _find_checkpoint(checkpoint)
    with new_folder(out) as staging:
        kind = _export(checkpoint, out, staging, moved, serve)
    return f"{kind} {out} (of {checkpoint}; senna.model.load_model opens it)"


def _export(checkpoint: Path, out: Path, staging: Path, moved: Mapping[str, str | None], serve: bool) -> str:
    """Write ``staging`` and move it to ``out``. Return the kind of folder, as the summary shows it."""
    if reason := damage(checkpoint):
        raise UsageError(f"--checkpoint {checkpoint}: damaged: {reason}", remedy="export another checkpoint")
    run = _run_arguments(checkpoint, moved)
    if serve and run.lora_enable:
        raise UsageError(
            f"--serve: {checkpoint} is of a LoRA run, and servers need a complete model",
            remedy="export it without --serve, then: senna merge --serve",
        )
    weights = _read_weights(checkpoint)
    source = ModelSource.resolve(run.required("model_name_or_path"), run.model_base, run.vision_tower)
    quantization, run.bits = run.bits, 16  # the trained weights do not depend on how the base was held in memory
    set_seed(run.seed)  # new parts that the run does not train come from the seed
    model = build_model(run, source)
    run.bits = quantization
    _copy_weights(model, weights, checkpoint)
    tokenizer = load_tokenizer(source.tokenizer, run.model_max_length)
    if serve:
        prepare_for_serving(tokenizer)
    stored = {name: p for name, p in model.named_parameters() if not run.lora_enable or name in weights}
    check_free_space(out, sum(p.numel() for p in stored.values()) * run.precision.itemsize, flag="--out")
    with writing(out), quiet_transformers():
        if run.lora_enable:
            names = {name: p.detach() for name, p in model.named_parameters()}
            kept = {name: p for name, p in names.items() if name in weights or is_adapter_weight(name)}
            write_lora(model, staging, run, source, kept)
        else:
            write_model(model, staging, run)
        tokenizer.save_pretrained(staging)
        source.load_image_processor().save_pretrained(staging)
        publish_files(staging, out)
    return "LoRA    " if run.lora_enable else "model   "


def _find_checkpoint(path: Path) -> Path:
    """Return the checkpoint that a path names: itself, or the newest one of a run's folder."""
    if not path.is_dir():
        raise UsageError(f"--checkpoint {path}: no such folder", remedy="give a folder checkpoint-N of a run")
    found = training_checkpoint(path)
    if found is None:
        raise UsageError(
            f"--checkpoint {path}: not a checkpoint of `senna train` (it has no trainer_state.json)",
            remedy="give a folder checkpoint-N of a run",
        )
    return found


def _run_arguments(checkpoint: Path, moved: Mapping[str, str | None]) -> TrainArguments:
    """Return the arguments of the run that wrote a checkpoint, from its ``run.json``, for a CPU without DeepSpeed."""
    settings = next(
        filter(None, (read_settings(folder / RUN_FILE) for folder in (checkpoint, checkpoint.parent))), None
    )
    if settings is None:
        raise UsageError(
            f"--checkpoint {checkpoint}: neither it nor the folder above has a readable {RUN_FILE}, the settings of the run",
            remedy=f"copy {RUN_FILE} of the run's folder there",
        )
    known = options_of(TrainArguments)
    values: dict[str, Any] = {name: value for name, value in settings.items() if name in known and value is not None}
    values |= {name: value for name, value in moved.items() if value is not None}
    values |= {"use_cpu": True, "output_dir": str(checkpoint.parent), "global_batch_size": None}
    return TrainArguments(**values)


def _read_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Return the trained weights of a checkpoint by name; those of DeepSpeed are its fp32 copies."""
    if (checkpoint / TRAINED_WEIGHTS).is_file():
        return load_file(checkpoint / TRAINED_WEIGHTS)
    if importlib.util.find_spec("deepspeed") is None:
        raise UsageError(
            f"--checkpoint {checkpoint}: it was written by DeepSpeed, which is not installed here",
            remedy="pip install -e '.[gpu]'",
        )
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            state = get_fp32_state_dict_from_zero_checkpoint(str(checkpoint), exclude_frozen_parameters=True)
    except Exception as error:  # DeepSpeed raises many kinds for files that it does not know
        raise UsageError(
            f"--checkpoint {checkpoint}: DeepSpeed cannot read it ({first_line(error)})",
            remedy="export another checkpoint",
        ) from error
    return {name: tensor.contiguous() for name, tensor in (state or {}).items()}


def _copy_weights(model: torch.nn.Module, weights: dict[str, torch.Tensor], checkpoint: Path) -> None:
    """Copy the weights of a checkpoint into the model. Raises UsageError if they are not those that the run trains."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    shapes = {name: tuple(p.shape) for name, p in trained.items()}
    if {name: tuple(tensor.shape) for name, tensor in weights.items()} != shapes:
        raise UsageError(
            f"--checkpoint {checkpoint}: it does not hold the weights that its {RUN_FILE} describes",
            remedy="give the model that the run started from: --model",
        )
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(weights[name])
