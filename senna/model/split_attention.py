"""Split attention of packed rows with public torch functions, for any device.

Shapes: B rows, L tokens per row, H heads, D head width, T trees, N branches of all trees, Lp tokens of the longest prefix,
Lb tokens of the longest branch. A flat index is row * L + column.
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
        keys: (N, Lp + Lb) indices of a branch's prefix and then of the branch.
        mask: (N, 1, Lb, Lp + Lb) additive mask.
        slots: (B * L,) indices of each token's result in the concatenation [T * Lp, N * Lb, one row of zeros].
    """

    prefixes: torch.Tensor
    branches: torch.Tensor
    keys: torch.Tensor
    mask: torch.Tensor
    slots: torch.Tensor


def pad_trees(layout: Layout, rows: int, length: int, dtype: torch.dtype, device: torch.device) -> PaddedTrees:
    """Compute the indices of a layout. Padding has the index 0; no result is read from it."""
    prefix_indices, branch_indices, tree_of_branch = [], [], []
    for i, tree in enumerate(layout):
        prefix_indices.append(torch.arange(tree.start, tree.start + tree.prefix) + tree.row * length)
        branch_indices += [torch.arange(*span) + tree.row * length for span in tree.branch_spans()]
        tree_of_branch += [i] * len(tree.branches)
    prefixes = pad_sequence(prefix_indices, batch_first=True)  # (T, Lp)
    branches = (
        pad_sequence(branch_indices, batch_first=True) if branch_indices else torch.zeros(0, 1, dtype=torch.long)
    )  # (N, Lb)
    keys = torch.cat([prefixes[tree_of_branch], branches], dim=1)  # (N, Lp + Lb)

    prefix_lengths = torch.tensor([layout[i].prefix for i in tree_of_branch]).view(-1, 1, 1)  # (N, 1, 1)
    longest, own = prefixes.shape[1], torch.arange(branches.shape[1])  # Lp, (Lb,)
    sees_prefix = (torch.arange(longest) < prefix_lengths).expand(-1, len(own), -1)  # (N, Lb, Lp)
    sees_own = (own <= own[:, None]).expand(len(branches), -1, -1)  # (N, Lb, Lb)
    mask = torch.zeros(len(branches), 1, len(own), keys.shape[1], dtype=dtype)  # (N, 1, Lb, Lp + Lb)
    mask.masked_fill_(~torch.cat([sees_prefix, sees_own], dim=2)[:, None], float("-inf"))

    slots = torch.full((rows * length,), prefixes.numel() + branches.numel())  # (B * L,)
    for indices, first, step in ((prefix_indices, 0, longest), (branch_indices, prefixes.numel(), len(own))):
        for i, flat in enumerate(indices):
            slots[flat] = first + i * step + torch.arange(len(flat))
    return PaddedTrees(*(x.to(device) for x in (prefixes, branches, keys, mask, slots)))


def split_by_padding(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None, padded: PaddedTrees
) -> torch.Tensor:
    """Compute all prefixes as one batch, then all branches, with their prefixes' keys, as another.

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
        k, v = take(flat_k, padded.keys), take(flat_v, padded.keys)  # (N, H, Lp + Lb, D) each
        results.append(F.scaled_dot_product_attention(q, k, v, attn_mask=padded.mask.to(q.dtype), scale=scale))
    flat = [x.transpose(1, 2).reshape(-1, heads, width) for x in results]  # (T * Lp, H, D), (N * Lb, H, D)
    zeros = query.new_zeros(1, heads, width)  # the result of padding
    return torch.cat([*flat, zeros]).index_select(0, padded.slots).view(rows, length, heads, width)
