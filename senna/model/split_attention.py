"""Split attention of packed rows with public torch functions, for any device.

Shapes: B rows, L tokens per row, H heads, D head width, T trees, N branches of all trees, Lp tokens of the longest prefix,
Lb tokens of the longest branch, Lc tokens of the longest context of a branch, which is all that it continues. A flat index is
row * L + column.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from senna.model.layout import Layout


class PaddedTrees(NamedTuple):
    """Flat indices that gather prefixes and branches into two padded batches, and the results back into rows.

    Attributes:
        prefixes: (T, Lp) indices of every prefix.
        branches: (N, Lb) indices of every branch.
        keys: (N, Lc + Lb) indices of a branch's context and then of the branch.
        mask: (N, 1, Lb, Lc + Lb) additive mask.
        slots: (B * L,) indices of each token's result in the concatenation [T * Lp, N * Lb, one row of zeros].
    """

    prefixes: torch.Tensor
    branches: torch.Tensor
    keys: torch.Tensor
    mask: torch.Tensor
    slots: torch.Tensor


def pad_trees(layout: Layout, rows: int, length: int, dtype: torch.dtype, device: torch.device) -> PaddedTrees:
    """Compute the indices of a layout. Padding has the index 0; no result is read from it."""
    prefix_indices, branch_indices, context_indices = [], [], []
    for tree in layout:
        prefix, *branches = (torch.arange(start, stop) + tree.row * length for start, stop, _ in tree.pieces())
        prefix_indices.append(prefix)
        branch_indices += branches
        for ancestors in tree.ancestors()[1:]:
            context_indices.append(torch.cat([[prefix, *branches][piece] for piece in ancestors]))
    prefixes = pad_sequence(prefix_indices, batch_first=True)  # (T, Lp)
    nothing = torch.zeros(0, 1, dtype=torch.long)
    branches, contexts = (
        pad_sequence(indices, batch_first=True) if indices else nothing for indices in (branch_indices, context_indices)
    )  # (N, Lb), (N, Lc)
    keys = torch.cat([contexts, branches], dim=1)  # (N, Lc + Lb)

    lengths = torch.tensor([len(indices) for indices in context_indices]).view(-1, 1, 1)  # (N, 1, 1)
    longest, own = contexts.shape[1], torch.arange(branches.shape[1])  # Lc, (Lb,)
    sees_context = (torch.arange(longest) < lengths).expand(-1, len(own), -1)  # (N, Lb, Lc)
    sees_own = (own <= own[:, None]).expand(len(branches), -1, -1)  # (N, Lb, Lb)
    mask = torch.zeros(len(branches), 1, len(own), keys.shape[1], dtype=dtype)  # (N, 1, Lb, Lc + Lb)
    mask.masked_fill_(~torch.cat([sees_context, sees_own], dim=2)[:, None], float("-inf"))

    slots = torch.full((rows * length,), prefixes.numel() + branches.numel())  # (B * L,)
    for indices, first, step in ((prefix_indices, 0, prefixes.shape[1]), (branch_indices, prefixes.numel(), len(own))):
        for i, flat in enumerate(indices):
            slots[flat] = first + i * step + torch.arange(len(flat))
    return PaddedTrees(*(x.to(device) for x in (prefixes, branches, keys, mask, slots)))


def split_by_padding(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None, padded: PaddedTrees
) -> torch.Tensor:
    """Compute all prefixes as one batch, then all branches, with the keys of their contexts, as another.

    (B, H, L, D) each -> (B, L, H, D), zero at padding.
    """
    rows, heads, length, width = query.shape
    flat_q, flat_k, flat_v = (x.transpose(1, 2).reshape(-1, heads, width) for x in (query, key, value))  # (B * L, H, D)

    def take(flat: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Gather (n, m) flat indices -> (n, H, m, D)."""
        return flat.index_select(0, indices.flatten()).view(*indices.shape, heads, width).transpose(1, 2)

    q, k, v = (take(x, padded.prefixes) for x in (flat_q, flat_k, flat_v))  # (T, H, Lp, D) each
    results = [F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)]
    if len(padded.branches):
        q = take(flat_q, padded.branches)  # (N, H, Lb, D)
        k, v = take(flat_k, padded.keys), take(flat_v, padded.keys)  # (N, H, Lc + Lb, D) each
        results.append(F.scaled_dot_product_attention(q, k, v, attn_mask=padded.mask.to(q.dtype), scale=scale))
    flat = [x.transpose(1, 2).reshape(-1, heads, width) for x in results]  # (T * Lp, H, D), (N * Lb, H, D)
    zeros = query.new_zeros(1, heads, width)  # the result of padding
    return torch.cat([*flat, zeros]).index_select(0, padded.slots).view(rows, length, heads, width)
