"""Checkpoints that a killed run continues from, and the check of what an output folder already holds.

A checkpoint is written under a temporary name, synced to disk and renamed when it is complete. Its manifest shows whether its
files have been damaged since, for example by a copy that was cut off.
"""

import json
import os
import re
import shutil
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from senna import run_folder
from senna.contents import absolute, file_content, model_content
from senna.errors import SennaError, UsageError
from senna.files import SAVING, write_json, writing
from senna.run_folder import RUN_FILE
from senna.train.arguments import TrainArguments
from senna.train.manifest import MANIFEST, damage, has_manifest
from senna.train.manifest import TRAINED_WEIGHTS as TRAINED_WEIGHTS

_CHECKPOINT_NAME = re.compile(r"checkpoint-(0|[1-9][0-9]*)", re.ASCII)

CONTINUED_FIELDS = """model_name_or_path model_base vision_tower data_path data_bytes stage kinds image_folder version
image_aspect_ratio image_decode model_max_length group_by_modality_length pack_frames pack_max_tokens
loss_weight plan_loss class_balance mm_vision_select_layer mm_adapter_tokens
tune_mm_mlp_adapter freeze_mm_mlp_adapter freeze_img_adapter freeze_backbone init_weight_img_adapter mm_projector_lr
lora_enable lora_r lora_alpha lora_dropout bits learning_rate lr_scheduler_type warmup_steps weight_decay max_grad_norm
num_train_epochs max_steps seed bf16 fp16 global_batch_size zero_stage best_checkpoint_by
average_tokens_across_devices world_size""".split()
"""The arguments that must be the same for a run to continue as if it had never stopped.

``world_size`` may differ (`_compared`).
"""

_ADDED_FIELDS = {"plan_loss": "text", "class_balance": 0.0, "average_tokens_across_devices": True}
"""The arguments among them that earlier versions of Senna did not have, with what these versions did."""

CONTENTS = "contents"
"""The key in ``run.json`` for the hashes of the inputs: setting -> hash."""

_MODELS = ("model_name_or_path", "model_base", "vision_tower")

ENDED_EARLY = "ended_early"
"""The key in ``run.json`` for the step at which a run was ended before its planned last step."""


def checkpoints(output_dir: Path) -> list[Path]:
    """Return the checkpoints of a run, oldest first: the folders whose name is exactly ``checkpoint-N``.

    Other names, such as ``checkpoint-200-best``, are folders of the user.
    """
    steps = {path: _CHECKPOINT_NAME.fullmatch(path.name) for path in output_dir.glob("checkpoint-*")}
    found = {path: int(match[1]) for path, match in steps.items() if match and path.is_dir()}
    return sorted(found, key=lambda path: found[path])


def prune(output_dir: Path, keep: int | None, best: Path | None = None) -> None:
    """Delete all checkpoints but the newest ``keep``; None or 0 keeps all.

    The newest one that matches its manifest stays, and ``best``.
    """
    found = checkpoints(output_dir)
    last_intact = next((path for path in reversed(found) if has_manifest(path)), None) if keep else None
    for path in found[: -max(keep, 1)] if keep else []:
        if path not in (last_intact, best):
            shutil.rmtree(path, ignore_errors=True)


def newest_intact(output_dir: Path, read_everything: bool = True) -> tuple[Path | None, dict[Path, str]]:
    """Return the checkpoint to continue from, and the newer ones that are damaged with the reason for each.

    A checkpoint without a manifest, of an earlier version of Senna, is used if none has one.

    Args:
        read_everything: compare hashes too; False compares names and sizes only.

    Returns:
        None instead of a checkpoint if there is none.

    Raises:
        UsageError: there are checkpoints, and all are damaged.
    """
    found, reasons = checkpoints(output_dir), {}
    newest_first = found[::-1]
    for path in sorted(newest_first, key=lambda path: not (path / MANIFEST).is_file()):
        reason = damage(path, read_everything)
        if reason is None:
            newer = reversed(found[found.index(path) + 1 :])
            return path, {other: reasons.get(other, f"{MANIFEST} is missing") for other in newer}
        reasons[path] = reason
    if not found:
        return None, {}
    listed = "; ".join(f"{path.name}: {reason}" for path, reason in reasons.items())
    raise UsageError(
        f"--output_dir {output_dir}: no checkpoint can be used ({listed})",
        remedy="copy the checkpoint again if it was copied, or delete these folders to start from the beginning",
    )


def set_aside(damaged: Mapping[Path, str]) -> list[str]:
    """Rename damaged checkpoints, so that they count as checkpoints no longer, and return a message for each."""
    messages = []
    for path, reason in damaged.items():
        target = path.with_name(f"{path.name}-damaged")
        while target.exists():
            target = target.with_name(f"{target.name}-again")
        try:
            path.rename(target)
        except OSError as error:
            raise SennaError(
                f"{path} is damaged ({reason}) and cannot be renamed: {error.strerror or error}",
                remedy="move or delete it and run the same command again",
            ) from error
        messages.append(f"damaged  {path}: {reason}; it is {target.name} now, delete it when you do not need it")
    return messages


def run_settings(args: TrainArguments) -> dict[str, Any]:
    """Return the `CONTINUED_FIELDS` of a run as JSON values, with absolute paths."""
    settings = {name: getattr(args, name) for name in CONTINUED_FIELDS}
    return json.loads(json.dumps(absolute_paths(settings), default=str))


def absolute_paths(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings in which the names of existing files and folders are absolute paths."""
    found = dict(settings)
    for name in (*_MODELS, "image_folder"):
        if found.get(name):
            found[name] = absolute(found[name])
    if data := found.get("data_path"):
        found["data_path"] = ",".join(f"{absolute(path)}{weight}" for path, weight in _data_files(data))
    return found


def _data_files(data_path: str) -> list[tuple[str, str]]:
    """Return the files of ``a.json:1.0,b.jsonl:0.5`` and the text behind each, ``:1.0`` or nothing."""
    if os.path.exists(data_path):
        return [(data_path, "")]
    parts = [part.strip() for part in data_path.split(",")]
    split = [(part, "", "") if os.path.exists(part) else part.rpartition(":") for part in parts]
    return [(path or weight, colon + weight if path else "") for path, colon, weight in split]


def _contents(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the hash of the contents of the model, its base, the vision tower and the data, where they are on this disk."""
    found = {name: model_content(settings[name]) for name in _MODELS if settings.get(name)}
    if data := settings.get("data_path"):
        files = [(file_content(path), weight) for path, weight in _data_files(data)]
        found["data_path"] = json.dumps(files) if all(content for content, _ in files) else ""
    return {name: content for name, content in found.items() if content}


def _moved_back(settings: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with the earlier paths of inputs that are elsewhere now and have the same contents."""
    known = before.get(CONTENTS) or {}
    moved = {name: settings[name] for name in known if name in settings and settings[name] != before.get(name)}
    same = [name for name, content in _contents(moved).items() if content == known[name]]
    return {**settings, **{name: before[name] for name in same}}


def is_finished(output_dir: Path) -> bool:
    """Return whether a folder holds the final model of a run."""
    return (output_dir / RUN_FILE).is_file() and (output_dir / "config.json").is_file()


def planned_steps(output_dir: Path) -> int | None:
    """Return the number of steps that the run in a folder was started for, from its newest checkpoint; None if unknown."""
    for path in reversed(checkpoints(output_dir)):
        steps = (run_folder.read_settings(path / "trainer_state.json") or {}).get("max_steps")
        if isinstance(steps, int):
            return steps
    return None


def early_end(output_dir: Path, settings: Mapping[str, Any]) -> int | None:
    """Return the step at which the run in a folder shall end, if ``max_steps`` is now below what it was started for.

    The learning rate still follows the schedule of the earlier settings, so that the steps stay those of the same run.

    Returns:
        None for a run that is not shortened, or that has finished already.
    """
    before, asked = run_folder.read_settings(output_dir / RUN_FILE), settings.get("max_steps") or -1
    if not before or asked < 1 or asked == before.get("max_steps"):
        return None
    if is_finished(output_dir) and ENDED_EARLY not in before:
        return None
    planned = planned_steps(output_dir)
    return asked if planned is not None and asked < planned else None


def note_early_end(output_dir: Path, step: int) -> None:
    """Record in the settings of a run that it has ended at a step before its planned last one."""
    write_json(output_dir / RUN_FILE, {**(run_folder.read_settings(output_dir / RUN_FILE) or {}), ENDED_EARLY: step})


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
    before = run_folder.read_settings(output_dir / RUN_FILE)
    if before is None:
        if names := [path.name for path in run_folder.content(output_dir) if path.name != SAVING]:
            listed = ", ".join([*names[:4], *(["..."] if len(names) > 4 else [])])
            raise UsageError(
                f"--output_dir {output_dir} holds other files ({listed})", remedy="choose an empty or new folder"
            )
        return None
    found = checkpoints(output_dir)
    if not found and not is_finished(output_dir):
        return None
    before = absolute_paths({**_ADDED_FIELDS, **before})  # earlier versions stored some of them as they were given
    settings = _moved_back(settings, before)
    if early_end(output_dir, settings) is not None:
        settings = {**settings, "max_steps": before.get("max_steps")}
    compared = _compared(settings)
    hints = _hints(before, run_folder.differences(before, settings, compared))
    run_folder.check_same_run(
        f"--output_dir {output_dir}", before, settings, names=compared,
        remedy=f"use the earlier settings to continue that run{hints}, or choose another folder for a new run",
    )  # fmt: skip
    return found[-1] if found else None


def _compared(settings: Mapping[str, Any]) -> list[str]:
    """Return the settings that must be equal. The number of processes changes the loss only if each divides its own by its
    own number of targets."""
    return [name for name in settings if name != "world_size" or settings.get("average_tokens_across_devices") is False]


def _hints(before: Mapping[str, Any], changed: Collection[str]) -> str:
    """Return what keeps the earlier settings where that is not obvious, in parentheses; "" otherwise."""
    hints = []
    if "global_batch_size" in changed and (batch := before.get("global_batch_size")):
        hints.append(f"--global_batch_size {batch} without --gradient_accumulation_steps keeps the global batch")
    if "world_size" in changed:
        hints.append(f"NUM_GPUS={before.get('world_size')}, as --average_tokens_across_devices is False")
    return f" ({'; '.join(hints)})" if hints else ""


def check_resume(given: str | None, output_dir: Path, start_from: Path | None) -> None:
    """Raise UsageError if ``--resume_from_checkpoint`` asks for another start than the run's own.

    Args:
        given: the flag: a checkpoint, a boolean as text, or None.
        start_from: the checkpoint that the run continues from; None for a new run.
    """
    if given is None or str(given).strip() == "":
        return
    name, remedy = str(given), "omit it: the same command continues from the newest checkpoint by itself"
    if name.lower() in ("true", "yes", "1", "latest", "last"):
        if start_from is None:
            raise UsageError(f"--resume_from_checkpoint {name}: {output_dir} holds no checkpoint", remedy=remedy)
    elif name.lower() in ("false", "no", "0", "none"):
        if start_from is not None:
            raise UsageError(
                f"--resume_from_checkpoint {name}: {output_dir} holds a run to continue, from {start_from.name}",
                remedy="choose another --output_dir for a new run",
            )
    elif start_from is None or Path(name).resolve() != start_from.resolve():
        next_start = "it would start anew" if start_from is None else f"it continues from {start_from}"
        raise UsageError(
            f"--resume_from_checkpoint {name} is not where the run in {output_dir} continues: {next_start}",
            remedy=f"{remedy}; for an older one, move the newer checkpoints away; for another run, give its --output_dir",
        )


def claim_output_folder(output_dir: Path, settings: Mapping[str, Any], start_from: Path | None) -> None:
    """Write the settings of a new run into its folder. Of a run that continues from ``start_from``, only the number of
    processes may be new."""
    if start_from is not None:
        before = run_folder.read_settings(output_dir / RUN_FILE) or {}
        if before.get("world_size") != settings["world_size"]:
            write_json(output_dir / RUN_FILE, {**before, "world_size": settings["world_size"]})
    else:
        (output_dir / RUN_FILE).unlink(missing_ok=True)  # of a run that stopped before its first checkpoint
        contents = _contents(settings)
        settings = {**dict(sorted(settings.items())), **({CONTENTS: contents} if contents else {})}
        run_folder.claim(output_dir, settings, remedy="choose another --output_dir")


def saving(output_dir: Path) -> AbstractContextManager[None]:
    """Return `senna.files.writing` whose error names the last complete checkpoint."""

    def describe_kept() -> str:
        found = checkpoints(output_dir)
        return f"the last good checkpoint is {found[-1]}; " if found else "there is no checkpoint yet; "

    return writing(output_dir, describe_kept)
