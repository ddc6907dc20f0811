"""Checkpoints that a killed run continues from, and the guard over what an output folder already holds.

A checkpoint is written under a temporary name, synced, and renamed when it is whole, so that a folder ``checkpoint-N``
is a good one at any moment at which the power may go.
"""

import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from senna.errors import SennaError, UsageError
from senna.train.arguments import TrainArguments

SAVING = ".saving"  # where a checkpoint or a final model is being written
RUN_FILE = "run.json"  # what the run was asked to do: its presence says that the folder is ours
TRAINED_WEIGHTS = "trained.safetensors"

CONTINUED_FIELDS = """model_name_or_path vision_tower data_path image_folder version image_aspect_ratio image_decode
model_max_length group_by_modality_length mm_vision_select_layer mm_adapter_tokens tune_mm_mlp_adapter
freeze_mm_mlp_adapter freeze_img_adapter freeze_backbone init_weight_img_adapter mm_projector_lr learning_rate
lr_scheduler_type warmup_steps weight_decay max_grad_norm num_train_epochs max_steps seed bf16 fp16 global_batch_size
world_size""".split()
"""What must be the same for a run to continue as if it had never stopped."""


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Flush every file of a folder, and the folder itself, to the disk, and let others read what the umask lets them.

    (safetensors writes files that only their owner can read.)
    """
    mask = os.umask(0)
    os.umask(mask)
    for path in [*folder.rglob("*"), folder]:
        if path.is_file():
            path.chmod(0o666 & ~mask)
        if path.is_file() or path.is_dir():
            _sync(path)


def write_json(path: Path, value: dict) -> None:
    """Write a JSON file whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def checkpoints(output_dir: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    found = [path for path in output_dir.glob("checkpoint-*") if path.name.split("-")[1].isdigit() and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name.split("-")[1]))


def publish(staged: Path, target: Path) -> None:
    """Give a folder that is completely written its name. An older folder of that name is replaced."""
    sync_tree(staged)
    if target.exists():
        shutil.rmtree(target)
    staged.rename(target)
    _sync(target.parent)


def publish_files(staged: Path, target: Path, last: str = "config.json") -> None:
    """Move the files of a complete folder into ``target``; ``last`` says that the folder is whole, so it comes last."""
    sync_tree(staged)
    for path in sorted(staged.iterdir(), key=lambda path: path.name == last):
        path.replace(target / path.name)
    staged.rmdir()
    _sync(target)


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
        raise UsageError(
            f"--output_dir {output_dir}: holds a run with other settings ({'; '.join(changed)}); "
            "use those to continue it, or another folder for a new run"
        )
    return found[-1] if found else None


def check_free_space(folder: Path, needed: int) -> None:
    """Raise UsageError where the disk of ``folder`` (or its nearest existing parent) has less than ``needed`` bytes free."""
    place = folder.resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        raise UsageError(
            f"--output_dir {folder}: {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB needed for the run's files"
        )


@contextmanager
def saving(output_dir: Path):
    """Turn a failure to write (a full disk, most of all) into one message, and make room of what was half written.

    torch and safetensors report a full disk as RuntimeError and SafetensorError.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(output_dir / SAVING, ignore_errors=True)
        found = checkpoints(output_dir)
        kept = f"the last good checkpoint is {found[-1]}" if found else "there is no checkpoint yet"
        free = shutil.disk_usage(output_dir).free / 1e6
        raise SennaError(
            f"saving to {output_dir} failed ({str(error).splitlines()[0]}; {free:.1f} MB free now); {kept}; "
            "make room and run the same command again"
        ) from error
