"""Checkpoints that a killed run continues from, and the check of what an output folder already holds.

A checkpoint is written under a temporary name, synced to disk and renamed when it is complete. Every folder ``checkpoint-N``
is therefore usable, even after a power failure.
"""

import json
import re
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from senna import run_folder
from senna.errors import UsageError
from senna.files import SAVING, writing
from senna.run_folder import RUN_FILE
from senna.train.arguments import TrainArguments

TRAINED_WEIGHTS = "trained.safetensors"

_CHECKPOINT_NAME = re.compile(r"checkpoint-(0|[1-9][0-9]*)", re.ASCII)

CONTINUED_FIELDS = """model_name_or_path model_base vision_tower data_path data_bytes stage image_folder version
image_aspect_ratio image_decode model_max_length group_by_modality_length pack_frames pack_max_tokens
loss_weight mm_vision_select_layer mm_adapter_tokens
tune_mm_mlp_adapter freeze_mm_mlp_adapter freeze_img_adapter freeze_backbone init_weight_img_adapter mm_projector_lr
lora_enable lora_r lora_alpha lora_dropout bits learning_rate lr_scheduler_type warmup_steps weight_decay max_grad_norm
num_train_epochs max_steps seed bf16 fp16 global_batch_size world_size zero_stage""".split()
"""The arguments that must be the same for a run to continue as if it had never stopped."""


def checkpoints(output_dir: Path) -> list[Path]:
    """Return the checkpoints of a run, oldest first: the folders whose name is exactly ``checkpoint-N``.

    Other names, such as ``checkpoint-200-best``, are folders of the user.
    """
    steps = {path: _CHECKPOINT_NAME.fullmatch(path.name) for path in output_dir.glob("checkpoint-*")}
    found = {path: int(match[1]) for path, match in steps.items() if match and path.is_dir()}
    return sorted(found, key=lambda path: found[path])


def prune(output_dir: Path, keep: int | None) -> None:
    """Delete all checkpoints but the newest ``keep``; None or 0 keeps all."""
    for path in checkpoints(output_dir)[: -max(keep, 1)] if keep else []:
        shutil.rmtree(path, ignore_errors=True)


def run_settings(args: TrainArguments) -> dict[str, Any]:
    """Return the `CONTINUED_FIELDS` of a run as JSON values, with absolute paths."""
    settings = {name: getattr(args, name) for name in CONTINUED_FIELDS}
    for name in ("model_name_or_path", "vision_tower", "data_path", "image_folder"):
        if settings[name] and Path(settings[name]).exists():
            settings[name] = str(Path(settings[name]).resolve())
    return json.loads(json.dumps(settings, default=str))


def is_finished(output_dir: Path) -> bool:
    """Return whether a folder holds the final model of a run."""
    return (output_dir / RUN_FILE).is_file() and (output_dir / "config.json").is_file()


def check_output_folder(output_dir: Path, settings: Mapping[str, Any]) -> Path | None:
    """Return the checkpoint that a run continues from, or None for a new run. Nothing is written.

    A run that stopped before its first checkpoint counts as new: its settings may be changed.

    Args:
        settings: the `run_settings` that must be equal, or some of them.

    Raises:
        UsageError: the folder holds other files, or a run with other settings.
    """
    if output_dir.exists() and not output_dir.is_dir():
        raise UsageError(f"--output_dir {output_dir} is a file", remedy="choose an empty or new folder")
    if not output_dir.exists() or not any(path.name != SAVING for path in output_dir.iterdir()):
        return None
    before = run_folder.read_settings(output_dir / RUN_FILE)
    if before is None:
        names = ", ".join(sorted(path.name for path in output_dir.iterdir())[:4])
        raise UsageError(
            f"--output_dir {output_dir} holds other files ({names}, ...)", remedy="choose an empty or new folder"
        )
    found = checkpoints(output_dir)
    if not found and not is_finished(output_dir):
        return None
    hint = ""
    if "world_size" in run_folder.differences(before, settings, settings):
        processes = before.get("world_size")
        hint = f" (NUM_GPUS={processes}, since the checkpoint is partitioned over {processes} processes)"
    run_folder.check_same_run(
        f"--output_dir {output_dir}", before, settings, names=settings,
        remedy=f"use the earlier settings to continue that run{hint}, or choose another folder for a new run",
    )  # fmt: skip
    return found[-1] if found else None


def claim_output_folder(output_dir: Path, settings: Mapping[str, Any], start_from: Path | None) -> None:
    """Write the settings of a new run into its folder. A run that continues from ``start_from`` has written them already."""
    if start_from is None:
        (output_dir / RUN_FILE).unlink(missing_ok=True)  # of a run that stopped before its first checkpoint
        run_folder.claim(output_dir, dict(sorted(settings.items())), remedy="choose another --output_dir")


def saving(output_dir: Path) -> AbstractContextManager[None]:
    """Return `senna.files.writing` whose error names the last complete checkpoint."""

    def describe_kept() -> str:
        found = checkpoints(output_dir)
        return f"the last good checkpoint is {found[-1]}; " if found else "there is no checkpoint yet; "

    return writing(output_dir, describe_kept)
