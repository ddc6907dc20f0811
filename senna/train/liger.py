"""Liger's fused Triton kernels for the LLM's norms, rotary embedding and MLP, and a trial of them."""

import functools
import importlib.util
import logging

import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from senna.errors import first_line
from senna.model.senna_llava_llama import SennaLlavaLlamaForCausalLM

logger = logging.getLogger(__name__)


def use_liger_kernels(model: SennaLlavaLlamaForCausalLM) -> None:
    """Replace the LLM's norms, rotary embedding and MLP by Liger's fused kernels.

    The loss stays Senna's own, which computes logits of targets only. transformers' own switch selects kernels by model type
    and does not know this model.
    """
    from liger_kernel.transformers import apply_liger_kernel_to_llama  # type: ignore[import-not-found]

    apply_liger_kernel_to_llama(cross_entropy=False, fused_linear_cross_entropy=False, model=model)


@functools.cache
def liger_problem(device: str = "cuda") -> str | None:
    """Return the reason why Liger's kernels do not work on a device, found by a small trial; None if they work.

    The trial calls the kernels themselves. Applying them to a model would also change transformers' modules, for good.
    """
    if importlib.util.find_spec("liger_kernel") is None:
        return "liger-kernel is not installed"
    try:
        from liger_kernel.transformers import LigerRMSNorm, LigerSwiGLUMLP, liger_rotary_pos_emb  # type: ignore[import-not-found]

        config = LlamaConfig(hidden_size=64, intermediate_size=128, num_attention_heads=2, num_key_value_heads=2)
        norm, mlp = LigerRMSNorm(64).to(device), LigerSwiGLUMLP(config).to(device)
        hidden = torch.randn(1, 16, 64, device=device, requires_grad=True)  # (1, L, 64)
        heads = norm(hidden).view(1, 16, 2, 32).transpose(1, 2)  # (1, 2, L, 32)
        cos, sin = LlamaRotaryEmbedding(config).to(device)(heads, torch.arange(16, device=device)[None])
        query, key = liger_rotary_pos_emb(heads, heads, cos, sin)
        loss = (mlp(norm(hidden)).sum() + (query * key).sum()).square()
        [gradient] = torch.autograd.grad(loss, [hidden])
        if not gradient.isfinite().all() or not gradient.any():
            return "a gradient is not finite"
    except Exception as error:  # compilers raise many kinds: no C compiler, no Python.h, an old GPU
        return f"{type(error).__name__}: {first_line(error)}"
    return None


def wants_liger(requested: bool | None, device: torch.device) -> bool:
    """Return whether a run uses Liger's kernels: as requested, by default on CUDA if a trial works there."""
    if requested is not None or device.type != "cuda":
        return bool(requested)
    problem = liger_problem(str(device))
    if problem:
        logger.warning(
            "Liger's kernels are off (%s); training is slower without them. --use_liger_kernel False omits this line",
            problem,
        )
    return problem is None
