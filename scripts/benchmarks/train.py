"""Whole training steps of stage 2 on the embedded driving world: records and JPEGs from disk to the optimizer's step."""

import argparse
import contextlib
import io
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import CLIPImageProcessorPil

from senna.convert.command import main as convert
from senna.data import Collator, ConversationDataset, FrameDataset, PackCollator, open_mixture
from senna.errors import SennaError
from senna.model import SennaLlavaLlamaForCausalLM
from senna.model.tokenizer import load_tokenizer
from senna.synthetic.tiny.tokenizer import make_tokenizer

from . import published
from .common import BASELINE, Bar, Chart, embedded_world, print_table, time_ways
from .images import original_pixels
from .models import MAX_LENGTH, PRECISIONS, Geometry, autocast, build, model_inputs, precisions_here, set_attention
from .packing import BATCH, PACK_TOKENS

LEARNING_RATE = 2e-5
POOL = 16  # frames among whose records a batch finds others of its length, as the length-grouped order does
WAYS = ("as published", "unpacked", "packed")


@dataclass(frozen=True)
class Task:
    """What is trained in a round: a frame, and records of like length that are as long as the frame's on average."""

    frame: int
    batch: tuple[int, ...]


@dataclass(frozen=True)
class Data:
    """Records of stage 2, one by one and by frame."""

    dataset: ConversationDataset

    @cached_property
    def frames(self) -> FrameDataset:
        return FrameDataset(self.dataset)

    @cached_property
    def collator(self) -> Collator:
        return Collator(self.dataset.tokenizer.pad_token_id, MAX_LENGTH, self.dataset.tokens_per_image)

    @cached_property
    def pack_collator(self) -> PackCollator:
        return PackCollator(self.dataset.tokenizer.pad_token_id, MAX_LENGTH, self.dataset.tokens_per_image, PACK_TOKENS)

    def length(self, record: int) -> int:
        """Tokens, each view as one."""
        return len(self.dataset.encode(record)["input_ids"])

    def published_sample(self, record: int) -> dict[str, Any]:
        """A sample whose images Pillow decodes and pads, and transformers' processor resizes."""
        sample = self.dataset.text(record)
        folder, processor = self.dataset.image_folder, self.dataset.image_processor
        return {
            **sample,
            "images": torch.stack([original_pixels(folder / path, processor) for path in sample["paths"]]),
        }


def open_data(world: Path, version: str, geometry: Geometry, folder: Path) -> Data:
    """The world's records of stage 2, as `senna convert` writes them to `folder`, with the tiny preset's tokenizer."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        convert(["--nuscenes", str(world), "--version", version, "--out", str(folder / "qa")])
    make_tokenizer(folder / "tokenizer")
    size = geometry.image_size
    processor = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    return Data(
        ConversationDataset(
            open_mixture(str(folder / "qa" / "senna_nusc_train.jsonl"), stage=2),
            load_tokenizer(folder / "tokenizer", MAX_LENGTH),
            processor,
            world,
            tokens_per_image=geometry.view_tokens,
        )
    )


def choose_tasks(data: Data, count: int) -> list[Task]:
    """`count` frames of the commonest number of questions, spread over the data, each with its batch."""
    draw = data.frames.draw
    sizes = [len(draw.members(frame)) for frame in range(len(draw))]
    commonest = statistics.mode(sizes)
    typical = [frame for frame, size in enumerate(sizes) if size == commonest]
    lengths = {}
    for frame in _spread(range(len(draw)), POOL) + _spread(typical, count):
        lengths |= {record: data.length(record) for record in draw.members(frame).tolist()}
    pool = sorted(lengths, key=lambda record: -lengths[record])
    windows = [pool[start : start + BATCH] for start in range(max(len(pool) - BATCH, 0) + 1)]

    def mean(records: Sequence[int]) -> float:
        return statistics.fmean(lengths[record] for record in records)

    tasks = []
    for frame in _spread(typical, count):
        wanted = mean(draw.members(frame).tolist())
        tasks.append(Task(frame, tuple(min(windows, key=lambda window: abs(mean(window) - wanted)))))
    return tasks


def _spread(things: Sequence[int], count: int) -> list[int]:
    return [things[place] for place in np.linspace(0, len(things) - 1, min(count, len(things))).astype(int)]


@dataclass(frozen=True)
class Trainee:
    """A model with its optimizer, in a precision."""

    model: SennaLlavaLlamaForCausalLM
    optimizer: torch.optim.Optimizer
    precision: str

    @classmethod
    def ours(cls, geometry: Geometry, precision: str) -> "Trainee":
        """As `senna train` holds it: what is trained in fp32, computed in the precision."""
        model = build(geometry, precision, stage=2)
        return cls(model, torch.optim.AdamW(_trained(model), LEARNING_RATE, fused=True), precision)

    @classmethod
    def published(cls, geometry: Geometry, precision: str) -> "Trainee":
        """As published: all of it in the precision. (DeepSpeed keeps fp32 copies beside bf16 weights; leaving them out is in
        favour of this way.)"""
        model = build(geometry, precision, stage=2).to(PRECISIONS[precision])
        return cls(model, torch.optim.AdamW(_trained(model), LEARNING_RATE), precision)

    def step(self, loss: torch.Tensor) -> None:
        loss.backward()
        nn.utils.clip_grad_norm_(_trained(self.model), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def published_step(trainee: Trainee, data: Data, task: Task) -> None:
    set_attention(trainee.model, "eager")
    samples = [data.published_sample(record) for record in task.batch]
    trainee.step(published.loss_of(trainee.model, published.collate(samples, data.collator.pad_token_id)))


def unpacked_step(trainee: Trainee, data: Data, task: Task) -> None:
    set_attention(trainee.model, "sdpa")
    batch = data.collator([data.dataset[record] for record in task.batch])
    with autocast(trainee.precision):
        loss = trainee.model(**model_inputs(batch)).loss
    trainee.step(loss)


def packed_step(trainee: Trainee, data: Data, task: Task) -> None:
    set_attention(trainee.model, "split")
    batch = data.pack_collator([data.frames[task.frame]])
    with autocast(trainee.precision):
        loss = trainee.model(**model_inputs(batch)).loss
    trainee.step(loss)


@torch.no_grad()
def check_losses(model: SennaLlavaLlamaForCausalLM, data: Data, task: Task) -> float:
    """How far the published way's loss is from ours, relative, in fp32. Raises SennaError beyond 1e-4: no fair baseline."""
    by_length = sorted(data.frames.draw.members(task.frame).tolist(), key=data.length)
    records = [by_length[0], by_length[-1]]  # of different length, so that one is padded
    set_attention(model, "sdpa")
    ours = float(model(**model_inputs(data.collator([data.dataset[record] for record in records]))).loss)
    set_attention(model, "eager")
    samples = [data.published_sample(record) for record in records]
    theirs = float(published.loss_of(model, published.collate(samples, data.collator.pad_token_id)))
    difference = abs(theirs - ours) / ours
    if not difference < 1e-4:
        raise SennaError(f"the published way's loss is {theirs}, ours {ours}: they do not compute the same")
    return difference


def make_steps(geometry: Geometry, data: Data, precisions: Sequence[str]) -> dict[str, Callable[[Task], None]]:
    """{"way, precision": what trains on a task}; our two ways share a model."""
    steps = {}
    for precision in precisions:
        ours, theirs = Trainee.ours(geometry, precision), Trainee.published(geometry, precision)
        for way, step, trainee in zip(
            WAYS, (published_step, unpacked_step, packed_step), (theirs, ours, ours), strict=True
        ):
            steps[f"{way}, {precision}"] = lambda task, step=step, trainee=trainee: step(trainee, data, task)
    return steps


def per_question(seconds: dict[str, dict[str, list[float]]], tasks: Sequence[Task], data: Data) -> dict[str, Any]:
    """{"way, precision": {"ms", "per_second", "ratio_to_published_fp32", ...}}: medians over the rounds, a question."""
    questions = {
        way: {
            str(task): len(data.frames.draw.members(task.frame)) if way == "packed" else len(task.batch)
            for task in tasks
        }
        for way in WAYS
    }
    each = {
        name: {
            task: statistics.median(took) / questions[name.rsplit(", ", 1)[0]][task] for task, took in rounds.items()
        }
        for name, rounds in seconds.items()
    }
    baselines = [name for name in each if name.startswith("as published")]
    summary = {}
    for name, of_task in each.items():
        typical = statistics.median(of_task.values())
        summary[name] = {"ms": typical * 1e3, "per_second": 1 / typical}
        for baseline in baselines:
            ratio = statistics.median(each[baseline][task] / took for task, took in of_task.items())
            summary[name][f"ratio_to_published_{baseline.rsplit(', ', 1)[1]}"] = ratio
    return summary


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time training steps in all ways and precisions, each on records of its own."""
    torch.set_num_threads(arguments.threads)
    world = arguments.nuscenes or embedded_world()
    geometry, precisions = Geometry.of(arguments), precisions_here()
    with tempfile.TemporaryDirectory() as folder:
        data = open_data(world, arguments.version, geometry, Path(folder))
        tokenizer = data.dataset.tokenizer
        geometry = replace(geometry, vocabulary=max(geometry.vocabulary, len(tokenizer)))
        tasks = choose_tasks(data, arguments.repeats)
        difference = check_losses(build(geometry, "fp32", stage=2), data, tasks[0])
        steps = make_steps(geometry, data, precisions)
        for step in steps.values():  # warm-up on little: a whole round would take as long as what is measured
            step(replace(tasks[0], batch=tasks[0].batch[:1]))
        summary = per_question(time_ways(steps, tasks, 1, warm_up=False), tasks, data)
    frame_size = len(data.frames.draw.members(tasks[0].frame))
    print(
        f"stage 2, training steps from disk to AdamW, gradient checkpointing; {geometry}\n"
        f"{world}, {len(tasks)} rounds, {arguments.threads} threads; packed: a frame of {frame_size} questions a step, else "
        f"{BATCH} questions; the published way's loss equals ours to {max(difference, 1e-7):.0e}"
    )
    print_table(
        ["way", "ms/question", "questions/s", *(f"of published in {precision}" for precision in precisions)],
        [
            [name, f"{f['ms']:.0f}", f"{f['per_second']:.2f}"]
            + [f"{f[f'ratio_to_published_{precision}']:.1f}x" for precision in precisions]
            for name, f in summary.items()
        ],
    )
    return {
        "benchmark": "train",
        "geometry": str(geometry),
        "rounds": len(tasks),
        "threads": arguments.threads,
        "questions_of_a_frame": frame_size,
        "loss_difference": difference,
        "ways": summary,
    }


def chart_of(figures: dict[str, Any]) -> Chart:
    def note(f: dict[str, float]) -> str:
        in_bf16 = f.get("ratio_to_published_bf16")
        return f" ({in_bf16:.1f}x as published in bf16)" if in_bf16 and in_bf16 > 1 else ""

    first = next(iter(figures["ways"]))
    return Chart(
        f"Stage 2, training steps: a frame of {figures['questions_of_a_frame']} questions packed, else batches of {BATCH}",
        "the published step in fp32",
        [
            Bar(
                name,
                f["ratio_to_published_fp32"],
                f"{f['ms']:.0f} ms a question{note(f)}",
                BASELINE if name == first else name.rsplit(", ", 1)[1],
            )
            for name, f in figures["ways"].items()
        ],
    )
