"""Checks of a model before a server starts."""

import shlex
from pathlib import Path

from senna.errors import UsageError
from senna.serve.environment import Vllm

CPU_HEAD_DIMS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""The head widths that vLLM's attention supports on a CPU."""


def check_model(path: str, vllm: Vllm) -> None:
    """Raise UsageError for a model that vLLM cannot serve."""
    # Imported here, because it imports transformers, and `senna serve --help` must not wait for that.
    from senna.model.source import ModelSource, describe_checkpoint, export_command, training_checkpoint

    source = ModelSource.resolve(path)
    if source.is_lora:
        out = shlex.quote(f"{path.rstrip('/')}-merged")
        raise UsageError(
            f"model {path}: a LoRA folder cannot be served",
            remedy=f"merge it into its base first: senna merge --adapter {shlex.quote(path)} --out {out}",
        )
    folder = Path(path)
    if folder.is_dir() and not (folder / "config.json").is_file() and (checkpoint := training_checkpoint(folder)):
        raise UsageError(f"model {path}: {describe_checkpoint(folder, checkpoint)}", remedy=export_command(checkpoint))
    if source.kind != "senna":
        raise UsageError(
            f"model {path}: it is no Senna, but {'a language model' if source.kind == 'llama' else 'another LLaVA'}",
            remedy="serve a model that `senna train` has written; vLLM serves other models itself: vllm serve",
        )
    config = source.config
    heads: int = config.num_attention_heads or 1
    head_dim = config.head_dim or (config.hidden_size or 0) // heads
    if vllm.is_cpu and head_dim not in CPU_HEAD_DIMS:
        raise UsageError(
            f"model {path}: its head_dim is {head_dim}, and {vllm.package} on a CPU supports "
            f"{', '.join(map(str, CPU_HEAD_DIMS))}",
            remedy="serve it on a GPU, or use senna demo",
        )
