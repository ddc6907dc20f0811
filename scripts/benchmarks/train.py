"""Benchmark of complete training steps of stage 2 on the synthetic world, from records and JPEGs to the optimizer step."""

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
from .common import BASELINE, Bar, Chart, embedded_world, print_table, time_methods
from .images import original_pixels
from .models import MAX_LENGTH, PRECISIONS, Geometry, autocast, build, model_inputs, precisions_here, set_attention
from .packing import BATCH, PACK_TOKENS

LEARNING_RATE = 2e-5
POOL = 16  # frames from whose records batches of similar length are formed, as in length-grouped sampling
METHODS = ("as published", "unpacked", "packed")


@dataclass(frozen=True)
class Task:
    """The samples of a round: a frame, and records of similar length whose mean length is close to that of the frame's."""

    frame: int
    batch: tuple[int, ...]


@dataclass(frozen=True)
class Data:
    """The records of stage 2, individually and by frame."""

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
        """Return the number of tokens, with one token a view."""
        return len(self.dataset.encode(record)["input_ids"])

    def published_sample(self, record: int) -> dict[str, Any]:
        """Return a sample whose images are decoded and padded by Pillow and resized by transformers' processor."""
        sample = self.dataset.text(record)
        folder, processor = self.dataset.image_folder, self.dataset.image_processor
        return {
            **sample,
            "images": torch.stack([original_pixels(folder / path, processor) for path in sample["paths"]]),
        }


def open_data(world: Path, version: str, geometry: Geometry, folder: Path) -> Data:
    """Convert the world into `folder` and open its records of stage 2 with the tokenizer of the tiny preset."""
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
    """Return tasks for `count` frames with the most frequent number of questions, evenly spaced in the data."""
    draw = data.frames.draw
    sizes = [len(draw.members(frame)) for frame in range(len(draw))]
    most_frequent = statistics.mode(sizes)
    typical = [frame for frame, size in enumerate(sizes) if size == most_frequent]
    lengths = {}
    for frame in _evenly_spaced(range(len(draw)), POOL) + _evenly_spaced(typical, count):
        lengths |= {record: data.length(record) for record in draw.members(frame).tolist()}
    pool = sorted(lengths, key=lambda record: -lengths[record])
    windows = [pool[start : start + BATCH] for start in range(max(len(pool) - BATCH, 0) + 1)]

    def mean(records: Sequence[int]) -> float:
        return statistics.fmean(lengths[record] for record in records)

    tasks = []
    for frame in _evenly_spaced(typical, count):
        wanted = mean(draw.members(frame).tolist())
        tasks.append(Task(frame, tuple(min(windows, key=lambda window: abs(mean(window) - wanted)))))
    return tasks


def _evenly_spaced(values: Sequence[int], count: int) -> list[int]:
    indices = np.linspace(0, len(values) - 1, min(count, len(values))).astype(int)
    return [values[index] for index in indices]


@dataclass(frozen=True)
class Trainee:
    """A model, its optimizer and its precision."""

    model: SennaLlavaLlamaForCausalLM
    optimizer: torch.optim.Optimizer
    precision: str

    @classmethod
    def ours(cls, geometry: Geometry, precision: str) -> "Trainee":
        """Return a model as in `senna train`: trained weights in fp32, computation in the precision."""
        model = build(geometry, precision, stage=2)
        return cls(model, torch.optim.AdamW(_trained(model), LEARNING_RATE, fused=True), precision)

    @classmethod
    def published(cls, geometry: Geometry, precision: str) -> "Trainee":
        """Return a model with all weights in the precision, as published.

        DeepSpeed also keeps fp32 copies of bf16 weights. They are left out here, in favour of the published method.
        """
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
    """Return the relative difference between the published loss and ours in fp32.

    Raises:
        SennaError: it exceeds 1e-4, so the published method would be no fair baseline.
    """
    by_length = sorted(data.frames.draw.members(task.frame).tolist(), key=data.length)
    records = [by_length[0], by_length[-1]]  # the shorter record is padded
    set_attention(model, "sdpa")
    ours = float(model(**model_inputs(data.collator([data.dataset[record] for record in records]))).loss)
    set_attention(model, "eager")
    samples = [data.published_sample(record) for record in records]
    theirs = float(published.loss_of(model, published.collate(samples, data.collator.pad_token_id)))
    difference = abs(theirs - ours) / ours
    if not difference < 1e-4:
        raise SennaError(f"the published loss is {theirs} and ours is {ours}, so the methods are not comparable")
    return difference


def make_steps(geometry: Geometry, data: Data, precisions: Sequence[str]) -> dict[str, Callable[[Task], None]]:
    """Return {"method, precision": function that trains on a task}. Our two methods share a model."""
    steps = {}
    for precision in precisions:
        ours, theirs = Trainee.ours(geometry, precision), Trainee.published(geometry, precision)
        for method, step, trainee in zip(
            METHODS, (published_step, unpacked_step, packed_step), (theirs, ours, ours), strict=True
        ):
            steps[f"{method}, {precision}"] = lambda task, step=step, trainee=trainee: step(trainee, data, task)
    return steps


def per_question(seconds: dict[str, dict[str, list[float]]], tasks: Sequence[Task], data: Data) -> dict[str, Any]:
    """Summarize the times as medians over the rounds, per question.

    Returns:
        {"method, precision": {"ms": ..., "per_second": ..., "ratio_to_published_fp32": ..., ...}}
    """
    questions = {
        method: {
            str(task): len(data.frames.draw.members(task.frame)) if method == "packed" else len(task.batch)
            for task in tasks
        }
        for method in METHODS
    }
    times = {}  # name -> task -> seconds per question
    for name, rounds in seconds.items():
        counts = questions[name.rsplit(", ", 1)[0]]
        times[name] = {task: statistics.median(elapsed) / counts[task] for task, elapsed in rounds.items()}
    baselines = [name for name in times if name.startswith("as published")]
    summary = {}
    for name, by_task in times.items():
        typical = statistics.median(by_task.values())
        summary[name] = {"ms": typical * 1e3, "per_second": 1 / typical}
        for baseline in baselines:
            ratio = statistics.median(times[baseline][task] / time for task, time in by_task.items())
            summary[name][f"ratio_to_published_{baseline.rsplit(', ', 1)[1]}"] = ratio
    return summary


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time training steps of all methods in the precisions that the processor supports."""
    torch.set_num_threads(arguments.threads)
    world = arguments.nuscenes or embedded_world()
    geometry, precisions = Geometry.from_arguments(arguments), precisions_here()
    with tempfile.TemporaryDirectory() as folder:
        data = open_data(world, arguments.version, geometry, Path(folder))
        tokenizer = data.dataset.tokenizer
        geometry = replace(geometry, vocabulary=max(geometry.vocabulary, len(tokenizer)))
        tasks = choose_tasks(data, arguments.repeats)
        difference = check_losses(build(geometry, "fp32", stage=2), data, tasks[0])
        steps = make_steps(geometry, data, precisions)
        for step in steps.values():  # warm up on one record, since a full round would double the run time
            step(replace(tasks[0], batch=tasks[0].batch[:1]))
        summary = per_question(time_methods(steps, tasks, 1, warm_up=False), tasks, data)
    frame_size = len(data.frames.draw.members(tasks[0].frame))
    print(
        f"stage 2, training steps from disk to AdamW, gradient checkpointing; {geometry}\n"
        f"{world}, {len(tasks)} rounds, {arguments.threads} threads; packed: a frame of {frame_size} questions a step, else "
        f"{BATCH} questions; the published method's loss equals ours to {max(difference, 1e-7):.0e}"
    )
    print_table(
        ["method", "ms/question", "questions/s", *(f"of published in {precision}" for precision in precisions)],
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
