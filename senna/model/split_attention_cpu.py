"""Split attention of packed rows on a CPU, with torch's private flash attention kernel.

The kernel returns log-sum-exps with its results, so that the results of one query over several groups of keys can be combined.

Shapes: B rows, L tokens per row, H heads, D head width, q queries and k keys of a rectangle, S short branches of at most l
tokens.
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


class ShortBranches(NamedTuple):
    """Branches of few tokens, such as the answers to a question, which one kernel call computes together.

    Attributes:
        rows, columns: (S, l) where their tokens stand; the last token again at the end of those that are shorter.
        is_token: (S, l) False for these repetitions. In causal order no token sees them.
        tokens: flat indices of (S, l) without these repetitions.
    """

    rows: torch.Tensor
    columns: torch.Tensor
    is_token: torch.Tensor
    tokens: torch.Tensor

    def take(self, x: torch.Tensor) -> torch.Tensor:
        """Gather the branches. (B, H, L, D) -> (S, H, l, D)."""
        return x[self.rows, :, self.columns].transpose(1, 2)

    def put(self, x: torch.Tensor, values: torch.Tensor) -> None:
        """Set the tokens of ``x`` (B, H, L, ...) to ``values`` (S, H, l, ...)."""
        rows, columns = self.rows.flatten()[self.tokens], self.columns.flatten()[self.tokens]
        x[rows, :, columns] = values.transpose(1, 2).flatten(0, 1)[self.tokens]


class VisibleParts(NamedTuple):
    """Parts of the (query, key) planes that cover each visible pair once.

    Attributes:
        short: the branches with at most `MOST_SHORT` tokens, without the pieces that they continue; None if there are none.
        rectangles: the rest, causal ones first. Together with ``short`` these contain each token as a query exactly once.
    """

    short: ShortBranches | None
    rectangles: list[Rectangle]


MOST_SHORT = 32  # tokens of a short branch


def visible_parts(layout: Layout) -> VisibleParts:
    """Return the parts of a packed batch."""
    rectangles, short = [], []
    for tree in layout:
        row = slice(tree.row, tree.row + 1)
        for number, (start, stop, end) in enumerate(tree.pieces()):
            if number and stop - start <= MOST_SHORT:
                short.append((tree.row, start, stop))
            else:
                rectangles += _causal_rectangles(row, start, stop)
            if end > stop:
                rectangles.append(Rectangle(row, slice(stop, end), slice(start, stop), False))
    rectangles.sort(key=lambda rectangle: not rectangle.causal)
    return VisibleParts(_short_branches(short) if short else None, rectangles)


def _short_branches(spans: list[tuple[int, int, int]]) -> ShortBranches:
    longest = max(stop - start for _, start, stop in spans)
    tokens = [i * longest + j for i, (_, start, stop) in enumerate(spans) for j in range(stop - start)]
    rows, starts, stops = (torch.tensor(values)[:, None] for values in zip(*spans, strict=True))  # (S, 1) each
    columns = starts + torch.arange(longest)  # (S, l)
    kept = torch.tensor(tokens)
    return ShortBranches(rows.expand_as(columns), torch.minimum(columns, stops - 1), columns < stops, kept)


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
        parts: VisibleParts, dtype: torch.dtype,
    ) -> torch.Tensor:  # fmt: skip
        """(B, H, L, D) each -> (B, L, H, D) in ``dtype``."""
        wide = torch.promote_types(dtype, torch.float32)
        q, k, v = (_prepare(x, wide) for x in (query, key, value))
        rows, heads, length, width = q.shape
        out = q.new_zeros(rows, length, heads, width).transpose(1, 2)  # (B, H, L, D), stored as (B, L, H, D)
        lse = q.new_zeros(rows, length, heads).transpose(1, 2)  # (B, H, L)
        if short := parts.short:
            part, part_lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                *(short.take(x) for x in (q, k, v)), 0.0, True, scale=scale
            )  # (S, H, l, D), (S, H, l)
            short.put(out, part)
            short.put(lse, part_lse)
        for row, queries, keys, causal in parts.rectangles:
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
        ctx.scale, ctx.parts = scale, parts
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
        # A part's weights are exp(scores - lse), and its row sums are grad * out, with lse and out of all keys. Given these
        # instead of its own, the kernel returns the part's exact share of the gradients.
        if short := ctx.parts.short:
            is_token = short.is_token[:, None, :, None]  # repeated queries have no gradient
            shares = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                short.take(grad) * is_token, *(short.take(x) for x in (q, k, v, out)),
                short.take(lse[..., None])[..., 0], 0.0, True, scale=ctx.scale,
            )  # fmt: skip
            for sum_, share in zip(grads, shares, strict=True):
                short.put(sum_, share)
        for row, queries, keys, causal in ctx.parts.rectangles:
            with _fast_matmuls(dtype != wide, queries):
                shares = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                    grad[row, :, queries], q[row, :, queries], k[row, :, keys], v[row, :, keys],
                    out[row, :, queries], lse[row, :, queries], 0.0, causal, scale=ctx.scale,
                )  # fmt: skip
            for sum_, share, columns in zip(grads, shares, (queries, keys, keys), strict=True):
                sum_[row, :, columns].add_(share)
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
