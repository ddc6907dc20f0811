"""Placement of trees in packed rows. A tree is a prefix and the branches that continue it."""

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Tree:
    """A prefix and its branches in a packed row.

    The prefix begins at column ``start``; the branches follow it one after another.

    This is not a tuple, because utilities that move a batch to a device would take a tuple apart.

    Attributes:
        row: the packed row.
        start: the column of the prefix's first token.
        prefix: number of tokens of the prefix, at least 1.
        branches: number of tokens of each branch, at least 1 each.
    """

    row: int
    start: int
    prefix: int
    branches: tuple[int, ...] = ()

    @property
    def stop(self) -> int:
        """The column after the last token."""
        return self.start + self.prefix + sum(self.branches)

    @property
    def visible_pairs(self) -> int:
        """The number of (query, key) pairs of tokens, the query not before the key, that see each other."""
        branches = sum(length * self.prefix + length * (length + 1) // 2 for length in self.branches)
        return self.prefix * (self.prefix + 1) // 2 + branches

    def branch_spans(self) -> list[tuple[int, int]]:
        """Return (start, stop) columns of every branch."""
        stops = [self.start + self.prefix + sum(self.branches[: i + 1]) for i in range(len(self.branches))]
        return [(stop - length, stop) for stop, length in zip(stops, self.branches, strict=True)]


Layout = tuple[Tree, ...]
"""The trees of a packed batch. They do not overlap; positions outside every tree are padding."""


def check_layout(layout: Layout, rows: int, length: int) -> None:
    """Raise ValueError for trees that overlap, have an empty part, or do not fit ``rows`` rows of ``length`` tokens."""
    free = [0] * rows
    for tree in sorted(layout):
        if not 0 <= tree.row < rows or tree.stop > length or min(tree.prefix, *tree.branches, 1) < 1:
            raise ValueError(f"{tree} does not fit {rows} rows of {length} tokens, or has an empty part")
        if tree.start < free[tree.row]:
            raise ValueError(f"{tree} overlaps the tree before it, which ends at column {free[tree.row]}")
        free[tree.row] = tree.stop
