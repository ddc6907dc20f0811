"""`senna merge`: a LoRA folder and its base become one plain model folder, which is checked before it has its name."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from senna.errors import SennaError, UsageError
from senna.files import SAVING, check_free_space, publish_files, writing
from senna.flags import flag, parse_flags
from senna.model.config import IMAGE_TOKEN_INDEX
from senna.model.loading import open_model, quiet_transformers
from senna.model.lora import read_lora
from senna.model.senna_llava_llama import SennaLlavaLlamaForCausalLM
from senna.model.source import is_lora, load_image_processor, tokenizer_source
from senna.model.tokenizer import load_tokenizer

TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.25}
"""How far a logit may move, as a share of the logits' spread (their standard deviation), by rounding to each precision."""


@dataclass
class MergeArguments:
    """Flags of `senna merge`."""

    adapter: str = flag("the LoRA folder (or hub name): of this project, or in LLaVA's form")
    out: str = flag("the folder to write; new or empty")
    base: str | None = flag("the model it was trained on, where that has moved", None)


def main(argv: list[str]) -> int:
    """Entry point of `senna merge`."""
    args = parse_flags(
        MergeArguments,
        argv,
        "senna merge",
        "Merge a LoRA folder into its base and write a plain model folder, which load_model, the next stage and other tools "
        "open. Merged and unmerged model answer a probe; the folder gets its name only when their logits agree.",
    )
    print(merge(args))
    return 0


def probe(model: SennaLlavaLlamaForCausalLM) -> torch.Tensor:
    """Logits (T, vocabulary) in fp32 of a fixed made-up prompt with two views."""
    side, random = model.config.vision_config.image_size, torch.Generator().manual_seed(0)
    images = torch.randn(1, 2, 3, side, side, generator=random)
    words = torch.randint(3, model.config.vocab_size, (1, 24), generator=random)
    views = torch.full((1, 1), IMAGE_TOKEN_INDEX)
    ids = torch.cat([words[:, :8], views, words[:, 8:16], views, words[:, 16:]], dim=1)
    with torch.no_grad():
        return model.eval()(ids, images=images.to(model.dtype)).logits[0].float()


def merge(args: MergeArguments) -> str:
    """Do it; returns what to tell. Raises UsageError for wrong folders, SennaError where the logits do not agree."""
    out = Path(args.out)
    if not is_lora(args.adapter):
        raise UsageError(f"--adapter {args.adapter}: not a LoRA folder (there is no adapter_config.json)")
    if out.exists() and (not out.is_dir() or any(path.name != SAVING for path in out.iterdir())):
        raise UsageError(f"--out {out}: exists already; name a new folder")
    folder = read_lora(args.adapter, args.base)
    print(
        f"base     {folder.base}{f', in {folder.base_quantization} as in training' if folder.base_quantization else ''}"
    )
    unmerged, _ = open_model(args.adapter, quantization=folder.base_quantization, base=args.base, merge=False)
    before = probe(unmerged)
    del unmerged
    merged, new = open_model(args.adapter, base=args.base)
    if new:
        raise UsageError(f"--adapter {args.adapter}: neither it nor its base holds {' and '.join(new)}")
    check_free_space(out, sum(p.numel() * p.element_size() for p in merged.parameters()))
    try:
        difference = _write(
            merged, args, out / SAVING, before, torch.bfloat16 if folder.base_quantization else merged.dtype
        )
        with writing(out):
            publish_files(out / SAVING, out)
    finally:
        shutil.rmtree(out / SAVING, ignore_errors=True)
        if out.is_dir() and not any(out.iterdir()):
            out.rmdir()
    return f"logits   {difference}\nmodel    {out} (load_model opens it, and MODEL_PATH={out} goes on from it)"


def _write(
    merged: SennaLlavaLlamaForCausalLM, args: MergeArguments, staging: Path, before: torch.Tensor, dtype: torch.dtype
) -> str:
    """Write everything into ``staging``, open it again and compare its logits with those ``before`` the merge."""
    tokenizer = load_tokenizer(tokenizer_source(args.adapter, args.base), merged.config.tokenizer_model_max_length)
    staging.mkdir(parents=True, exist_ok=True)
    with writing(staging.parent), quiet_transformers():
        merged.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
        load_image_processor(args.adapter, merged.config, args.base).save_pretrained(staging)
    return compare(before, probe(open_model(str(staging))[0]), dtype)


def compare(before: torch.Tensor, after: torch.Tensor, dtype: torch.dtype) -> str:
    """How far logits moved, in words; SennaError where that is more than rounding to ``dtype`` explains."""
    largest, spread = float((after - before).abs().max()), float(before.std())
    share = largest / max(spread, 1e-12)
    same = float((before.argmax(-1) == after.argmax(-1)).float().mean())
    text = f"merged and unmerged differ by at most {largest:.2g} (spread {spread:.2g}), likeliest tokens agree to {same:.0%}"
    if not share <= TOLERANCE[dtype]:
        raise SennaError(f"{text}: more than rounding to {dtype} explains; the folder was not written")
    return text
