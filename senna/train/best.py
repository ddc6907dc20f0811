"""The best of a run's validations: its checkpoint, and the end of a run that improves no more; and what the last step adds.

Everything follows from the log history, which a checkpoint holds, so that a continued run decides as an uninterrupted one.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from senna.train.fields import TrainArguments

Entry = dict[str, Any]


def best_validation(history: Sequence[Entry], args: TrainArguments) -> Entry | None:
    """Return the entry of a log history with the best ``metric_for_best_model``, the first one of a tie.

    None without ``metric_for_best_model``, and if no entry has a number.
    """
    metric, sign = args.metric_for_best_model or "", -1 if args.greater_is_better else 1
    numbers = [entry for entry in history if math.isfinite(entry.get(metric, math.nan))]
    return min(numbers, key=lambda entry: sign * entry[metric], default=None)


def best_checkpoint(history: Sequence[Entry], args: TrainArguments) -> Path | None:
    """Return the place of the checkpoint of the best validation; None without one."""
    best = best_validation(history, args)
    return None if best is None else Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{best['step']}"


def is_patience_over(history: Sequence[Entry], args: TrainArguments) -> bool:
    """Return whether the last ``early_stopping_patience`` validations are not better than the best one before them."""
    best, patience = best_validation(history, args), args.early_stopping_patience
    if best is None or patience is None:
        return False
    return sum(args.metric_for_best_model in entry and entry["step"] > best["step"] for entry in history) >= patience


class ValidateAtEnd(TrainerCallback):
    """Adds a validation after the last step, which is often not a multiple of ``eval_steps``."""

    def on_step_end(self, args, state, control, **kwargs):
        if args.eval_strategy == "steps" and state.global_step >= state.max_steps:
            control.should_evaluate = True


class LogAtEnd(TrainerCallback):
    """Adds a log entry after the last step, which is often not a multiple of ``logging_steps``."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step >= state.max_steps:
            control.should_log = True


class StopEarly(TrainerCallback):
    """Ends a run when ``early_stopping_patience`` is over; at once if it continues from such a checkpoint."""

    def on_train_begin(self, args, state, control, **kwargs):
        self.on_evaluate(args, state, control)

    def on_evaluate(self, args, state, control, **kwargs):
        if is_patience_over(state.log_history, cast(TrainArguments, args)):
            control.should_training_stop = True
