"""The parts that predict: plans with a 7B model, and checkpoints that are loaded in several precisions."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from benchmarks.evaluate import DECODED, PLAN_QUESTION, decoding, largest_difference, prepare, scoring
from benchmarks.memory import held_bytes
from benchmarks.models import model_inputs, random_images, random_model
from benchmarks.synthetic import plan_frame, unpack_samples

from prove.attention import TINY as TINY_MODEL
from prove.cases import Cases, Failed, Scale
from prove.training import SEVEN_B, TINY
from senna.data import Collator
from senna.evaluate.score import PlanScorer
from senna.model.loading import open_model
from senna.synthetic.tiny.tokenizer import make_tokenizer
from senna.train.memory.estimate import estimate_generation
from senna.train.memory.model_shape import ModelShape

FRAMES = 4
TOGETHER_TOLERANCE = 0.05  # of a log-probability per token, in bf16
LOGIT_TOLERANCE = {"bf16": 0.02, "int8": 0.2, "nf4": 0.5}
"""Relative L2 distance of the logits from those of the model that was saved, in bf16. Random weights have no outliers, and two
layers of them in nf4 differ by about 0.2."""


def plans(scale: Scale) -> Cases:
    """Score all twenty plans of four frames, and decode greedily, in bf16, or in nf4 if the card has not the memory."""
    geometry = TINY if scale.tiny else SEVEN_B
    shape = ModelShape.from_config(geometry.config())
    prompt = PLAN_QUESTION + 6 * geometry.view_tokens
    needed = {kind: estimate_generation(shape, kind, FRAMES, prompt, DECODED, 6 * FRAMES) for kind in ("bf16", "nf4")}
    kind = "bf16" if needed["bf16"].total <= scale.free_memory else "nf4"
    scale.check_memory(needed[kind].total)
    model = prepare(random_model(geometry, torch.bfloat16, scale.device, "nf4" if kind == "nf4" else ""))
    generator = torch.Generator().manual_seed(0)
    frames = [plan_frame(geometry, random_images(6, geometry, generator), generator) for _ in range(FRAMES)]
    with tempfile.TemporaryDirectory() as folder:
        scorer = PlanScorer(model, make_tokenizer(folder), pack_attention="auto")

    def compare() -> dict[str, Any]:
        found = largest_difference(model, scorer, frames[0], "auto")
        limit = TOGETHER_TOLERANCE * max(map(len, frames[0]["answers"]))
        if not found <= limit:
            raise Failed(f"a log-probability differs by {found:.3f} from separate scoring, more than {limit:.3f}")
        return {"weights": kind, "difference": found, "limit": limit}

    def measure(function: Any) -> dict[str, Any]:
        scale.free()
        first = scale.seconds(lambda: function(None))
        scale.reset_peak()
        seconds = min(scale.seconds(lambda: function(None)) for _ in range(2))
        peak = scale.peak_memory()
        return {"weights": kind, "ms_a_frame": seconds * 1e3 / FRAMES, "first_s": first, "peak_GiB": peak}

    yield "twenty scores together and separately", compare
    yield f"twenty scores, {FRAMES} frames", lambda: measure(scoring(model, scorer, frames, "auto"))
    yield (
        f"greedy decoding, {FRAMES} frames",
        lambda: measure(decoding(model, frames)) | {"doctor_GiB": needed[kind].allocated / 2**30},
    )


def loading(scale: Scale) -> Cases:
    """Load a checkpoint of two layers with the widths of the 7B model (0.9 GB) in bf16, int8 and nf4, and compare logits."""
    geometry = TINY_MODEL if scale.tiny else replace(SEVEN_B, layers=2, vocabulary=8000, tower_layers=2)
    folder = Path(tempfile.mkdtemp())
    generator = torch.Generator().manual_seed(0)
    item = plan_frame(geometry, random_images(6, geometry, generator), generator)
    batch = Collator(0, 2048, geometry.view_tokens)(unpack_samples([item])[:1])
    batch["images"] = batch["images"].to(torch.bfloat16)
    model = random_model(geometry, torch.bfloat16, scale.device).eval()
    model.save_pretrained(folder)
    expected = _logits(model, batch)
    in_bf16 = held_bytes(model)
    del model

    def load(kind: str) -> dict[str, Any]:
        scale.free()
        loaded: list[Any] = []

        def open_checkpoint() -> None:
            options = {
                "quantization": None if kind == "bf16" else kind,
                "dtype": torch.bfloat16,
                "device": scale.device,
            }
            loaded.append(open_model(folder, **options)[0].eval())

        seconds = scale.seconds(open_checkpoint)
        [model] = loaded
        if kind != "bf16":
            classes = {"nf4": "Linear4bit", "int8": "Linear8bitLt"}
            found = sum(type(module).__name__ == classes[kind] for module in model.modules())
            if found != 7 * geometry.layers:
                raise Failed(f"{found} linear layers are quantized, not {7 * geometry.layers}")
        devices = {parameter.device.type for parameter in model.parameters()}
        if devices != {scale.device}:
            raise Failed(f"there are weights on {', '.join(sorted(devices))}")
        distance = float((_logits(model, batch) - expected).norm() / expected.norm())
        if not distance <= LOGIT_TOLERANCE[kind]:
            raise Failed(f"the logits differ by {distance:.2g}, more than {LOGIT_TOLERANCE[kind]}")
        return {
            "load_s": seconds,
            "weights_MiB": held_bytes(model) / 2**20,
            "of_bf16": held_bytes(model) / in_bf16,
            "logits_differ": distance,
            "limit": LOGIT_TOLERANCE[kind],
        }

    for kind in LOGIT_TOLERANCE:
        yield kind, lambda kind=kind: load(kind)


@torch.inference_mode()
def _logits(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Return the logits at the targets in fp32."""
    inputs = model_inputs(batch, model.device)
    labels = inputs.pop("labels")
    logits = model(**inputs).logits  # (1, L, vocabulary)
    return logits[0, -int((labels >= 0).sum()) - 1 :].float()
