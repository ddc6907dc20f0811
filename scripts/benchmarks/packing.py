"""Forward and backward of training: a frame's questions packed against one by one; captions packed against padded."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from senna.data.collate import Collator, PackCollator
from senna.model import SennaLlavaLlamaForCausalLM

from .common import BASELINE, Bar, Chart, print_table, summarise, time_ways
from .models import MAX_LENGTH, Geometry, autocast, build, model_inputs, pictures, precisions_here, set_attention
from .synthetic import DRAWN_CAPTIONS, QUESTIONS, REAL_CAPTIONS, batches, captions, frame, one_by_one

PACK_TOKENS = 4096
BATCH = 8  # questions, one by one: the published batch of stages 2 and 3
CAPTIONS = 32  # a batch of stage 1
PAD = 0


@dataclass(frozen=True)
class Way:
    """Batches that together are a round's records, and the attention they are computed with."""

    batches: Sequence[dict[str, Any]]
    attention: str

    @property
    def tokens(self) -> int:
        """What the model sees, views included, padding not."""
        return sum(batch["counts"].tokens for batch in self.batches)

    @property
    def padding(self) -> float:
        return 1 - self.tokens / sum(batch["counts"].positions for batch in self.batches)


def accumulate(model: SennaLlavaLlamaForCausalLM, way: Way, precision: str) -> None:
    """The gradient of the mean loss over all targets of the way's batches, left in the parameters."""
    targets = sum(int((batch["labels"] != -100).sum()) for batch in way.batches)
    model.zero_grad(set_to_none=True)
    for batch in way.batches:
        with autocast(precision):
            loss = model(**model_inputs(batch), num_items_in_batch=targets).loss
        loss.backward()


def gradients(model: SennaLlavaLlamaForCausalLM, way: Way) -> dict[str, torch.Tensor]:
    """{name: gradient} of what is trained, in fp32."""
    set_attention(model, way.attention)
    accumulate(model, way, "fp32")
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
    model.zero_grad(set_to_none=True)
    return found


def largest_difference(ours: dict[str, torch.Tensor], reference: dict[str, torch.Tensor]) -> float:
    """The worst parameter's relative L2 distance."""
    return max(float((ours[name] - gradient).norm() / gradient.norm()) for name, gradient in reference.items())


def stepper(model: SennaLlavaLlamaForCausalLM, way: Way, precision: str) -> Callable[[Any], None]:
    def step(_: Any) -> None:
        set_attention(model, way.attention)
        accumulate(model, way, precision)

    return step


def driving_ways(geometry: Geometry) -> dict[str, Way]:
    """A frame's 13 questions one by one, in batches of 8, and packed."""
    generator = torch.Generator().manual_seed(0)
    item = frame(geometry, pictures(6, geometry, generator), generator)
    collator = Collator(PAD, MAX_LENGTH, geometry.view_tokens)
    packed = PackCollator(PAD, MAX_LENGTH, geometry.view_tokens, PACK_TOKENS)([item])
    return {
        "unpacked": Way([collator(batch) for batch in batches(one_by_one([item]), BATCH)], "sdpa"),
        "packed (split)": Way([packed], "split"),
        "packed (dense)": Way([packed], "dense"),
    }


def time_driving(geometry: Geometry, precisions: Sequence[str], repeats: int) -> dict[str, Any]:
    """The figures of stage 2: everything but the tower trains."""
    ways = driving_ways(geometry)
    models = {precision: build(geometry, precision, stage=2) for precision in precisions}
    reference, *packed = (gradients(models["fp32"], way) for way in ways.values())
    split, dense = (largest_difference(found, reference) for found in packed)
    del reference, packed
    steps = {
        f"{name}, {precision}": stepper(models[precision], way, precision)
        for precision in precisions
        for name, way in ways.items()
    }
    for name, step in steps.items():
        if not name.endswith("fp32"):  # those have had their warm-up: a round takes as long as what is measured
            step(None)
    summary = summarise(time_ways(steps, ["frame"], repeats, warm_up=False), "unpacked, fp32")
    for label, figures in summary.items():
        name, precision = label.rsplit(", ", 1)
        figures |= per_record(figures, ways[name], len(QUESTIONS))
        figures["same_precision_ratio"] = figures["ratio"] / summary[f"unpacked, {precision}"]["ratio"]
    return {
        "speedup": summary["packed (split), fp32"]["same_precision_ratio"],
        "speedup_bf16": summary.get("packed (split), bf16", {}).get("same_precision_ratio"),
        "max_relative_gradient_difference": split,
        "max_relative_gradient_difference_dense": dense,
        "ways": summary,
    }


def per_record(figures: dict[str, float], way: Way, records: int) -> dict[str, float]:
    """A round's time as time and speed per record, and what a round holds."""
    return {
        "ms": figures["ms"] / records,
        "per_second": figures["per_second"] * records,
        "tokens": way.tokens,
        "tokens_per_second": way.tokens / figures["ms"] * 1e3,
        "padding": way.padding,
    }


def time_captions(
    geometry: Geometry, lengths: dict[int, int], repeats: int, checkpointing: bool
) -> dict[str, dict[str, float]]:
    """The figures of stage 1 in fp32: projector and adapter train, a batch of 32 captions."""
    generator = torch.Generator().manual_seed(0)
    items = captions(lengths, CAPTIONS, geometry, pictures(CAPTIONS, geometry, generator), generator)
    ways = {
        "padded": Way([Collator(PAD, MAX_LENGTH, geometry.view_tokens)(one_by_one(items))], "sdpa"),
        "packed (split)": Way([PackCollator(PAD, MAX_LENGTH, geometry.view_tokens, PACK_TOKENS)(items)], "split"),
    }
    model = build(geometry, "fp32", stage=1, checkpointing=checkpointing)
    reference, packed = (gradients(model, way) for way in ways.values())
    steps = {name: stepper(model, way, "fp32") for name, way in ways.items()}
    summary = summarise(time_ways(steps, ["captions"], repeats, warm_up=False), "padded")
    for name, figures in summary.items():
        figures |= per_record(figures, ways[name], CAPTIONS)
    summary["packed (split)"]["max_relative_gradient_difference"] = largest_difference(packed, reference)
    return summary


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time packed against unpacked, in the precisions that the processor has, and compare their gradients."""
    torch.set_num_threads(arguments.threads)
    geometry = Geometry.of(arguments)
    precisions = precisions_here()
    driving = time_driving(geometry, precisions, arguments.repeats)
    print(
        f"stage 2, everything but the tower trains, gradient checkpointing; {geometry}\n"
        f"a frame of {len(QUESTIONS)} questions x {arguments.repeats}, {arguments.threads} threads, forward and backward; "
        f"one by one: batches of {BATCH}"
    )
    print_ways(driving["ways"], "question")
    print(
        "gradients in fp32, worst parameter, relative to the unpacked ones: "
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
        f"\nstage 1, projector and adapter train, fp32, {CAPTIONS} captions at a time, against padding to the longest"
    )
    for name, ways in stage1.items():
        print(f"{name}:")
        print_ways(ways, "caption")
    own, _, large = (ways["packed (split)"]["ratio"] for ways in stage1.values())
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


def print_ways(ways: dict[str, dict[str, float]], record: str) -> None:
    has_precisions = "same_precision_ratio" in next(iter(ways.values()))
    header = ["way", f"ms/{record}", f"{record}s/s", "tokens", "tokens/s", "padding", "speed"]
    rows = []
    for name, f in ways.items():
        row = [name, f"{f['ms']:.1f}", f"{f['per_second']:.2f}", f"{f['tokens']:.0f}", f"{f['tokens_per_second']:.0f}"]
        row += [f"{f['padding']:.1%}", f"{f['ratio']:.2f}x"]
        rows.append(row + ([f"{f['same_precision_ratio']:.2f}x"] if has_precisions else []))
    print_table(header + (["of its precision"] if has_precisions else []), rows)


def chart_of(figures: dict[str, Any]) -> Chart:
    def note(name: str, f: dict[str, float]) -> str:
        precision = name.rsplit(", ", 1)[1]
        beside = precision != "fp32" and not name.startswith("unpacked")
        return f" ({f['same_precision_ratio']:.1f}x unpacked in {precision})" if beside else ""

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
