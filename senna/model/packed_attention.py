"""Attention over packed rows, in which branches share a prefix and do not see each other.

B rows, L places, H heads (query and key alike, unless said), D head width, T trees, N branches of all trees.

One interface, three ways: `split` computes what is seen and nothing else, `dense` is the reference by a float mask of all
pairs, `flex` is flex_attention with a block mask, for CUDA. They are registered with transformers under the names in
`PACKED`; `use_packed_attention` chooses one for a model, and a forward gives every layer a `PackedAttention` as ``packed=``.
Without it they do what ``sdpa`` does.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from senna.errors import UsageError
from senna.model.layout import Layout, check_layout

PACKED = {"split": "senna_split", "dense": "senna_dense", "flex": "senna_flex"}


class PackedAttention:
    """A batch's layout, and what the chosen way makes of it once for all layers.

    ``dtype`` is that of the embeddings; under autocast the autocast's counts. Raises ValueError for a layout that is not
    one of (rows, length).
    """

    def __init__(self, layout: Layout, kind: str, rows: int, length: int, dtype: torch.dtype, device: torch.device):
        check_layout(layout, rows, length)
        self.layout, self.kind, self.rows, self.length = layout, kind, rows, length
        self.dtype, self.device = _attention_dtype(dtype, torch.device(device)), torch.device(device)

    @property
    def attention_mask(self) -> torch.Tensor:
        """What to give LlamaModel as ``attention_mask``: nothing, but of four dimensions.

        Such a mask is handed on as it is. With None the model would see the positions jump, take branches for packed
        sequences and build a mask of its own.
        """
        return torch.empty(0, 0, 0, 0, device=self.device)

    @functools.cached_property
    def rectangles(self) -> "list[Rectangle]":
        return plan_rectangles(self.layout)

    @functools.cached_property
    def padded(self) -> "PaddedTrees":
        return pad_trees(self.layout, self.rows, self.length, self.dtype, self.device)

    @functools.cached_property
    def dense_mask(self) -> torch.Tensor:
        """(B, 1, L, L) additive float mask; never bool, which some attention backends take for numbers."""
        rows, places = torch.arange(self.rows, device=self.device), torch.arange(self.length, device=self.device)
        seen = self._sees()(rows[:, None, None], 0, places[:, None], places)  # (B, L, L)
        mask = torch.zeros(seen.shape, dtype=self.dtype, device=self.device)
        return mask.masked_fill_(~seen, float("-inf"))[:, None]

    @functools.cached_property
    def block_mask(self):
        return create_block_mask(self._sees(), self.rows, None, self.length, self.length, device=str(self.device))

    def _sees(self):
        """The predicate (row, head, query place, key place) -> bool. Padding sees padding, so that no row is empty."""
        tree = torch.full((self.rows, self.length), -1)
        branch = torch.full((self.rows, self.length), -1)  # 0 is the prefix
        for i, t in enumerate(self.layout):
            tree[t.row, t.start : t.stop] = i
            branch[t.row, t.start : t.start + t.prefix] = 0
            for j, (start, stop) in enumerate(t.branch_spans()):
                branch[t.row, start:stop] = j + 1
        tree, branch = tree.to(self.device), branch.to(self.device)

        def sees(b, h, q, k):
            shared = (branch[b, k] == 0) | (branch[b, k] == branch[b, q])
            return (tree[b, q] == tree[b, k]) & shared & (k <= q)

        return sees


def use_packed_attention(model, kind: str = "auto", device: torch.device | str | None = None) -> None:
    """Set the attention of the model's language part; sub-models, as the vision tower, keep theirs.

    ``kind``: a key of `PACKED`, or "auto": flex on CUDA, split elsewhere. ``device``: where the model will run (default:
    where it is). Raises UsageError for another kind, for flex away from CUDA, and for attention dropout.
    """
    device = torch.device(device or model.device)
    if kind == "auto":
        kind = "flex" if device.type == "cuda" else "split"
    if kind not in PACKED:
        raise UsageError(f"pack_attention is {kind!r}; it can be auto, {', '.join(PACKED)}")
    if kind == "flex" and device.type != "cuda":
        raise UsageError(f"pack_attention flex trains on CUDA only, and this is {device.type}: use split or dense")
    model.config._attn_implementation = {"": PACKED[kind]}  # a plain string would be set in the sub-configs too
    packed_kind(model.config)


def packed_kind(config) -> str:
    """The way that a model of this config attends to packed rows; UsageError where it has none."""
    for kind, name in PACKED.items():
        if config._attn_implementation == name:
            if config.attention_dropout:
                raise UsageError(
                    f"packed rows know no attention dropout; attention_dropout is {config.attention_dropout}"
                )
            return kind
    raise UsageError(
        f"attention {config._attn_implementation!r} cannot keep packed branches apart; "
        "call use_packed_attention(model, 'auto') before giving the model a layout"
    )


def packed_attention(
    kind: str,
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    packed: PackedAttention | None = None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: query (B, H, L, D), key and value (B, H or a divisor of it, L, D) -> (B, L, H, D).

    ``attention_mask`` counts only without ``packed``. The result has value's dtype, under autocast the autocast's.
    """
    if packed is None:
        sdpa = ALL_ATTENTION_FUNCTIONS["sdpa"]
        return sdpa(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs)
    if packed.kind != kind or dropout:
        raise UsageError(
            f"packed rows for {packed.kind!r} attention without dropout came to {kind!r}, dropout {dropout}"
        )
    rows, heads, length, _ = query.shape
    if (rows, length) != (packed.rows, packed.length) or key.shape[2] != length:
        raise ValueError(
            f"a layout of {packed.rows} rows of {packed.length} places, {rows} rows of {length} queries, "
            f"{key.shape[2]} keys; packed rows take no cache"
        )
    key, value = (_repeat_heads(x, heads) for x in (key, value))
    if kind == "split":
        return split(query, key, value, scaling, packed), None
    way = {"dense": dense, "flex": flex}[kind]
    dtype = _attention_dtype(value.dtype, value.device)
    return way(query.to(dtype), key.to(dtype), value.to(dtype), scaling, packed), None


def _attention_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """As autocast treats sdpa, which it does not see in a function of our own."""
    autocast = torch.is_autocast_enabled(device.type) and dtype != torch.float64
    return torch.get_autocast_dtype(device.type) if autocast else dtype


def _repeat_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """(B, fewer, L, D) -> (B, heads, L, D), each head as often as queries share it."""
    groups = heads // x.shape[1]
    return x if groups == 1 else x[:, :, None].expand(-1, -1, groups, -1, -1).flatten(1, 2)


def dense(query, key, value, scale: float | None, packed: PackedAttention) -> torch.Tensor:
    """All pairs, under a mask: the reference. (B, H, L, D) each, of one dtype -> (B, L, H, D)."""
    mask = packed.dense_mask.to(query.dtype)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale).transpose(1, 2)


def flex(query, key, value, scale: float | None, packed: PackedAttention) -> torch.Tensor:
    """Only blocks in which something is seen. (B, H, L, D) each, of one dtype -> (B, L, H, D). On CPU without gradient."""
    on_cpu = query.device.type == "cpu"
    if on_cpu and (query.requires_grad or key.requires_grad or value.requires_grad):
        raise UsageError("flex attention has no gradient on CPU: use split or dense")
    attend = flex_attention if on_cpu else _compiled_flex()
    return attend(query, key, value, block_mask=packed.block_mask, scale=scale).transpose(1, 2)


@functools.cache
def _compiled_flex():
    return torch.compile(flex_attention)  # uncompiled it computes all pairs


def split(query, key, value, scale: float | None, packed: PackedAttention) -> torch.Tensor:
    """What is seen and nothing else, exactly; zero at padding. (B, H, L, D) each -> (B, L, H, D)."""
    dtype = _attention_dtype(value.dtype, value.device)
    if query.device.type == "cpu" and hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu"):
        return _SplitOnCpu.apply(query, key, value, scale, packed.rectangles, dtype)
    return split_by_padding(query.to(dtype), key.to(dtype), value.to(dtype), scale, packed.padded)


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


class PaddedTrees(NamedTuple):
    """Trees and branches as padded batches of flat places (row * L + column); Lp the longest prefix, Lb the longest branch."""

    prefixes: torch.Tensor  # (T, Lp)
    branches: torch.Tensor  # (N, Lb)
    keys: torch.Tensor  # (N, Lp + Lb) a branch's prefix, then itself
    mask: torch.Tensor  # (N, 1, Lb, Lp + Lb) additive
    slots: torch.Tensor  # (B * L,) where in [prefixes, branches, one row of zeros] a place's result stands


def pad_trees(layout: Layout, rows: int, length: int, dtype: torch.dtype, device: torch.device) -> PaddedTrees:
    """Padding points at place 0, and nothing reads what is computed for it."""
    of_prefix, of_branch, tree_of_branch = [], [], []
    for i, tree in enumerate(layout):
        of_prefix.append(torch.arange(tree.start, tree.start + tree.prefix) + tree.row * length)
        of_branch += [torch.arange(*span) + tree.row * length for span in tree.branch_spans()]
        tree_of_branch += [i] * len(tree.branches)
    prefixes = pad_sequence(of_prefix, batch_first=True)
    branches = pad_sequence(of_branch, batch_first=True) if of_branch else torch.zeros(0, 1, dtype=torch.long)
    keys = torch.cat([prefixes[tree_of_branch], branches], dim=1)

    prefix_lengths = torch.tensor([layout[i].prefix for i in tree_of_branch]).view(-1, 1, 1)
    longest, own = prefixes.shape[1], torch.arange(branches.shape[1])
    sees_prefix = (torch.arange(longest) < prefix_lengths).expand(-1, len(own), -1)
    sees_own = (own <= own[:, None]).expand(len(branches), -1, -1)
    mask = torch.zeros(len(branches), 1, len(own), keys.shape[1], dtype=dtype)
    mask.masked_fill_(~torch.cat([sees_prefix, sees_own], dim=2)[:, None], float("-inf"))

    slots = torch.full((rows * length,), prefixes.numel() + branches.numel())
    for places, first, step in ((of_prefix, 0, longest), (of_branch, prefixes.numel(), len(own))):
        for i, flat in enumerate(places):
            slots[flat] = first + i * step + torch.arange(len(flat))
    return PaddedTrees(*(x.to(device) for x in (prefixes, branches, keys, mask, slots)))


def split_by_padding(query, key, value, scale: float | None, padded: PaddedTrees) -> torch.Tensor:
    """`split` by public torch alone, for any device: prefixes as one batch, branches with their prefix's keys as another."""
    rows, heads, length, width = query.shape
    flat_q, flat_k, flat_v = (x.transpose(1, 2).reshape(-1, heads, width) for x in (query, key, value))

    def take(flat: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """(n, m) places -> (n, H, m, D)."""
        return flat.index_select(0, places.flatten()).view(*places.shape, heads, width).transpose(1, 2)

    q, k, v = (take(x, padded.prefixes) for x in (flat_q, flat_k, flat_v))
    results = [F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)]
    if len(padded.branches):
        q, k, v = take(flat_q, padded.branches), take(flat_k, padded.keys), take(flat_v, padded.keys)
        results.append(F.scaled_dot_product_attention(q, k, v, attn_mask=padded.mask.to(q.dtype), scale=scale))
    flat = [x.transpose(1, 2).reshape(-1, heads, width) for x in results]
    zero = query.new_zeros(1, heads, width)
    return torch.cat([*flat, zero]).index_select(0, padded.slots).view(rows, length, heads, width)


for _kind, _name in PACKED.items():
    AttentionInterface.register(_name, functools.partial(packed_attention, _kind))
    AttentionMaskInterface.register(_name, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])  # for batches that are not packed
