"""Measure what a long log of a training run costs. A day with ``--logging_steps 1`` has about 50,000 entries.

usage: PYTHONPATH=scripts:. python -m soak.log_length [ENTRIES ...]
"""

import json
import random
import sys
import tempfile
import time
import tracemalloc
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import print_table
from torch.utils.tensorboard import SummaryWriter
from transformers import TrainerState
from transformers.integrations import TensorBoardCallback

from senna.kinds import all_kinds
from senna.train.advice import run_figures
from senna.train.best import best_validation
from senna.train.curve import plot_losses
from senna.train.log_history import LogFile, drop_old, read_log
from senna.train.step_times import TIME_KEYS

VALIDATION_STEPS = 200
_FIGURES = (
    "loss grad_norm learning_rate step_seconds mfu samples_per_second tokens_per_second padding memory_gb packed epoch"
)
KEYS = [*_FIGURES.split(), *TIME_KEYS.values(), *(f"loss_{kind.name}" for kind in all_kinds() if kind.stage == 2)]
"""The keys of an entry of stage 2 with packed frames and all kinds of questions."""
HELD_OUT_KEYS = "eval_loss eval_plan_accuracy eval_plan_macro_f1 eval_plan_majority_macro_f1 eval_seconds epoch".split()


def make_history(entries: int) -> list[dict[str, Any]]:
    """Return a log with an entry for each step, and one for each validation."""
    history = []
    for step in range(1, entries + 1):
        history.append({**{key: random.random() for key in KEYS}, "step": step})
        if step % VALIDATION_STEPS == 0:
            history.append({**{key: random.random() for key in HELD_OUT_KEYS}, "step": step})
    return history


def seconds(action: Callable[[], Any]) -> str:
    """Return the CPU time of an action as text."""
    start = time.process_time()
    action()
    return f"{time.process_time() - start:.3f}"


def measure(entries: int, folder: Path) -> dict[str, str]:
    """Return quantity -> value for a log of this length."""
    tracemalloc.start()
    history = make_history(entries)
    held = tracemalloc.get_traced_memory()[0] / len(history)
    tracemalloc.stop()
    kept: list[dict[str, Any]] = []
    for entry in history:
        kept.append(entry)
        drop_old(kept)
    state = TrainerState(log_history=kept)
    paths = {name: folder / name for name in ("trainer_state.json", "train_log.jsonl", "loss.png")}
    paths["train_log.jsonl"].write_text("".join(json.dumps(entry) + "\n" for entry in history))
    best = Namespace(metric_for_best_model="eval_loss", greater_is_better=False)
    log, tensorboard = LogFile(paths["train_log.jsonl"]), TensorBoardCallback(SummaryWriter(str(folder / "runs")))
    found = {
        "entries in memory and in a checkpoint": str(len(kept)),
        "  their memory, MiB": f"{held * len(kept) / 2**20:.1f}",
        "trainer_state.json, s": seconds(lambda: state.save_to_json(str(paths["trainer_state.json"]))),
        "train_log.jsonl when a run continues, s": seconds(lambda: log.on_train_begin(None, state, None)),
        "  another entry, s": seconds(lambda: log.on_log(None, state, None)),
        "best validation, s": seconds(lambda: best_validation(kept, best)),  # type: ignore[arg-type]
        "loss.png at the end, s": seconds(
            lambda: plot_losses(list(read_log(paths["train_log.jsonl"])), paths["loss.png"], "")
        ),
        "shares of time at the end, s": seconds(lambda: run_figures(history)),
        "TensorBoard, 1000 entries, s": seconds(
            lambda: [tensorboard.on_log(None, state, None, logs=entry) for entry in history[:1000]]
        ),
    }
    tensorboard.on_train_end(None, state, None)
    [events] = (folder / "runs").iterdir()
    sizes = {name: path.stat().st_size for name, path in paths.items() if path.suffix != ".png"}
    sizes["TensorBoard"] = events.stat().st_size * len(history) // min(1000, len(history))
    return found | {f"{name}, MB": f"{size / 1e6:.1f}" for name, size in sizes.items()}


def main() -> None:
    lengths = [int(word) for word in sys.argv[1:]] or [1000, 10_000, 50_000]
    columns = []
    for entries in lengths:
        with tempfile.TemporaryDirectory() as name:
            columns.append(measure(entries, Path(name)))
    rows = [(name, *(column[name] for column in columns)) for name in columns[0]]
    print_table(("log entries", *map(str, lengths)), rows)


if __name__ == "__main__":
    main()
