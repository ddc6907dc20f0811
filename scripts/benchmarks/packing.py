"""Benchmark of forward and backward passes: the questions of a frame packed or unpacked, captions packed or padded."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from senna.data.collate import Collator, PackCollator
from senna.model import SennaLlavaLlamaForCausalLM

from .common import BASELINE, Bar, Chart, print_table, summarize, time_methods
from .models import MAX_LENGTH, Geometry, autocast, build, model_inputs, precisions_here, random_images, set_attention
from .synthetic import DRAWN_CAPTIONS, QUESTIONS, REAL_CAPTIONS, batches, captions, frame, unpack_samples

PACK_TOKENS = 4096
BATCH = 8  # unpacked questions: the published batch size of stages 2 and 3
CAPTIONS = 32  # batch size of stage 1
PAD = 0


@dataclass(frozen=True)
class Method:
    """The batches of a round, and the kind of attention."""

    batches: Sequence[dict[str, Any]]
    attention: str

    @property
    def tokens(self) -> int:
        """Number of tokens, including views and without padding."""
        return sum(batch["counts"].tokens for batch in self.batches)

    @property
    def padding(self) -> float:
        """Share of the positions that are padding."""
        return 1 - self.tokens / sum(batch["counts"].positions for batch in self.batches)


def accumulate(model: SennaLlavaLlamaForCausalLM, method: Method, precision: str) -> None:
    """Accumulate the gradient of the mean loss over all targets of all batches in the parameters."""
    targets = sum(int((batch["labels"] != -100).sum()) for batch in method.batches)
    model.zero_grad(set_to_none=True)
    for batch in method.batches:
        with autocast(precision, model.device):
            loss = model(**model_inputs(batch, model.device), num_items_in_batch=targets).loss
        loss.backward()


def gradients(model: SennaLlavaLlamaForCausalLM, method: Method, precision: str = "fp32") -> dict[str, torch.Tensor]:
    """Return {name: gradient} of the trained parameters."""
    set_attention(model, method.attention)
    accumulate(model, method, precision)
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
    model.zero_grad(set_to_none=True)
    return found


def largest_difference(ours: dict[str, torch.Tensor], reference: dict[str, torch.Tensor]) -> float:
    """Return the largest relative L2 distance of the gradient of a parameter."""
    return max(float((ours[name] - gradient).norm() / gradient.norm()) for name, gradient in reference.items())


def stepper(model: SennaLlavaLlamaForCausalLM, method: Method, precision: str) -> Callable[[Any], None]:
    def step(_: Any) -> None:
        set_attention(model, method.attention)
        accumulate(model, method, precision)

    return step


def driving_methods(geometry: Geometry) -> dict[str, Method]:
    """Return the methods for the 13 questions of a frame: unpacked in batches of 8, and packed."""
    generator = torch.Generator().manual_seed(0)
    item = frame(geometry, random_images(6, geometry, generator), generator)
    collator = Collator(PAD, MAX_LENGTH, geometry.view_tokens)
    packed = PackCollator(PAD, MAX_LENGTH, geometry.view_tokens, PACK_TOKENS)([item])
    return {
        "unpacked": Method([collator(batch) for batch in batches(unpack_samples([item]), BATCH)], "sdpa"),
        "packed (split)": Method([packed], "split"),
        "packed (dense)": Method([packed], "dense"),
    }


def time_driving(geometry: Geometry, precisions: Sequence[str], repeats: int) -> dict[str, Any]:
    """Return the figures of stage 2, in which everything but the tower is trained."""
    methods = driving_methods(geometry)
    models = {precision: build(geometry, precision, stage=2) for precision in precisions}
    reference, *packed = (gradients(models["fp32"], method) for method in methods.values())
    split, dense = (largest_difference(found, reference) for found in packed)
    del reference, packed
    steps = {
        f"{name}, {precision}": stepper(models[precision], method, precision)
        for precision in precisions
        for name, method in methods.items()
    }
    for name, step in steps.items():
        if not name.endswith("fp32"):  # the gradients above were the warm-up of fp32
            step(None)
    summary = summarize(time_methods(steps, ["frame"], repeats, warm_up=False), "unpacked, fp32")
    for label, figures in summary.items():
        name, precision = label.rsplit(", ", 1)
        figures |= per_record(figures, methods[name], len(QUESTIONS))
        figures["same_precision_ratio"] = figures["ratio"] / summary[f"unpacked, {precision}"]["ratio"]
    return {
        "speedup": summary["packed (split), fp32"]["same_precision_ratio"],
        "speedup_bf16": summary.get("packed (split), bf16", {}).get("same_precision_ratio"),
        "max_relative_gradient_difference": split,
        "max_relative_gradient_difference_dense": dense,
        "ways": summary,
    }


def per_record(figures: dict[str, float], method: Method, records: int) -> dict[str, float]:
    """Convert the time of a round to figures per record, and add its numbers of tokens and its padding."""
    return {
        "ms": figures["ms"] / records,
        "per_second": figures["per_second"] * records,
        "tokens": method.tokens,
        "tokens_per_second": method.tokens / figures["ms"] * 1e3,
        "padding": method.padding,
    }


def time_captions(
    geometry: Geometry, lengths: dict[int, int], repeats: int, checkpointing: bool
) -> dict[str, dict[str, float]]:
    """Return the figures of stage 1 in fp32, in which projector and adapter are trained, for a batch of 32 captions."""
    generator = torch.Generator().manual_seed(0)
    items = captions(lengths, CAPTIONS, geometry, random_images(CAPTIONS, geometry, generator), generator)
    methods = {
        "padded": Method([Collator(PAD, MAX_LENGTH, geometry.view_tokens)(unpack_samples(items))], "sdpa"),
        "packed (split)": Method([PackCollator(PAD, MAX_LENGTH, geometry.view_tokens, PACK_TOKENS)(items)], "split"),
    }
    model = build(geometry, "fp32", stage=1, checkpointing=checkpointing)
    reference, packed = (gradients(model, method) for method in methods.values())
    steps = {name: stepper(model, method, "fp32") for name, method in methods.items()}
    summary = summarize(time_methods(steps, ["captions"], repeats, warm_up=False), "padded")
    for name, figures in summary.items():
        figures |= per_record(figures, methods[name], CAPTIONS)
    summary["packed (split)"]["max_relative_gradient_difference"] = largest_difference(packed, reference)
    return summary


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time packed against unpacked in the precisions that the processor supports, and compare their gradients."""
    torch.set_num_threads(arguments.threads)
    geometry = Geometry.from_arguments(arguments)
    precisions = precisions_here()
    driving = time_driving(geometry, precisions, arguments.repeats)
    print(
        f"stage 2, everything but the tower is trained, gradient checkpointing; {geometry}\n"
        f"a frame of {len(QUESTIONS)} questions x {arguments.repeats}, {arguments.threads} threads, forward and backward; "
        f"unpacked: batches of {BATCH}"
    )
    print_methods(driving["ways"], "question")
    print(
        "largest relative difference of a gradient from the unpacked one, in fp32: "
        f"split {driving['max_relative_gradient_difference']:.1e}, "
        f"dense {driving['max_relative_gradient_difference_dense']:.1e}"
    )
    tiny = Geometry.tiny()
    stage1 = {
        "tiny preset, its captions": time_captions(tiny, DRAWN_CAPTIONS, 4 * arguments.repeats, False),
        "tiny preset, real captions": time_captions(tiny, REAL_CAPTIONS, 4 * arguments.repeats, False),
        f"{geometry.view_tokens} view tokens, real captions": time_captions(
            geometry, REAL_CAPTIONS, arguments.repeats, True
        ),
    }
    print(
        f"\nstage 1, projector and adapter are trained, fp32, batches of {CAPTIONS} captions, against padding to the longest"
    )
    for name, methods in stage1.items():
        print(f"{name}:")
        print_methods(methods, "caption")
    own, _, large = (methods["packed (split)"]["ratio"] for methods in stage1.values())
    return {
        "benchmark": "packing",
        "geometry": str(geometry),
        "repeats": arguments.repeats,
        "threads": arguments.threads,
        **driving,
        "stage1_speedup": own,
        "stage1_speedup_128": large,
        "stage1": stage1,
    }


def print_methods(methods: dict[str, dict[str, float]], record: str) -> None:
    has_precisions = "same_precision_ratio" in next(iter(methods.values()))
    header = ["method", f"ms/{record}", f"{record}s/s", "tokens", "tokens/s", "padding", "speed"]
    rows = []
    for name, f in methods.items():
        row = [name, f"{f['ms']:.1f}", f"{f['per_second']:.2f}", f"{f['tokens']:.0f}", f"{f['tokens_per_second']:.0f}"]
        row += [f"{f['padding']:.1%}", f"{f['ratio']:.2f}x"]
        rows.append(row + ([f"{f['same_precision_ratio']:.2f}x"] if has_precisions else []))
    print_table(header + (["of its precision"] if has_precisions else []), rows)


def chart_of(figures: dict[str, Any]) -> Chart:
    def note(name: str, f: dict[str, float]) -> str:
        precision = name.rsplit(", ", 1)[1]
        has_ratio = precision != "fp32" and not name.startswith("unpacked")
        return f" ({f['same_precision_ratio']:.1f}x unpacked in {precision})" if has_ratio else ""

    def group(name: str) -> str:
        return BASELINE if name == "unpacked, fp32" else name.rsplit(", ", 1)[1]

    return Chart(
        f"Stage 2, forward and backward of a frame's {len(QUESTIONS)} questions, one frame packed against batches of {BATCH}",
        "unpacked in fp32",
        [
            Bar(name, f["ratio"], f"{f['ms']:.0f} ms a question{note(name, f)}", group(name))
            for name, f in figures["ways"].items()
        ],
    )
