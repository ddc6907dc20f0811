"""Split attention of packed rows on any device."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from senna.model.layout import Layout


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
