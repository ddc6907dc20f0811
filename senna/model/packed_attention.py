"""Attention over packed rows, in which branches share a prefix and do not see each other.

Three implementations with one interface: `dense`, the reference, uses a float mask over all pairs; `flex` is flex_attention
with a block mask, for CUDA; `split` computes the visible pairs only and runs on any device. They are registered with
transformers under the names in `PACKED`. `use_packed_attention` selects one for a model; a forward pass then gives every
layer a `PackedAttention` as ``packed=``. Without it, all three do what ``sdpa`` does.

Shapes: B rows, L tokens per row, H query heads, G key and value heads (G divides H), D head width.
"""

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from senna.errors import UsageError, first_line
from senna.model.layout import Layout, Tree, check_layout
from senna.model.split_attention import PaddedTrees, pad_trees, split_by_padding
from senna.model.split_attention_cpu import SplitOnCpu, VisibleParts, visible_parts

logger = logging.getLogger(__name__)

PACKED = {"split": "senna_split", "dense": "senna_dense", "flex": "senna_flex"}


class PackedAttention:
    """The layout of a batch, and the masks or indices that an implementation derives from it once for all layers.

    Args:
        kind: a key of `PACKED`.
        rows, length: B and L.
        dtype: precision of the embeddings; under autocast, autocast's precision is used instead.

    Raises:
        ValueError: the layout does not fit ``rows`` rows of ``length`` tokens.
    """

    def __init__(
        self, layout: Layout, kind: str, rows: int, length: int, dtype: torch.dtype, device: torch.device | str
    ):
        check_layout(layout, rows, length)
        self.layout, self.kind, self.rows, self.length = layout, kind, rows, length
        self.device = torch.device(device)
        self.dtype = _attention_dtype(dtype, self.device)

    @property
    def attention_mask(self) -> torch.Tensor:
        """An empty 4-D mask for LlamaModel.

        transformers passes 4-D masks through unchanged. With None it would take the position jumps for packed sequences and
        build its own mask.
        """
        return torch.empty(0, 0, 0, 0, device=self.device)

    @functools.cached_property
    def dense_mask(self) -> torch.Tensor:
        """(B, 1, L, L) additive float mask. Never bool, which some attention backends read as numbers."""
        rows, columns = torch.arange(self.rows, device=self.device), torch.arange(self.length, device=self.device)
        visible = self._visibility()(rows[:, None, None], 0, columns[:, None], columns)  # (B, L, L)
        mask = torch.zeros(visible.shape, dtype=self.dtype, device=self.device)  # (B, L, L)
        return mask.masked_fill_(~visible, float("-inf"))[:, None]

    @functools.cached_property
    def block_mask(self) -> BlockMask:
        """Mask of flex_attention, the same for all heads."""
        return create_block_mask(self._visibility(), self.rows, None, self.length, self.length, device=str(self.device))

    @functools.cached_property
    def parts(self) -> VisibleParts:
        """Visible parts of the (query, key) planes, for `split` on a CPU."""
        return visible_parts(self.layout)

    @functools.cached_property
    def padded(self) -> PaddedTrees:
        """Index tensors for `split` on other devices."""
        return pad_trees(self.layout, self.rows, self.length, self.dtype, self.device)

    def _visibility(self) -> Callable[..., torch.Tensor]:
        """Return the predicate (row, head, query column, key column) -> bool. Padding sees itself: no row is fully masked."""
        end = torch.arange(1, self.length + 1).repeat(self.rows, 1)  # (B, L) the column before which a key is seen
        for tree in self.layout:
            for start, stop, last in tree.pieces():
                end[tree.row, start:stop] = last
        end = end.to(self.device)

        def is_visible(b, h, q, k):  # the signature of flex_attention's mask_mod: indices of row, head, query, key
            return (k <= q) & (q < end[b, k])

        return is_visible


# The three implementations --------------------------------------------------------------------------------------------


def dense(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None, packed: PackedAttention
) -> torch.Tensor:
    """Compute all pairs under a mask; the reference. (B, H, L, D) each, in one dtype -> (B, L, H, D)."""
    mask = packed.dense_mask.to(query.dtype)  # (B, 1, L, L)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale).transpose(1, 2)


def flex(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None, packed: PackedAttention
) -> torch.Tensor:
    """Compute the blocks that contain a visible pair. (B, H, L, D) each, in one dtype -> (B, L, H, D).

    Raises UsageError for a gradient on a CPU, which flex_attention does not support.
    """
    on_cpu = query.device.type == "cpu"
    if on_cpu and (query.requires_grad or key.requires_grad or value.requires_grad):
        raise UsageError("flex attention has no gradient on CPU", remedy="use split or dense")
    attend = flex_attention if on_cpu else _compiled_flex()
    return attend(query, key, value, block_mask=packed.block_mask, scale=scale).transpose(1, 2)


@functools.cache
def _compiled_flex() -> Callable[..., torch.Tensor]:
    # Without compilation it computes all pairs. With dynamic shapes it compiles once for rows of any length.
    return torch.compile(flex_attention, dynamic=True)


@functools.cache
def flex_problem(device: str = "cuda", head_dim: int = 128, dtype: torch.dtype = torch.bfloat16) -> str | None:
    """Return the reason why flex attention does not work on a device, found by a trial with 256 tokens; None if it works.

    Width and precision decide how much of a GPU's shared memory the kernels need; the defaults are those of Vicuna 7B in bf16.
    """
    try:
        query, key, value = torch.randn(3, 1, 2, 256, head_dim, device=device, dtype=dtype).unbind()  # (1, 2, 256, D)
        inputs = [tensor.requires_grad_() for tensor in (query, key, value)]
        packed = PackedAttention((Tree(0, 0, 128, (96, 32)),), "flex", 1, 256, dtype, device)
        for gradient in torch.autograd.grad(flex(query, key, value, None, packed).sum(), inputs):
            if not gradient.isfinite().all():
                return "a gradient is not finite"
    except Exception as error:  # compilers raise many kinds: no C compiler, no Python.h, an old GPU
        return f"{type(error).__name__}: {first_line(error)}"
    return None


def split(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None, packed: PackedAttention
) -> torch.Tensor:
    """Compute exactly the visible pairs; zero at padding. (B, H, L, D) each -> (B, L, H, D)."""
    dtype = _attention_dtype(value.dtype, value.device)
    if query.device.type == "cpu" and hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu"):
        return SplitOnCpu.apply(query, key, value, scale, packed.parts, dtype)
    return split_by_padding(query.to(dtype), key.to(dtype), value.to(dtype), scale, packed.padded)


# Interface to transformers --------------------------------------------------------------------------------------------


def use_packed_attention(
    model: PreTrainedModel,
    kind: str = "auto",
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Select the attention of the model's LLM, in place. Submodels, such as the vision tower, keep theirs.

    Args:
        kind: a key of `PACKED`, or "auto": flex on CUDA if it works there, split elsewhere.
        device: the device that the model will run on; default: its current device.
        dtype: the precision that attention is computed in; default: that of the model.

    Raises:
        UsageError: an unknown kind, flex without CUDA, or a model with attention dropout.
    """
    device = torch.device(device or model.device)
    if kind == "auto":
        kind = "flex" if device.type == "cuda" else "split"
        if kind == "flex" and (problem := flex_problem(str(device), model.config.head_dim, dtype or model.dtype)):
            logger.warning(
                "flex attention does not work here (%s); packed rows use the slower split attention. It needs a C compiler and "
                "Python's header files, for example from the packages gcc and python3-dev",
                problem,
            )
            kind = "split"
    if kind not in PACKED:
        raise UsageError(f"pack_attention {kind!r} is not known", remedy=f"use auto, {', '.join(PACKED)}")
    if kind == "flex" and device.type != "cuda":
        raise UsageError(
            f"pack_attention flex trains on CUDA only, and this is {device.type}", remedy="use split or dense"
        )
    # A plain string would be set in the configurations of submodels too.
    model.config._attn_implementation = {"": PACKED[kind]}  # type: ignore[assignment]  # the setter takes a dict
    packed_kind(model.config)


@contextmanager
def packed_rows(
    model: PreTrainedModel, kind: str, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Iterator[None]:
    """Select the attention of packed rows as `use_packed_attention` does, and the earlier one again at the end."""
    before = model.config._attn_implementation
    try:
        use_packed_attention(model, kind, device, dtype)
        yield
    finally:
        model.config._attn_implementation = {"": before}  # type: ignore[assignment]


def packed_kind(config: PretrainedConfig) -> str:
    """Return the packed attention (a key of `PACKED`) of a model with this configuration.

    Raises UsageError if the model has none, or has attention dropout.
    """
    for kind, name in PACKED.items():
        if config._attn_implementation == name:
            dropout = getattr(config, "attention_dropout", 0.0)
            if dropout:
                raise UsageError(
                    f"packed rows do not support attention dropout; attention_dropout is {dropout}",
                    remedy="set attention_dropout to 0 in config.json, or train without --pack_frames",
                )
            return kind
    raise UsageError(
        f"attention {config._attn_implementation!r} cannot keep packed branches apart",
        remedy="call use_packed_attention(model, 'auto') before giving the model a layout",
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
    """Compute attention through transformers' attention interface.

    Args:
        kind: a key of `PACKED`.
        query: (B, H, L, D).
        key, value: (B, G, L, D).
        attention_mask: used without ``packed`` only.
        packed: the layout of a packed batch; None: compute ordinary attention as ``sdpa`` does.

    Returns:
        (B, L, H, D) in the dtype of ``value`` (under autocast, in autocast's), and None for the attention weights.

    Raises:
        UsageError: ``packed`` is for another kind, or there is dropout.
        ValueError: ``packed`` is for another shape, or there is a cache.
    """
    if packed is None:
        sdpa = ALL_ATTENTION_FUNCTIONS["sdpa"]
        return sdpa(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs)
    if packed.kind != kind or dropout:
        raise UsageError(
            f"packed rows for {packed.kind!r} attention without dropout reached {kind!r} attention, dropout {dropout}",
            remedy="make the PackedAttention with packed_kind(model.config), and set attention_dropout to 0",
        )
    rows, heads, length, _ = query.shape
    if (rows, length) != (packed.rows, packed.length) or key.shape[2] != length:
        raise ValueError(
            f"the layout has {packed.rows} rows of {packed.length} tokens; there are {rows} rows of {length} queries and "
            f"{key.shape[2]} keys (packed rows support no cache)"
        )
    key, value = _repeat_heads(key, heads), _repeat_heads(value, heads)  # (B, H, L, D) each
    if kind == "split":
        return split(query, key, value, scaling, packed), None
    implementation = {"dense": dense, "flex": flex}[kind]
    dtype = _attention_dtype(value.dtype, value.device)
    return implementation(query.to(dtype), key.to(dtype), value.to(dtype), scaling, packed), None


def _attention_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Return the precision that autocast would give sdpa. Autocast does not act on functions of this module."""
    autocast = torch.is_autocast_enabled(device.type) and dtype != torch.float64
    return torch.get_autocast_dtype(device.type) if autocast else dtype


def _repeat_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """Repeat each of the (B, G, L, D) heads for the queries that share it -> (B, H, L, D)."""
    groups = heads // x.shape[1]
    return x if groups == 1 else x[:, :, None].expand(-1, -1, groups, -1, -1).flatten(1, 2)


for _kind, _name in PACKED.items():
    AttentionInterface.register(_name, functools.partial(packed_attention, _kind))
    AttentionMaskInterface.register(_name, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])  # for batches that are not packed
