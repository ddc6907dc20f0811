"""Attention over packed rows, in which branches share a prefix and do not see each other.

B rows, L places, H heads (query and key alike, unless said), D head width, T trees, N branches of all trees.

One interface, three ways: `split` computes what is seen and nothing else, `dense` is the reference by a float mask of all
pairs, `flex` is flex_attention with a block mask, for CUDA. They are registered with transformers under the names in
`PACKED`; `use_packed_attention` chooses one for a model, and a forward gives every layer a `PackedAttention` as ``packed=``.
Without it they do what ``sdpa`` does.
"""

import functools

import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from senna.errors import UsageError
from senna.model.layout import Layout, check_layout
from senna.model.split_attention import PaddedTrees, pad_trees, split_by_padding
from senna.model.split_attention_cpu import Rectangle, _SplitOnCpu, plan_rectangles

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


for _kind, _name in PACKED.items():
    AttentionInterface.register(_name, functools.partial(packed_attention, _kind))
    AttentionMaskInterface.register(_name, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])  # for batches that are not packed
