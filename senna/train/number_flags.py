"""Ranges of numbers among the flags of `senna train`."""

from typing import Any

from senna.errors import UsageError


def check_numbers(args: Any) -> None:
    """Raise UsageError for a number that has no meaning."""
    if not 0 <= args.hang_timeout < float("inf"):
        raise UsageError(f"--hang_timeout {args.hang_timeout} is no number of seconds", remedy="use 0, or some minutes")
    if args.peak_tflops is not None and not 0 < args.peak_tflops < float("inf"):
        raise UsageError(
            f"--peak_tflops {args.peak_tflops} is no peak of a card",
            remedy="use the TFLOP/s of its data sheet for dense matrices, such as 312 for an A100 in bf16, or omit it",
        )
    if not 0 <= args.class_balance <= 1:
        raise UsageError(f"--class_balance {args.class_balance} is not from 0 to 1", remedy="use 0.5 or 1, or omit it")
    if args.packs_rows and args.pack_max_tokens < args.model_max_length:
        raise UsageError(
            f"--pack_max_tokens {args.pack_max_tokens} is below --model_max_length {args.model_max_length}, but a row must "
            "hold the longest sample",
            remedy="raise --pack_max_tokens or lower --model_max_length",
        )
