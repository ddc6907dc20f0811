"""The flags of validation: what they need of each other, and defaults that follow from other flags."""

from typing import Any

from senna.contents import file_content
from senna.data.mixture import parse_data_path
from senna.errors import UsageError

_NEED_VALIDATION = ("eval_strategy", "metric_for_best_model", "load_best_model_at_end", "early_stopping_patience")
_AT_LEAST_ONE = ("eval_limit", "per_device_eval_batch_size", "early_stopping_patience")


def settle_validation(args: Any) -> None:
    """Set the flags of validation that follow from others.

    Raises:
        UsageError: a flag lacks another one, or a number is too small.
    """
    for name in _AT_LEAST_ONE:
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} {value} is too small", remedy="use 1 or more, or omit it")
    if args.eval_steps is not None and args.eval_steps <= 0:
        raise UsageError(f"--eval_steps {args.eval_steps:g} is not above 0", remedy="use 1 or more, or omit it")
    strategy = getattr(args.eval_strategy, "value", args.eval_strategy)
    for name in _NEED_VALIDATION:
        value = strategy if name == "eval_strategy" else getattr(args, name)
        if value in (None, False, "no"):
            continue
        if not args.eval_data_path:
            raise UsageError(
                f"--{name} {value} is not supported without validation", remedy="add --eval_data_path, or omit it"
            )
        if strategy == "no":
            raise UsageError(f"--{name} {value} is not supported with --eval_strategy no", remedy="omit one of them")
    for name in ("load_best_model_at_end", "early_stopping_patience"):
        if getattr(args, name) and args.metric_for_best_model is None:
            raise UsageError(
                f"--{name} {getattr(args, name)}: the figure that decides is not given",
                remedy="add --metric_for_best_model eval_loss, or eval_plan_macro_f1",
            )
    args.eval_strategy = strategy or ("steps" if args.eval_data_path else "no")
    if args.eval_steps is None:
        args.eval_steps = args.save_steps
    if args.per_device_eval_batch_size is None:
        args.per_device_eval_batch_size = args.per_device_train_batch_size


def best_rule(args: Any) -> str | None:
    """Return the figure and the held-out records that choose the best checkpoint; None if none is kept."""
    if args.metric_for_best_model is None:
        return None
    files = parse_data_path(args.required("eval_data_path"), "--eval_data_path")
    listed = ",".join(f"{path.name}:{weight:g} ({file_content(str(path))[:12]})" for path, weight in files)
    limit = "" if args.eval_limit is None else f", --eval_limit {args.eval_limit}"
    return f"{args.metric_for_best_model} on {listed}{limit}"
