"""What a run takes of a card, for people: a finding, a chart by part, and settings that fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from senna.doctor.findings import FAIL, OK, WARN, Finding
from senna.train.memory.estimate import Estimate, Setup, estimate, gib, trained_weights
from senna.train.memory.fit import ERROR, Choice, choices, setup_of
from senna.train.memory.model_shape import ModelShape

if TYPE_CHECKING:
    from senna.model.config import SennaConfig
    from senna.train.arguments import TrainArguments

BAR = 40  # characters of the longest


def memory_findings(
    args: TrainArguments, config: SennaConfig, card_bytes: int | None, gpus: int
) -> tuple[list[Finding], str]:
    """Whether the run fits a card of ``card_bytes`` (None: unknown), and a chart of what it takes by part."""
    g = ModelShape.of(config)
    setup = setup_of(args, g, gpus)
    needed = estimate(g, setup)
    found = choices(args, g, card_bytes, gpus) if card_bytes else []
    return [_of_card(needed, card_bytes, found, setup), *_of_machine(g, setup)], chart(setup, needed, card_bytes, found)


def _of_card(needed: Estimate, card: int | None, found: list[Choice], setup: Setup) -> Finding:
    where = "each card" if setup.cuda else "main memory"
    says = f"about {gib(needed.total)} of {where}, the most at {needed.moment}"
    if card is None:
        return Finding(OK, "memory", says)
    says = f"about {gib(needed.total)} of {where}, which has {gib(card)}; the most at {needed.moment}"
    if needed.total * (1 + ERROR) <= card:
        return Finding(OK, "memory", says)
    other = found[0] if found else None
    remedy = (
        f"{other.method}, {other.flags}" if other else "no way to train this model fits: a larger card, or more of them"
    )
    if needed.total * (1 - ERROR) <= card:
        return Finding(WARN, "memory", f"{says}: it may not fit (the estimate is good to {ERROR:.0%})", remedy)
    return Finding(FAIL, "memory", f"{says}: it does not fit", remedy)


def _of_machine(g: ModelShape, setup: Setup) -> list[Finding]:
    """What DeepSpeed keeps in main memory instead of on the card: fp32 weight, gradient and moments, and weights in 16 bits."""
    zero, count = setup.zero, trained_weights(g, setup)
    if not zero.offload_optimizer:
        return []
    needed = 16 * count + 2 * (g.llm_weights + (g.tower.weights if g.tower else 0)) * zero.offload_weights
    return [Finding(OK, "memory", f"and {gib(needed)} of main memory, over all machines: the optimizer is kept there")]


def chart(setup: Setup, needed: Estimate, card: int | None, found: list[Choice]) -> str:
    """A bar by part, the total against the card, and what fits."""
    work, processes = setup.work, setup.zero.processes
    what = f"{work.rows} x {work.tokens:,} tokens and {work.images} images at once"
    each = f", on each of {processes} processes" if processes > 1 else ""
    lines = [f"memory   at {needed.moment}; {what}{each}"]
    longest = max(needed.parts.values())
    for part, taken in sorted(needed.parts.items(), key=lambda item: -item[1]):
        lines.append(f"  {part:<26}{gib(taken):>10}  {'█' * round(BAR * taken / longest)}".rstrip())
    lines.append(f"  {'in all':<26}{gib(needed.total):>10}" + (f"  of {gib(card)}" if card else ""))
    if card:
        lines += ["", f"fits {gib(card)}, the global batch kept:" if found else f"nothing fits {gib(card)}"]
        for choice in found:
            batch = f"batch {choice.rows} x {choice.accumulation}"
            lines.append(
                f"  {gib(choice.estimate.total):>10}  {choice.method}, {batch}: {choice.flags or 'nothing to change'}"
            )
    return "\n".join(lines)
