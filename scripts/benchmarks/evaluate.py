"""Benchmark of the prediction of plans: one forward pass over the twenty answers against greedy decoding."""

import argparse
import tempfile
from collections.abc import Callable
from typing import Any

import torch

from senna.errors import SennaError
from senna.evaluate.score import PlanScorer
from senna.meta_actions import ALL_META_ACTIONS
from senna.model import SennaLlavaLlamaForCausalLM
from senna.model.config import IGNORE_INDEX
from senna.synthetic.tiny.tokenizer import make_tokenizer

from . import published
from .common import BASELINE, Bar, Chart, print_table, summarize, time_methods
from .models import PRECISIONS, Geometry, precisions_here, random_images, set_attention
from .synthetic import PLAN_QUESTION, Item, answers, plan_frame

ANSWER_TOKENS = [len(answer) for answer in answers()]
DECODED = round(sum(ANSWER_TOKENS) / len(ANSWER_TOKENS))  # mean number of tokens of an answer, including its end


def build(geometry: Geometry, precision: str) -> SennaLlavaLlamaForCausalLM:
    """Return a model in evaluation mode with fixed random weights, all of them in the precision."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = SennaLlavaLlamaForCausalLM(geometry.config())
    return prepare(model).to(PRECISIONS[precision])


def prepare(model: SennaLlavaLlamaForCausalLM) -> SennaLlavaLlamaForCausalLM:
    """Return the model in evaluation mode, with a cache, and without a token that ends an answer."""
    model.config.use_cache = model.generation_config.use_cache = True
    model.config.eos_token_id = model.generation_config.eos_token_id = None  # decode a fixed number of tokens
    return model.eval()


def scoring(
    model: SennaLlavaLlamaForCausalLM, scorer: PlanScorer, frames: list[Item], attention: str = "split"
) -> Callable[[Any], None]:
    batch = scorer.collate(frames)

    def score(_: Any) -> None:
        set_attention(model, attention)
        scorer.score(batch)

    return score


def decoding(model: SennaLlavaLlamaForCausalLM, frames: list[Item]) -> Callable[[Any], None]:
    prompts, images = inputs_of(model, frames)

    def decode(_: Any) -> None:
        set_attention(model, "sdpa")
        generate(model, prompts, images)

    return decode


def decoding_as_published(model: SennaLlavaLlamaForCausalLM, frames: list[Item]) -> Callable[[Any], None]:
    prompts, images = inputs_of(model, frames)

    def decode(_: Any) -> None:
        set_attention(model, "eager")
        published.greedy(model, prompts, images, DECODED)

    return decode


def same_text(model: SennaLlavaLlamaForCausalLM, frames: list[Item]) -> bool:
    """Return whether the published decoding and ours give the same tokens."""
    prompts, images = inputs_of(model, frames)
    set_attention(model, "eager")
    theirs = published.greedy(model, prompts, images, DECODED)
    set_attention(model, "sdpa")
    return torch.equal(theirs, generate(model, prompts, images))


def inputs_of(model: SennaLlavaLlamaForCausalLM, frames: list[Item]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return prompts (B, T) and images (B, V, 3, H, W) on the model's device."""
    images = torch.stack([frame["images"] for frame in frames]).to(model.device, model.dtype)
    return torch.stack([prompt_of(frame) for frame in frames]).to(model.device), images


def generate(model: SennaLlavaLlamaForCausalLM, prompts: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    return model.generate(
        input_ids=prompts,
        images=images,
        do_sample=False,
        min_new_tokens=DECODED,
        max_new_tokens=DECODED,
        pad_token_id=0,
    )


def prompt_of(frame: Item) -> torch.Tensor:
    """Return the tokens of the question without an answer, LongTensor (T,)."""
    return frame["records"][0]["input_ids"][: -len(frame["answers"][0])]


def largest_difference(
    model: SennaLlavaLlamaForCausalLM, scorer: PlanScorer, frame: Item, attention: str = "split"
) -> float:
    """Return the largest difference between the log-probabilities of answers scored together and separately."""
    set_attention(model, attention)
    together = scorer.score(scorer.collate([frame]))[0].log_probs
    set_attention(model, "sdpa")
    largest, images = 0.0, frame["images"][None].to(model.device, model.dtype)
    for record, answer, log_prob in zip(frame["records"], frame["answers"], together, strict=True):
        ids, labels = record["input_ids"][None], torch.full_like(record["input_ids"], IGNORE_INDEX)[None]
        labels[:, -len(answer) :] = torch.tensor(answer)
        with torch.inference_mode():
            separate = model(input_ids=ids.to(model.device), labels=labels.to(model.device), images=images)
        largest = max(largest, abs(float(separate.sample_losses[0]) + float(log_prob)))
    return largest


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time the methods on the same frames in the precisions that the processor supports, and compare their results."""
    torch.set_num_threads(arguments.threads)
    geometry = Geometry.from_arguments(arguments)
    generator = torch.Generator().manual_seed(0)
    frames = [plan_frame(geometry, random_images(6, geometry, generator), generator) for _ in range(arguments.batch)]
    precisions = precisions_here()
    print(f"{geometry}; {arguments.threads} threads; {arguments.batch} frames a batch")
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = make_tokenizer(folder)
    methods, difference = {}, 0.0
    for precision in precisions:
        model = build(geometry, precision)
        scorer = PlanScorer(model, tokenizer, pack_attention="split")
        if precision == "fp32":
            difference = largest_difference(model, scorer, frames[0])
            if not same_text(model, frames):
                raise SennaError(
                    "the published greedy decoding and ours give different tokens, so they are not comparable"
                )
        methods[f"greedy decoding as published, {precision}"] = decoding_as_published(model, frames)
        methods[f"greedy decoding, {precision}"] = decoding(model, frames)
        methods[f"twenty scores, {precision}"] = scoring(model, scorer, frames)
    summary = summarize(time_methods(methods, ["batch"], arguments.repeats), "greedy decoding, fp32")
    for label, figures in summary.items():
        precision = label.rsplit(", ", 1)[1]
        figures["ms"] /= arguments.batch
        figures["per_second"] *= arguments.batch
        figures["same_precision_ratio"] = figures["ratio"] / summary[f"greedy decoding, {precision}"]["ratio"]
    print_table(
        ["", "ms a frame", "frames/s", "speed"],
        [
            [label, f"{found['ms']:.0f}", f"{found['per_second']:.2f}", f"{found['same_precision_ratio']:.2f}x"]
            for label, found in summary.items()
        ],
    )
    print(
        f"{DECODED} tokens decoded after a prompt of {PLAN_QUESTION} text tokens and 6 x {geometry.view_tokens} view tokens; "
        f"{sum(ANSWER_TOKENS)} tokens of {len(ALL_META_ACTIONS)} answers"
    )
    print(f"largest difference of a log-probability from separate scoring in fp32: {difference:.1e}")
    return {
        "speedup": summary["twenty scores, fp32"]["same_precision_ratio"],
        "speedup_bf16": summary.get("twenty scores, bf16", {}).get("same_precision_ratio"),
        "max_difference_log_prob": difference,
        "ways": summary,
    }


def chart_of(figures: dict[str, Any]) -> Chart:
    bars = []
    for label, found in figures["ways"].items():
        method, precision = label.rsplit(", ", 1)
        group = BASELINE if method == "greedy decoding" else precision
        bars.append(Bar(label, found["same_precision_ratio"], f"{found['ms']:.0f} ms a frame", group))
    return Chart(
        "Prediction of a plan: the probabilities of all twenty in one forward pass",
        "greedy decoding in the same precision",
        bars,
    )
