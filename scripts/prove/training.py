"""The parts that train: steps of each method on random data, packed and unpacked, with their speed and memory."""

import math
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from benchmarks.memory import SMALL, WIDTHS_7B, Setting, make_optimizer, model_of, setup_of, train_step
from benchmarks.models import MAX_LENGTH, Geometry, random_images, set_attention
from benchmarks.packing import BATCH, CAPTIONS, PACK_TOKENS, PAD
from benchmarks.synthetic import REAL_CAPTIONS, Item, batches, captions, frame, unpack_samples

from prove.cases import Cases, Failed, Scale
from prove.flops import Work, peak_flops, step_flops
from senna.data import Collator, PackCollator
from senna.model.config import IGNORE_INDEX
from senna.train.memory.estimate import Estimate, estimate
from senna.train.memory.model_shape import ModelShape

SEVEN_B = replace(WIDTHS_7B, layers=32)
TINY = replace(SMALL, hidden=64, layers=2, heads=2, intermediate=128, vocabulary=512, image_size=28, view_tokens=4)
TIMED_STEPS, ENOUGH_SECONDS = 3, 5.0  # slow cards take fewer steps
LOSS_TOLERANCE = 0.02  # relative, of the packed loss from the unpacked one in bf16

MicroBatches = list[dict[str, Any]]


def stage1(scale: Scale) -> Cases:
    """Train projector and adapter on 32 captions of an image each."""
    return _steps(scale, "adapters")


def lora(scale: Scale) -> Cases:
    """Train LoRA of the published rank on the 13 questions of a frame."""
    return _steps(scale, "lora")


def qlora(scale: Scale) -> Cases:
    """Train LoRA on an LLM in nf4."""
    return _steps(scale, "lora", held="nf4")


def full(scale: Scale) -> Cases:
    """Train everything but the vision tower, with weights and AdamW's states in fp32 on one card."""
    return _steps(scale, "full")


def _steps(scale: Scale, what: str, held: str = "") -> Cases:
    geometry = TINY if scale.tiny else SEVEN_B
    rank = 0 if what != "lora" else 8 if scale.tiny else 128
    setting = Setting(what, geometry, what, held=held, rank=rank)
    trainee = _Trainee(scale, setting)
    for name, sizes in trainee.choices().items():
        yield name, partial(trainee.measure, name, sizes)


class _Trainee:
    """A model with its optimizer, made when the first case that fits the card needs it."""

    def __init__(self, scale: Scale, setting: Setting):
        self.scale, self.setting = scale, setting
        self.shape = ModelShape.from_config(setting.geometry.config())
        self.model: Any = None
        self.losses: dict[str, float] = {}

    def choices(self) -> dict[str, list[MicroBatches]]:
        """Return the micro-batches of a step for each case, in several sizes, the largest first."""
        geometry, generator = self.setting.geometry, torch.Generator().manual_seed(0)
        layout = (PAD, MAX_LENGTH, geometry.view_tokens)
        items: list[Item]
        if self.setting.what == "adapters":
            count = 4 if self.scale.tiny else CAPTIONS
            items = captions(REAL_CAPTIONS, count, geometry, random_images(count, geometry, generator), generator)
        else:
            count = BATCH
            items = [frame(geometry, random_images(6, geometry, generator), generator)]
        samples = unpack_samples(items)
        sizes = [count // 2**power for power in range(count.bit_length())]
        return {
            "packed": [[PackCollator(*layout, PACK_TOKENS)(items)]],
            "unpacked": [[Collator(*layout)(batch) for batch in batches(samples, size)] for size in sizes],
        }

    def measure(self, name: str, choices: list[MicroBatches]) -> dict[str, Any]:
        """Time steps with the largest micro-batches that fit the card. Raises Skipped if none do."""
        micro_batches, predicted = self._largest_that_fits(choices)
        if self.model is None:
            self.model = model_of(self.setting, self.scale.device)
            # A rate of 0, so that packed and unpacked steps have the same weights and their losses can be compared.
            self.optimizer = make_optimizer(self.model, learning_rate=0.0)
        self.scale.free()
        set_attention(self.model, "auto" if "layout" in micro_batches[0] else "sdpa")
        first = self.scale.seconds(lambda: self._step(name, micro_batches))  # compiles, and makes AdamW's states
        self.scale.reset_peak()
        times: list[float] = []
        while len(times) < TIMED_STEPS and sum(times) < ENOUGH_SECONDS:
            times.append(self.scale.seconds(lambda: self._step(name, micro_batches)))
        seconds = sorted(times)[len(times) // 2]
        counts = [batch["counts"] for batch in micro_batches]
        tokens = sum(count.tokens for count in counts)
        return {
            "batch": "+".join(str(len(count.samples)) for count in counts),
            "tokens/s": tokens / seconds,
            "questions/s": sum(len(count.samples) for count in counts) / seconds,
            "step_s": seconds,
            "first_s": first,
            "MFU": self._utilization(micro_batches, seconds),
            "peak_GiB": self.scale.peak_memory(),
            "doctor_GiB": predicted.allocated / 2**30,
            "loss": self.losses[name],
        }

    def _step(self, name: str, micro_batches: MicroBatches) -> None:
        loss, norm = train_step(self.model, self.optimizer, micro_batches, self.setting.precision)
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise Failed(f"the loss is {loss} and the gradient norm {norm}")
        self.losses[name] = loss
        other = self.losses.get("packed", loss)
        if abs(loss - other) > LOSS_TOLERANCE * abs(other):
            raise Failed(f"the loss of the same questions is {other:.4f} packed and {loss:.4f} unpacked")

    def _largest_that_fits(self, choices: list[MicroBatches]) -> tuple[MicroBatches, Estimate]:
        """Return the first choice whose predicted memory the card has, and the prediction for its largest micro-batch."""
        for micro_batches in choices:
            setting = replace(self.setting, accumulation=len(micro_batches))
            setups = [setup_of(setting, batch, self.scale.device) for batch in micro_batches]
            predicted = max((estimate(self.shape, setup) for setup in setups), key=lambda found: found.total)
            if predicted.total <= self.scale.free_memory:
                return micro_batches, predicted
        self.scale.check_memory(predicted.total)
        return micro_batches, predicted

    def _utilization(self, micro_batches: MicroBatches, seconds: float) -> float | None:
        device = torch.cuda.get_device_name() if self.scale.device == "cuda" else "CPU"
        peak = peak_flops(device)
        if peak is None:
            return None
        work = [work_of(batch, self.setting.geometry) for batch in micro_batches]
        method, rank = self.setting.what, self.setting.rank
        return sum(step_flops(self.shape, part, method, rank) for part in work) / seconds / peak


def work_of(batch: dict[str, Any], geometry: Geometry) -> Work:
    """Return the size of a micro-batch of either collator."""
    targets = int((batch["labels"] != IGNORE_INDEX).sum())
    tokens = batch["counts"].tokens
    if "layout" in batch:
        pairs = sum(
            tree.prefix * (tree.prefix + 1) // 2 + sum(n * tree.prefix + n * (n + 1) // 2 for n in tree.branches)
            for tree in batch["layout"]
        )
        return Work(tokens, pairs, targets, len(batch["images"]))
    rows, views = batch["images"].shape[:2]
    lengths = batch["attention_mask"].sum(1) + views * (geometry.view_tokens - 1)  # (B,)
    return Work(tokens, int((lengths * (lengths + 1) // 2).sum()), targets, rows * views)
