"""The memory of a run for people: a finding, a chart of its parts, and settings that fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from senna.doctor.findings import FAIL, OK, WARN, Finding
from senna.train.memory.estimate import Estimate, Setup, estimate, gib, trained_weights
from senna.train.memory.fit import RELATIVE_ERROR, Choice, choices, training_setup
from senna.train.memory.model_shape import ModelShape

if TYPE_CHECKING:
    from senna.model.config import SennaConfig
    from senna.train.arguments import TrainArguments

BAR = 40  # characters of the longest bar


def memory_findings(
    args: TrainArguments, config: SennaConfig, gpu_bytes: int | None, gpus: int
) -> tuple[list[Finding], str]:
    """Compare the memory of a run with that of each GPU (None: unknown), and return findings and a chart by part."""
    shape = ModelShape.from_config(config)
    setup = training_setup(args, shape, gpus)
    needed = estimate(shape, setup)
    found = choices(args, shape, gpu_bytes, gpus) if gpu_bytes else []
    findings = [_gpu_finding(needed, gpu_bytes, found, setup), *_offload_findings(shape, setup)]
    return findings, chart(setup, needed, gpu_bytes, found)


def _gpu_finding(needed: Estimate, available: int | None, found: list[Choice], setup: Setup) -> Finding:
    device = "of each GPU" if setup.cuda else "of main memory"
    peak = f"peak in {needed.peak_phase}"
    if available is None:
        return Finding(OK, "memory", f"about {gib(needed.total)} {device}, {peak}")
    message = f"about {gib(needed.total)} {device}, which has {gib(available)}; {peak}"
    if needed.total * (1 + RELATIVE_ERROR) <= available:
        return Finding(OK, "memory", message)
    remedy = "use a larger GPU or more GPUs: no training method fits this model"
    if found:
        remedy = f"{found[0].method}, {found[0].flags}"
    if needed.total * (1 - RELATIVE_ERROR) <= available:
        return Finding(
            WARN, "memory", f"{message}: it may not fit (the estimate is accurate to {RELATIVE_ERROR:.0%})", remedy
        )
    return Finding(FAIL, "memory", f"{message}: it does not fit", remedy)


def _offload_findings(shape: ModelShape, setup: Setup) -> list[Finding]:
    """Return the main memory of an offloaded optimizer: fp32 weight, gradient and two states, and 16-bit weights."""
    zero, count = setup.zero, trained_weights(shape, setup)
    if not zero.offload_optimizer:
        return []
    tower = shape.tower.weights if shape.tower else 0
    needed = 16 * count + 2 * (shape.llm_weights + tower) * zero.offload_weights
    return [Finding(OK, "memory", f"and {gib(needed)} of main memory over all machines, for the offloaded optimizer")]


def chart(setup: Setup, needed: Estimate, available: int | None, found: list[Choice]) -> str:
    """Return a bar for each part, the total against the available memory, and the settings that fit."""
    work, processes = setup.micro_batch, setup.zero.processes
    each = f", on each of {processes} processes" if processes > 1 else ""
    batch = f"{work.rows} x {work.tokens:,} tokens and {work.images} images"
    lines = [f"memory   in {needed.peak_phase}, for a batch of {batch}{each}"]
    longest = max(needed.parts.values())
    for part, taken in sorted(needed.parts.items(), key=lambda item: -item[1]):
        lines.append(f"  {part:<26}{gib(taken):>10}  {'█' * round(BAR * taken / longest)}".rstrip())
    lines.append(f"  {'total':<26}{gib(needed.total):>10}" + (f"  of {gib(available)}" if available else ""))
    if available:
        heading = f"settings that fit {gib(available)}, with the same global batch:"
        lines += ["", heading if found else f"no settings fit {gib(available)}"]
        for choice in found:
            batch = f"batch {choice.rows} x {choice.accumulation}"
            flags = choice.flags or "no change needed"
            lines.append(f"  {gib(choice.estimate.total):>10}  {choice.method}, {batch}: {flags}")
    return "\n".join(lines)
