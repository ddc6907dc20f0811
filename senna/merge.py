"""Merge a LoRA folder into its base, and verify the result before the output folder gets its name: `senna merge`."""

from pathlib import Path

import torch

from senna.data.serving import prepare_for_serving
from senna.errors import SennaError, UsageError
from senna.files import check_free_space, publish_files, writing
from senna.model.config import IMAGE_TOKEN_INDEX
from senna.model.loading import open_model, quiet_transformers
from senna.model.lora import read_lora
from senna.model.senna_llava_llama import SennaLlavaLlamaForCausalLM
from senna.model.source import (
    ADAPTER_CONFIG,
    ModelSource,
    describe_checkpoint,
    export_command,
    training_checkpoint,
)
from senna.model.tokenizer import load_tokenizer
from senna.run_folder import new_folder

TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.25}
"""Largest change of a logit that rounding to each precision explains, as a share of the logits' standard deviation."""


@torch.no_grad()
def probe(model: SennaLlavaLlamaForCausalLM) -> torch.Tensor:
    """Return the logits (T, vocabulary) in fp32 of a fixed random prompt with two views."""
    side, random = model.config.image_side, torch.Generator().manual_seed(0)
    images = torch.randint(256, (1, 2, 3, side, side), generator=random, dtype=torch.uint8)  # (B, V, 3, H, W)
    words = torch.randint(3, model.config.vocab_size, (1, 24), generator=random)
    views = torch.full((1, 1), IMAGE_TOKEN_INDEX)
    ids = torch.cat([words[:, :8], views, words[:, 8:16], views, words[:, 16:]], dim=1)  # (B, T)
    return model.eval()(ids, images=images).logits[0].float()


def merge(adapter: str, out: str | Path, base: str | None = None, serve: bool = False) -> str:
    """Merge a LoRA folder into its base, verify the logits, and return the summary to print.

    Args:
        adapter: the LoRA folder or its name on the hub. base: the base model, if it has moved.
        serve: also write what other servers need (`senna.data.serving`).

    Raises:
        UsageError: a folder cannot be used.
        SennaError: the logits do not agree, or the folder cannot be written.
    """
    out = Path(out)
    source = ModelSource.resolve(adapter, base)
    if source.base is None:
        if checkpoint := training_checkpoint(Path(adapter)):
            raise UsageError(
                f"--adapter {adapter}: {describe_checkpoint(Path(adapter), checkpoint)}",
                remedy=export_command(checkpoint),
            )
        _ = source.kind  # raises UsageError where there is no such folder
        raise UsageError(
            f"--adapter {adapter}: not a LoRA folder (it has no {ADAPTER_CONFIG})", remedy="give a LoRA folder"
        )
    with new_folder(out) as staging:
        summary = _merge(source, out, staging, serve)
    return f"logits   {summary}\nmodel    {out} (load_model opens it, and MODEL_PATH={out} goes on from it)"


def _merge(source: ModelSource, out: Path, staging: Path, serve: bool) -> str:
    """Merge, write ``staging``, verify it and move it to ``out``. Return what the comparison of the logits shows."""
    assert source.base is not None
    quantization = read_lora(source.path, source.base).base_quantization
    print(f"base     {source.base}{f', in {quantization} as in training' if quantization else ''}")
    unmerged, _ = open_model(source, quantization=quantization, merge=False)
    before = probe(unmerged)
    del unmerged
    merged, new = open_model(source)
    if new:
        raise UsageError(
            f"--adapter {source.path}: neither it nor its base holds {' and '.join(new)}",
            remedy="give the base that it was trained on (--base)",
        )
    check_free_space(out, sum(p.numel() * p.element_size() for p in merged.parameters()))
    precision = torch.bfloat16 if quantization else merged.dtype
    summary = _write(merged, source, staging, before, precision, serve)
    with writing(out):
        publish_files(staging, out)
    return summary


def _write(
    merged: SennaLlavaLlamaForCausalLM, source: ModelSource, staging: Path, before: torch.Tensor, dtype: torch.dtype,
    serve: bool,
) -> str:  # fmt: skip
    """Write the folder to ``staging``, open it again, and compare its logits with those ``before`` the merge."""
    tokenizer = load_tokenizer(source.tokenizer, merged.config.tokenizer_model_max_length)
    if serve:
        prepare_for_serving(tokenizer)
    staging.mkdir(parents=True, exist_ok=True)
    with writing(staging.parent), quiet_transformers():
        merged.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
        source.load_image_processor().save_pretrained(staging)
    return compare(before, probe(open_model(staging)[0]), dtype)


def compare(before: torch.Tensor, after: torch.Tensor, dtype: torch.dtype) -> str:
    """Describe the difference of (T, vocabulary) logits.

    Raises SennaError if it is larger than rounding to ``dtype`` explains, or not finite.
    """
    largest, spread = float((after - before).abs().max()), float(before.std())
    share = largest / max(spread, 1e-12)
    agreement = float((before.argmax(-1) == after.argmax(-1)).float().mean())
    text = (
        f"merged and unmerged differ by at most {largest:.2g} (spread {spread:.2g}), likeliest tokens agree to "
        f"{agreement:.0%}"
    )
    if not share <= TOLERANCE[dtype]:  # also refuses nan
        raise SennaError(
            f"{text}: more than rounding to {dtype} explains; the folder was not written",
            remedy="check that the base is the one that the LoRA was trained on",
        )
    return text
