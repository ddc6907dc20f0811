"""Split attention of packed rows on a CPU, with torch's private flash attention kernel.

The kernel returns log-sum-exps with its results, so that the results of one query over several groups of keys can be combined.

Shapes: B rows, L tokens per row, H heads, D head width, q queries and k keys of a rectangle.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from senna.model.layout import Layout


class Rectangle(NamedTuple):
    """A part of one row's (query, key) plane that one kernel call computes; only its lower triangle if ``causal``."""

    row: slice
    queries: slice
    keys: slice
    causal: bool


def visible_rectangles(layout: Layout) -> list[Rectangle]:
    """Return rectangles that cover each visible (query, key) pair once.

    Causal rectangles come first. Together they contain each token as a query exactly once.
    """
    rectangles = []
    for tree in layout:
        row, prefix_stop = slice(tree.row, tree.row + 1), tree.start + tree.prefix
        spans = tree.branch_spans()
        for span in [(tree.start, prefix_stop), *spans]:
            rectangles += _causal_rectangles(row, *span)
        if spans:
            rectangles.append(Rectangle(row, slice(prefix_stop, tree.stop), slice(tree.start, prefix_stop), False))
    return sorted(rectangles, key=lambda rectangle: not rectangle.causal)


def _causal_rectangles(row: slice, start: int, stop: int) -> list[Rectangle]:
    """Return one causal rectangle, or, if that is faster, two and the part of the first that the second half sees.

    The kernel computes blocks of 512 keys and then masks the upper triangle, so a short causal square costs the full square.
    From 768 queries on, its blocks are larger, and splitting is slower.
    """
    length = stop - start
    if length < 128 or length >= 768:
        return [Rectangle(row, slice(start, stop), slice(start, stop), True)]
    middle = start + length // 128 * 64  # the first half has complete blocks of 64 queries
    halves = _causal_rectangles(row, start, middle) + _causal_rectangles(row, middle, stop)
    return [*halves, Rectangle(row, slice(middle, stop), slice(start, middle), False)]


class SplitOnCpu(torch.autograd.Function):
    """Attention computed rectangle by rectangle.

    bf16 and fp16 are computed in fp32: the 16-bit kernel is not faster, and rounds the sums between blocks.
    """

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None,
        rectangles: list[Rectangle], dtype: torch.dtype,
    ) -> torch.Tensor:  # fmt: skip
        """(B, H, L, D) each -> (B, L, H, D) in ``dtype``."""
        wide = torch.promote_types(dtype, torch.float32)
        q, k, v = (_prepare(x, wide) for x in (query, key, value))
        rows, heads, length, width = q.shape
        out = q.new_zeros(rows, length, heads, width).transpose(1, 2)  # (B, H, L, D), stored as (B, L, H, D)
        lse = q.new_zeros(rows, length, heads).transpose(1, 2)  # (B, H, L)
        for row, queries, keys, causal in rectangles:
            with _fast_matmuls(dtype != wide, queries):
                part, part_lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                    q[row, :, queries], k[row, :, keys], v[row, :, keys], 0.0, causal, scale=scale
                )  # (1, H, q, D), (1, H, q)
            sum_, sum_lse = out[row, :, queries], lse[row, :, queries]
            if causal:
                sum_.copy_(part)
                sum_lse.copy_(part_lse)
            else:
                sum_.lerp_(part, torch.sigmoid(part_lse - sum_lse)[..., None])
                torch.logaddexp(sum_lse, part_lse, out=sum_lse)
        out = out.transpose(1, 2).to(dtype)  # (B, L, H, D)
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.scale, ctx.rectangles = scale, rectangles
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor):
        """Return the (B, H, L, D) gradients of query, key and value from the (B, L, H, D) gradient of the result."""
        *inputs, out, lse = ctx.saved_tensors
        dtype, wide = out.dtype, lse.dtype
        q, k, v = (_prepare(x, wide) for x in inputs)
        out, grad = out.transpose(1, 2).to(wide), grad.transpose(1, 2).to(wide)  # (B, H, L, D) each
        rows, heads, length, width = q.shape
        grads = [q.new_zeros(rows, length, heads, width).transpose(1, 2) for _ in range(3)]  # (B, H, L, D) each
        for row, queries, keys, causal in ctx.rectangles:
            # A rectangle's weights are exp(scores - lse), and its row sums are grad * out, with lse and out of all keys.
            # Given these instead of its own, the kernel returns the rectangle's exact share of the gradients.
            with _fast_matmuls(dtype != wide, queries):
                parts = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                    grad[row, :, queries], q[row, :, queries], k[row, :, keys], v[row, :, keys],
                    out[row, :, queries], lse[row, :, queries], 0.0, causal, scale=ctx.scale,
                )  # fmt: skip
            for sum_, part, columns in zip(grads, parts, (queries, keys, keys), strict=True):
                sum_[row, :, columns].add_(part)
        return *(g.to(x.dtype) for g, x in zip(grads, inputs, strict=True)), None, None, None


def _prepare(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Cast, and copy if the last stride is not 1: the kernel assumes that it is, without a check."""
    x = x.to(dtype)
    return x if x.stride(-1) == 1 else x.contiguous()


@contextmanager
def _fast_matmuls(is_rounded: bool, queries: slice) -> Iterator[None]:
    """Let fp32 products run in oneDNN with bf16 factors, if the result will be rounded to 16 bits anyway.

    Unlike MKL, oneDNN uses the widest vectors and the matrix units of processors of any maker. For blocks of few queries its
    overhead is greater than the gain.
    """
    settings: Any = getattr(torch.backends.mkldnn, "matmul", None)  # torch >= 2.9
    if not is_rounded or queries.stop - queries.start < 256 or not hasattr(settings, "fp32_precision"):
        yield
        return
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before
