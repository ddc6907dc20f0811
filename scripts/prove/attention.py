"""The part that compares the gradients of packed attention with those of separate questions."""

from dataclasses import replace
from typing import Any

from benchmarks.memory import WIDTHS_7B, Setting, model_of
from benchmarks.models import Geometry, set_attention
from benchmarks.packing import accumulate, driving_methods, gradients, largest_difference

from prove.cases import Cases, Failed, Scale, Skipped

FP32_TOLERANCE = 1e-3
"""Of the relative L2 distance of a parameter's gradient; on a CPU it is about 1e-5 (`benchmark.py packing`)."""

BF16_RATIO = 2.0
"""Largest distance in bf16 from the gradient in fp32, relative to that of separate questions in bf16."""

# Two layers with the widths of the 7B model; the vocabulary and the tower, which attention does not touch, are small.
GEOMETRY = replace(WIDTHS_7B, layers=2, vocabulary=2000, tower_hidden=128, tower_layers=2, tower_heads=2)
TINY = Geometry(64, 1, 4, 128, 320, 32, 2, 2, 28, 14, 4)


def attention(scale: Scale) -> Cases:
    """Compare flex, split and dense attention of a packed frame with its 13 questions in batches, in fp32 and bf16."""
    geometry = TINY if scale.tiny else GEOMETRY
    model = model_of(Setting("full", geometry, "full", "fp32"), scale.device)
    methods = driving_methods(geometry)
    unpacked, packed = methods["unpacked"], methods["packed (split)"]
    reference = gradients(model, unpacked)
    in_bf16 = largest_difference(gradients(model, unpacked, "bf16"), reference)

    def compare(kind: str, precision: str) -> dict[str, Any]:
        if kind == "flex" and scale.device != "cuda":
            raise Skipped("needs CUDA")
        scale.free()
        method = replace(packed, attention=kind)
        set_attention(model, kind)
        try:
            first = scale.seconds(lambda: accumulate(model, method, precision))
        except Exception as error:
            if kind != "flex" or precision != "fp32":
                raise
            # Its kernel for 128 fp32 channels needs more shared memory than cards below the A100 have. Runs are in bf16.
            raise Skipped(f"flex does not compile for fp32 on this card ({type(error).__name__})") from error
        found = largest_difference(gradients(model, method, precision), reference)
        limit = FP32_TOLERANCE if precision == "fp32" else BF16_RATIO * in_bf16
        if not found <= limit:
            raise Failed(f"a gradient differs by {found:.1e} from that of separate questions, more than {limit:.1e}")
        second = scale.seconds(lambda: accumulate(model, method, precision))
        return {"difference": found, "limit": limit, "ms": second * 1e3, "first_s": first}

    for precision in ("fp32", "bf16"):
        for kind in ("dense", "split", "flex"):
            yield f"{kind}, {precision}", lambda kind=kind, precision=precision: compare(kind, precision)
