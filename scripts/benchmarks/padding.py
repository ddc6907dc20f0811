"""Benchmark of padded, unpacked batches: positions that go on at the padding, against the mask for positions that repeat."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from senna.data.collate import Collator
from senna.errors import SennaError
from senna.model import SennaLlavaLlamaForCausalLM

from .common import BASELINE, Bar, Chart, print_table, summarize, time_methods
from .models import MAX_LENGTH, Geometry, build, model_inputs, random_images
from .synthetic import REAL_CAPTIONS, captions, plan_frame, unpack_samples

CAPTIONS = 16  # half of a batch of stage 1, to save time
PLANS = 2  # a quarter of a batch of stage 3
MASK, CAUSAL = "mask over all pairs", "causal"


@dataclass(frozen=True)
class Case:
    """A model and a padded batch, with or without a backward pass."""

    model: SennaLlavaLlamaForCausalLM
    batch: dict[str, Any]
    backward: bool

    def run(self) -> torch.Tensor:
        """Return the loss after a forward pass, and a backward pass if the case has one."""
        self.model.train(self.backward)
        with torch.set_grad_enabled(self.backward):
            loss = self.model(**model_inputs(self.batch), logits_to_keep=1).loss
        if self.backward:
            self.model.zero_grad(set_to_none=True)
            loss.backward()
        return loss.detach()

    def run_with_mask(self) -> torch.Tensor:
        """Return the same with the mask that transformers builds for positions that repeat at the padding."""
        with _repeated_positions(self.model):
            return self.run()


@contextmanager
def _repeated_positions(model: SennaLlavaLlamaForCausalLM) -> Iterator[None]:
    """Let the last position of each row repeat at its padding."""
    compute = model.compute_splice

    def repeated(*arguments: Any) -> Any:
        splice = compute(*arguments)
        return replace(splice, position_ids=splice.attention_mask.cumsum(1) - 1)

    model.__dict__["compute_splice"] = repeated
    try:
        yield
    finally:
        del model.__dict__["compute_splice"]


def make_cases(geometry: Geometry) -> dict[str, Case]:
    """Return the cases by name: captions of stage 1, plan questions of stage 3, and the latter in evaluation."""
    generator = torch.Generator().manual_seed(0)
    collator = Collator(0, MAX_LENGTH, geometry.view_tokens)
    pixels = random_images(CAPTIONS, geometry, generator)
    plain = collator(unpack_samples(captions(REAL_CAPTIONS, CAPTIONS, geometry, pixels, generator)))
    frames = [plan_frame(geometry, random_images(6, geometry, generator), generator) for _ in range(PLANS)]
    # Answers of different lengths, all tokens of which are targets.
    samples = [unpack_samples([frame])[5 * number] for number, frame in enumerate(frames)]
    plans = collator(samples)
    stage_3 = build(geometry, "fp32", stage=3)
    cases = {
        f"stage 1, {CAPTIONS} captions": Case(build(geometry, "fp32", stage=1), dict(plain), True),
        f"stage 3, {PLANS} plans": Case(stage_3, dict(plans), True),
        f"evaluation, {PLANS} plans": Case(stage_3, dict(plans), False),
    }
    for case in cases.values():
        case.model.config.tokenizer_padding_side = "right"
    return cases


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time each case with and without the mask. Raises SennaError if the two losses differ."""
    torch.set_num_threads(arguments.threads)
    geometry = Geometry.from_arguments(arguments)
    cases = make_cases(geometry)
    for name, case in cases.items():  # also the warm-up
        causal, masked = case.run(), case.run_with_mask()
        if not torch.equal(causal, masked):
            raise SennaError(f"{name}: the loss is {float(causal)} without a mask and {float(masked)} with it")
    figures: dict[str, Any] = {}
    for name, case in cases.items():
        methods: dict[str, Callable[[Any], Any]] = {
            MASK: lambda _, case=case: case.run_with_mask(),
            CAUSAL: lambda _, case=case: case.run(),
        }
        figures[name] = summarize(time_methods(methods, [name], arguments.repeats, warm_up=False), MASK)
    print(
        f"padded, unpacked batches in fp32; {geometry}; {arguments.threads} threads; the losses are equal to the last digit"
    )
    print_table(
        ["", f"{MASK}, ms", f"{CAUSAL}, ms", "speed"],
        [
            [name, f"{f[MASK]['ms']:.0f}", f"{f[CAUSAL]['ms']:.0f}", f"{f[CAUSAL]['ratio']:.2f}x"]
            for name, f in figures.items()
        ],
    )
    return {"benchmark": "padding", "geometry": str(geometry), "threads": arguments.threads, "cases": figures}


def chart_of(figures: dict[str, Any]) -> Chart:
    bars = []
    for name, found in figures["cases"].items():
        bars.append(Bar(f"{name}, {MASK}", 1.0, f"{found[MASK]['ms']:.0f} ms", BASELINE))
        bars.append(Bar(f"{name}, {CAUSAL}", found[CAUSAL]["ratio"], f"{found[CAUSAL]['ms']:.0f} ms"))
    return Chart("Padded, unpacked batches without a mask", "attention with a mask over all pairs", bars)
