"""Placement of trees in packed rows. A tree is a prefix and the branches that continue it, directly or after another branch."""

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Tree:
    """A prefix and its branches in a packed row.

    The prefix begins at column ``start``; the branches follow it, each directly followed by those that continue it. So what
    continues a prefix or a branch, directly or not, is in the columns after it, without a gap.

    This is not a tuple, because utilities that move a batch to a device would take a tuple apart.

    Attributes:
        row: the packed row.
        start: the column of the prefix's first token.
        prefix: number of tokens of the prefix, at least 1.
        branches: number of tokens of each branch, at least 1 each.
        parents: for each branch, the number of the branch that it continues, or -1 for the prefix; empty: all continue the
            prefix.
    """

    row: int
    start: int
    prefix: int
    branches: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()

    @property
    def stop(self) -> int:
        """The column after the last token."""
        return self.start + self.prefix + sum(self.branches)

    @property
    def visible_pairs(self) -> int:
        """The number of (query, key) pairs of tokens, the query not before the key, that see each other."""
        return sum(
            (stop - start) * (stop - start + 1) // 2 + (stop - start) * (end - stop)
            for start, stop, end in self.pieces()
        )

    def pieces(self) -> list[tuple[int, int, int]]:
        """Return (start, stop, end) columns of the prefix and of every branch: tokens up to ``end`` see those of the piece."""
        lengths = (self.prefix, *self.branches)
        ends = list(lengths)  # tokens of each piece and of what continues it
        for piece in range(len(self.branches), 0, -1):
            ends[self._parent(piece)] += ends[piece]
        found, start = [], self.start
        for length, size in zip(lengths, ends, strict=True):
            found.append((start, start + length, start + size))
            start += length
        return found

    def ancestors(self) -> list[list[int]]:
        """Return for the prefix and for every branch the pieces that it continues, as indices of `pieces`, in their order."""
        found: list[list[int]] = [[]]
        for piece in range(1, len(self.branches) + 1):
            parent = self._parent(piece)
            found.append([*found[parent], parent])
        return found

    def _parent(self, piece: int) -> int:
        return self.parents[piece - 1] + 1 if self.parents else 0


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
        if tree.parents and not _is_in_order(tree):
            raise ValueError(f"{tree} has a branch that does not follow the one that it continues")
        free[tree.row] = tree.stop


def _is_in_order(tree: Tree) -> bool:
    """Return whether each branch follows its parent, or a branch that continues its parent."""
    if len(tree.parents) != len(tree.branches):
        return False
    path = [-1]  # the last piece, and before it the pieces that it continues
    for branch, parent in enumerate(tree.parents):
        while path and path[-1] != parent:
            path.pop()
        if not path:
            return False
        path.append(branch)
    return True
