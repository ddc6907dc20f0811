"""Where trees stand in packed rows: a prefix each, and branches that share it."""

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Tree:
    """Where a prefix and its branches stand in the packed rows: one after another from ``start``, each of >= 1 token.

    No tuple: what moves a batch to its device would take it apart.
    """

    row: int
    start: int
    prefix: int
    branches: tuple[int, ...] = ()

    @property
    def stop(self) -> int:
        return self.start + self.prefix + sum(self.branches)

    def branch_spans(self) -> list[tuple[int, int]]:
        """(start, stop) of every branch in the row."""
        stops = [self.start + self.prefix + sum(self.branches[: i + 1]) for i in range(len(self.branches))]
        return [(stop - length, stop) for stop, length in zip(stops, self.branches, strict=True)]


Layout = tuple[Tree, ...]
"""Trees that do not overlap; what none of them covers is padding."""


def check_layout(layout: Layout, rows: int, length: int) -> None:
    """Raise ValueError for trees that do not fit so many rows of so many places, overlap, or have an empty part."""
    free = [0] * rows
    for tree in sorted(layout):
        if not 0 <= tree.row < rows or tree.stop > length or min(tree.prefix, *tree.branches, 1) < 1:
            raise ValueError(f"{tree} does not fit {rows} rows of {length} places, or has an empty part")
        if tree.start < free[tree.row]:
            raise ValueError(f"{tree} overlaps the tree before it, which ends at place {free[tree.row]}")
        free[tree.row] = tree.stop
