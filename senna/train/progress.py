"""The progress of a run: a progress bar or log lines."""

import sys
import time

from tqdm import tqdm
from transformers import TrainerCallback

FORMATS = {
    "loss": ".4f",
    "learning_rate": ".2e",
    "grad_norm": ".3f",
    "samples_per_second": ".1f",
    "tokens_per_second": ".0f",
    "padding": ".0%",
    "packed": ".1f",
    "cut_samples": ".0f",
    "memory_gb": ".1f",
    "time_data": ".0%",
    "mfu": ".0%",
}
"""The numbers of a log entry that are printed, in this order, and their formats."""
LABELS = {
    "learning_rate": "lr",
    "grad_norm": "grad",
    "samples_per_second": "samples/s",
    "tokens_per_second": "tokens/s",
    "packed": "unpacked/packed",
    "cut_samples": "cut",
    "memory_gb": "GiB",
    "time_data": "waiting for data",
    "mfu": "MFU",
}
"""Printed names of numbers, if they differ from their keys."""


def format_entry(logs: dict) -> str:
    """Return the numbers of a log entry as a line: "loss 1.2345 (plan 0.2210), lr 1.00e-03, ..."; "" for a validation."""
    numbers = {key: value for key, value in logs.items() if isinstance(value, int | float)}
    parts = [f"{LABELS.get(key, key)} {numbers[key]:{form}}" for key, form in FORMATS.items() if key in numbers]
    kinds = [f"{key.removeprefix('loss_')} {value:.4f}" for key, value in logs.items() if key.startswith("loss_")]
    if kinds and parts:
        parts[0] += f" ({', '.join(kinds)})"
    return ", ".join(parts)


def format_validation(logs: dict) -> str:
    """Return the figures of a validation as a line, those of plans beside the majority class; "" for another log entry."""
    if "eval_loss" not in logs:
        return ""
    kinds = [f"{key.removeprefix('eval_loss_')} {logs[key]:.4f}" for key in logs if key.startswith("eval_loss_")]
    parts = [f"loss {logs['eval_loss']:.4f}" + (f" ({', '.join(kinds)})" if kinds else "")]
    if "eval_plans" in logs:
        parts += [
            f"{name} {logs[f'eval_plan_{key}']:.{digits}f} (majority {logs[f'eval_plan_majority_{key}']:.{digits}f})"
            for name, key, digits in (
                ("accuracy", "accuracy", 3),
                ("macro F1", "macro_f1", 3),
                ("log loss", "log_loss", 3),
            )
        ]
    return ", ".join([*parts, f"{logs['eval_records']} records, {logs['eval_seconds']:.1f} s"])


class Progress(TrainerCallback):
    """A progress bar on a terminal; without a terminal a line per log step, so that log files stay readable."""

    def __init__(self):
        self.bar: tqdm | None = None
        self.started, self.first_step = 0.0, 0

    def on_train_begin(self, args, state, control, **kwargs):
        self.started, self.first_step = time.monotonic(), state.global_step
        if state.is_world_process_zero and sys.stderr.isatty() and not args.disable_tqdm:
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", dynamic_ncols=True)

    def on_step_end(self, args, state, control, **kwargs):
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero:
            return
        if held_out := format_validation(logs or {}):
            tqdm.write(f"held out {held_out}" if self.bar else f"step {state.global_step}, held out: {held_out}")
            sys.stdout.flush()
            return
        text = format_entry(logs or {})
        if not text:
            return
        if self.bar is not None:
            self.bar.set_postfix_str(text)
            return
        done = max(state.global_step - self.first_step, 1)
        left = (time.monotonic() - self.started) / done * (state.max_steps - state.global_step)
        print(f"step {state.global_step}/{state.max_steps}: {text}, {left / 60:.1f} min left", flush=True)

    def on_train_end(self, args, state, control, **kwargs):
        if self.bar is not None:
            self.bar.close()


class EndEarly(TrainerCallback):
    """Ends a run after a step that is before its planned last one; at once if it continues from a later checkpoint."""

    def __init__(self, step: int):
        self.step = step

    def on_train_begin(self, args, state, control, **kwargs):
        self.on_step_end(args, state, control)

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step >= self.step:
            control.should_training_stop = True
