"""The log of a run. ``train_log.jsonl`` has all of it; memory and checkpoints have its end and all validations.

A day at ``--logging_steps 1`` has some 50,000 entries. With all of them, every process would grow by 71 MB, and every
checkpoint by 41 MB.
"""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from senna.files import atomic_write
from senna.train.checkpoint import saving

Entry = dict[str, Any]

LOG_FILE = "train_log.jsonl"
KEPT = 100
"""The newest entries that memory and checkpoints have at least; they have less than twice as many, and the validations."""


def drop_old(history: list[Entry]) -> None:
    """Remove, from time to time, the entries of steps that are not among the newest `KEPT`. Validations stay."""
    if len(history) >= 2 * KEPT and len(history) % KEPT == 0:
        history[:-KEPT] = [entry for entry in history[:-KEPT] if "eval_loss" in entry]


def sync_log(output_dir: Path) -> None:
    """Make sure that the log of a run is on the disk, before a checkpoint without its older entries is."""
    path = output_dir / LOG_FILE
    if path.is_file():
        with path.open("rb+") as file:
            os.fsync(file.fileno())


def read_log(path: Path) -> Iterator[Entry]:
    """Yield the entries of a ``train_log.jsonl``."""
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def continued_lines(path: Path, history: Sequence[Entry]) -> list[str]:
    """Return the lines of the log of a run that continues from a checkpoint: those up to the checkpoint's last entry.

    Args:
        path: the log so far.
        history: the entries in the checkpoint. Where the log lacks the last of them, they are all that is known.
    """
    if history and path.is_file():
        text = path.read_text(encoding="utf-8", errors="replace")
        lines = {line: entry for line in text.splitlines() if (entry := _sorted(line))}  # no line occurs twice
        if (last := json.dumps(history[-1], sort_keys=True)) in (entries := list(lines.values())):
            return list(lines)[: entries.index(last) + 1]
    return [json.dumps(entry) for entry in history]


def _sorted(line: str) -> str:
    """Return a line with sorted keys, as in checkpoints; "" for one that is not complete."""
    try:
        return json.dumps(json.loads(line), sort_keys=True)
    except ValueError:
        return ""


class LogFile(TrainerCallback):
    """Writes ``train_log.jsonl``, a line of JSON per log entry. A run that continues first deletes the entries after its
    checkpoint."""

    def __init__(self, path: Path):
        self.path = path

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            lines = continued_lines(self.path, state.log_history)
            with atomic_write(self.path) as partial, partial.open("w", encoding="utf-8") as file:
                file.writelines(line + "\n" for line in lines)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero:
            with saving(self.path.parent), self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(state.log_history[-1]) + "\n")
