"""Checkpoints that a killed run continues from, and the guard over what an output folder already holds.

A checkpoint is written under a temporary name, synced, and renamed when it is whole, so that a folder ``checkpoint-N``
is a good one at any moment at which the power may go.
"""

import json
import shutil
from contextlib import AbstractContextManager
from pathlib import Path

from senna.errors import UsageError
from senna.files import SAVING, writing
from senna.train.arguments import TrainArguments

RUN_FILE = "run.json"  # what the run was asked to do: its presence says that the folder is ours
TRAINED_WEIGHTS = "trained.safetensors"

CONTINUED_FIELDS = """model_name_or_path model_base vision_tower data_path data_bytes stage image_folder version
image_aspect_ratio image_decode model_max_length group_by_modality_length pack_frames pack_max_tokens
loss_weight mm_vision_select_layer mm_adapter_tokens
tune_mm_mlp_adapter freeze_mm_mlp_adapter freeze_img_adapter freeze_backbone init_weight_img_adapter mm_projector_lr
lora_enable lora_r lora_alpha lora_dropout bits learning_rate lr_scheduler_type warmup_steps weight_decay max_grad_norm
num_train_epochs max_steps seed bf16 fp16 global_batch_size world_size zero_stage""".split()
"""What must be the same for a run to continue as if it had never stopped."""


def checkpoints(output_dir: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    found = [path for path in output_dir.glob("checkpoint-*") if path.name.split("-")[1].isdigit() and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name.split("-")[1]))


def prune(output_dir: Path, keep: int | None) -> None:
    """Delete the oldest checkpoints beyond ``keep`` (None or 0: keep all); the newest stays in any case."""
    for path in checkpoints(output_dir)[: -max(keep, 1)] if keep else []:
        shutil.rmtree(path, ignore_errors=True)


def run_settings(args: TrainArguments) -> dict:
    """What `CONTINUED_FIELDS` are in this run, as JSON values. Paths are absolute: a run may go on from another folder."""
    settings = {name: getattr(args, name) for name in CONTINUED_FIELDS}
    for name in ("model_name_or_path", "vision_tower", "data_path", "image_folder"):
        if settings[name] and Path(settings[name]).exists():
            settings[name] = str(Path(settings[name]).resolve())
    return json.loads(json.dumps(settings, default=str))


def is_finished(output_dir: Path) -> bool:
    """Whether the final model of a run stands in its folder."""
    return (output_dir / RUN_FILE).is_file() and (output_dir / "config.json").is_file()


def check_output_folder(output_dir: Path, settings: dict) -> Path | None:
    """The checkpoint to continue from, None for a new run.

    Raises UsageError where the folder holds something else, or a run with other settings; nothing is written.
    """
    if output_dir.exists() and not output_dir.is_dir():
        raise UsageError(f"--output_dir {output_dir}: is a file")
    if not output_dir.exists() or not any(path.name != SAVING for path in output_dir.iterdir()):
        return None
    if not (output_dir / RUN_FILE).is_file():
        some = ", ".join(sorted(path.name for path in output_dir.iterdir())[:4])
        raise UsageError(
            f"--output_dir {output_dir}: holds something else ({some}, ...); choose an empty or new folder"
        )
    found = checkpoints(output_dir)
    if not found and not is_finished(output_dir):
        return None  # a run that stopped before its first checkpoint: nothing to lose, and its settings may be mended
    before = json.loads((output_dir / RUN_FILE).read_text(encoding="utf-8"))
    changed = [f"{name} {before.get(name)} -> {value}" for name, value in settings.items() if before.get(name) != value]
    if changed:
        processes = before.get("world_size")
        split = f" (its state is split over {processes} processes: NUM_GPUS={processes} starts as many)"
        raise UsageError(
            f"--output_dir {output_dir}: holds a run with other settings ({'; '.join(changed)}); "
            f"use those to continue it{split if processes != settings.get('world_size') else ''}, or another folder for a "
            "new run"
        )
    return found[-1] if found else None


def saving(output_dir: Path) -> AbstractContextManager[None]:
    """As `senna.files.writing`, with word of the checkpoint that is left."""

    def kept() -> str:
        found = checkpoints(output_dir)
        return f"the last good checkpoint is {found[-1]}; " if found else "there is no checkpoint yet; "

    return writing(output_dir, kept)
