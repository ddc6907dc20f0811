"""The times of DeepSpeed's communication and of its optimizer step, which happen within forward and backward passes."""

import functools
from typing import Any

from senna.train.step_times import StepTimes


def time_deepspeed(engine: Any, times: StepTimes) -> None:
    """Let calls of an engine's methods belong to their phases, in place.

    Methods that a version of DeepSpeed lacks are left out: their time stays in the phase around them.
    """
    zero = engine.optimizer
    coordinator = getattr(getattr(zero, "parameter_offload", None), "param_coordinator", None)  # of ZeRO-3
    if coordinator is not None:
        coordinator.fetch_sub_module = _timed_fetch(coordinator.fetch_sub_module, times)
    methods = [
        (engine, "step", "optimizer"),
        (engine, "allreduce_gradients", "communication"),  # at the end of each backward pass
        (zero, "reduce_independent_p_g_buckets_and_remove_grads", "communication"),  # for each gradient
    ]
    for owner, name, phase in methods:
        if hasattr(owner, name):
            setattr(owner, name, _timed(getattr(owner, name), phase, times))


def _timed(method: Any, phase: str, times: StepTimes) -> Any:
    @functools.wraps(method)
    def timed(*args, **kwargs):
        with times.inside(phase):
            return method(*args, **kwargs)

    return timed


def _timed_fetch(fetch: Any, times: StepTimes) -> Any:
    """Return ZeRO-3's method that waits for the weights of a module, timed for modules that have weights of their own."""
    timed = _timed(fetch, "communication", times)

    def timed_fetch(module, *args, **kwargs):
        has_weights = any(True for _ in module.parameters(recurse=False))
        return (timed if has_weights else fetch)(module, *args, **kwargs)

    return timed_fetch
