"""Split attention on a CPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from senna.model.layout import Layout


class Rectangle(NamedTuple):
    """A part of the (query, key) plane in one row that one call computes, the lower triangle of it where causal."""

    row: slice
    queries: slice
    keys: slice
    causal: bool


def plan_rectangles(layout: Layout) -> list[Rectangle]:
    """What the layout sees, each pair once. Causal ones come first: in these each token is a query exactly once."""
    found = []
    for tree in layout:
        row, stop = slice(tree.row, tree.row + 1), tree.start + tree.prefix
        spans = tree.branch_spans()
        for span in [(tree.start, stop), *spans]:
            found += _causal_rectangles(row, *span)
        if spans:
            found.append(Rectangle(row, slice(stop, tree.stop), slice(tree.start, stop), False))
    return sorted(found, key=lambda rectangle: not rectangle.causal)


def _causal_rectangles(row: slice, start: int, stop: int) -> list[Rectangle]:
    """One causal rectangle, or where that is quicker two and what the second half sees of the first.

    The CPU kernel computes blocks of 512 keys and then blanks what lies above the diagonal, so a causal square of fewer
    tokens costs the whole square. From 768 queries on its blocks are larger and quicker than a cut would make them.
    """
    length = stop - start
    if length < 128 or length >= 768:
        return [Rectangle(row, slice(start, stop), slice(start, stop), True)]
    middle = start + length // 128 * 64  # whole blocks of 64 queries in the first half
    halves = _causal_rectangles(row, start, middle) + _causal_rectangles(row, middle, stop)
    return [*halves, Rectangle(row, slice(middle, stop), slice(start, middle), False)]


class _SplitOnCpu(torch.autograd.Function):
    """Rectangle by rectangle, by the kernel that also gives log-sum-exps, by which the parts of a query combine.

    bf16 and fp16 are computed in fp32: the 16-bit kernel is no quicker than that, and rounds the sums between blocks.
    """

    @staticmethod
    def forward(ctx, query, key, value, scale, rectangles: list[Rectangle], dtype: torch.dtype):
        wide = torch.promote_types(dtype, torch.float32)
        q, k, v = (_for_kernel(x, wide) for x in (query, key, value))
        rows, heads, length, width = q.shape
        out = q.new_zeros(rows, length, heads, width).transpose(1, 2)  # lies in memory as it is given back
        lse = q.new_zeros(rows, length, heads).transpose(1, 2)  # (B, H, L)
        for row, queries, keys, causal in rectangles:
            with _quick_matmuls(dtype != wide, queries):
                part, part_lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                    q[row, :, queries], k[row, :, keys], v[row, :, keys], 0.0, causal, scale=scale
                )
            sum_, sum_lse = out[row, :, queries], lse[row, :, queries]
            if causal:
                sum_.copy_(part)
                sum_lse.copy_(part_lse)
            else:
                sum_.lerp_(part, torch.sigmoid(part_lse - sum_lse)[..., None])
                torch.logaddexp(sum_lse, part_lse, out=sum_lse)
        out = out.transpose(1, 2).to(dtype)
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.scale, ctx.rectangles = scale, rectangles
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: torch.Tensor):
        *inputs, out, lse = ctx.saved_tensors
        dtype, wide = out.dtype, lse.dtype
        q, k, v = (_for_kernel(x, wide) for x in inputs)
        out, grad = out.transpose(1, 2).to(wide), grad.transpose(1, 2).to(wide)
        rows, heads, length, width = q.shape
        grads = [q.new_zeros(rows, length, heads, width).transpose(1, 2) for _ in range(3)]
        for row, queries, keys, causal in ctx.rectangles:
            # A part's weights are exp(scores - lse) and its row sums grad * out, both of the whole row: given those of
            # the whole row in place of its own, the kernel returns the part's exact share of the gradients.
            with _quick_matmuls(dtype != wide, queries):
                parts = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                    grad[row, :, queries], q[row, :, queries], k[row, :, keys], v[row, :, keys],
                    out[row, :, queries], lse[row, :, queries], 0.0, causal, scale=ctx.scale,
                )  # fmt: skip
            for sum_, part, places in zip(grads, parts, (queries, keys, keys), strict=True):
                sum_[row, :, places].add_(part)
        return *(g.to(x.dtype) for g, x in zip(grads, inputs, strict=True)), None, None, None


def _for_kernel(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The kernel reads any strides but takes the last one for 1, unchecked. A copy only where that is not so."""
    x = x.to(dtype)
    return x if x.stride(-1) == 1 else x.contiguous()


@contextmanager
def _quick_matmuls(allowed: bool, queries: slice) -> Iterator[None]:
    """Where the result will be rounded to 16 bits: fp32 products by oneDNN, which may round their factors to bf16.

    oneDNN uses the widest vectors and the matrix units of any maker's processor, MKL does not; for blocks of few queries
    its overhead is greater than that.
    """
    products = getattr(torch.backends.mkldnn, "matmul", None)  # torch >= 2.9
    if not allowed or queries.stop - queries.start < 256 or not hasattr(products, "fp32_precision"):
        yield
        return
    before = products.fp32_precision
    products.fp32_precision = "bf16"
    try:
        yield
    finally:
        products.fp32_precision = before
