"""The records of a frame as trees: tokens that several records share occur once, and what differs follows as branches.

Pure functions over tokens, without a model or files. Letters: T tokens of a record before the splice, U tokens of all
pieces before the splice, P tokens of all pieces after it; K tokens of an image after the splice; B rows of L positions, R
records, N images, M targets, n text tokens of a packed batch.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from senna.data.batch import PackedRows
from senna.model.config import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from senna.model.layout import Layout, Tree


class CutRecord(NamedTuple):
    """The tokens of a record before the splice, without those that the model does not see; int64 (T,) each."""

    input_ids: np.ndarray
    labels: np.ndarray
    sizes: np.ndarray  # tokens after the splice; an image at the very end may keep only the first of its K
    lost_targets: bool


class PackedTree(NamedTuple):
    """Records that share tokens, or one record. The tokens before ``start`` are those of the tree that it continues."""

    records: tuple[int, ...]
    start: int  # the tokens [start, stop) of the records occur once; counted before the splice
    stop: int
    size: int  # tokens of the tree, after the splice
    children: tuple["PackedTree", ...] = ()


LEAST_SHARED = 16  # fewer tokens that some records of a tree share do not become a branch of their own


def cut_record(input_ids: torch.Tensor, labels: torch.Tensor, max_length: int, tokens_per_image: int) -> CutRecord:
    """Cut a record, LongTensor (T,) each, so that after the splice no token starts at ``max_length`` or later.

    The first token is never a target, because no token precedes it.
    """
    ids, targets = input_ids.numpy(), labels.numpy().copy()
    targets[:1] = IGNORE_INDEX
    sizes = np.where(ids == IMAGE_TOKEN_INDEX, tokens_per_image, 1)
    starts = _starts(sizes)
    kept = int(np.searchsorted(starts, max_length))
    lost = bool((targets[kept:] != IGNORE_INDEX).any())
    return CutRecord(ids[:kept], targets[:kept], np.minimum(sizes, max_length - starts)[:kept], lost)


def pack_trees(
    records: Sequence[CutRecord], pack_max_tokens: int, numbers: Sequence[int] | None = None
) -> list[PackedTree]:
    """Return trees of at most ``pack_max_tokens`` tokens such that each record of a frame is in exactly one.

    Records share a tree if they are equal up to their last image. The prefix has all tokens that are equal in all records,
    but ends before the token that precedes a first target: the output of that token predicts the target, and the targets
    differ between branches. By the same rule, records that are equal in at least `LEAST_SHARED` more tokens, such as a
    question with each of its answers, share a branch, which their branches continue. A record is a tree without branches if
    it is alone, or if no prefix can contain all its images and none of its targets (a caption directly after its image, an
    image in a later turn, no image at all). A tree that is too large is split evenly into as few trees as possible, each with
    the prefix.

    Args:
        numbers: the records of the frame, as indices in ``records``; default: all.
    """
    groups: dict[bytes | int, list[int]] = {}
    for number in range(len(records)) if numbers is None else numbers:
        record = records[number]
        images_end = _images_end(record)
        can_share = 0 < images_end <= _longest_prefix(record)
        groups.setdefault(record.input_ids[:images_end].tobytes() if can_share else number, []).append(number)
    return [tree for members in groups.values() for tree in _trees_of(records, members, pack_max_tokens)]


def even_bins(sizes: Sequence[int], capacity: int) -> list[list[int]]:
    """Distribute items over few bins of at most ``capacity``, as evenly as possible.

    There are at most as many bins as first-fit decreasing needs.

    Returns:
        For each bin, the ascending indices in ``sizes`` of its items.

    Raises:
        ValueError: a size is larger than the capacity.
    """
    if sizes and max(sizes) > capacity:
        raise ValueError(f"{max(sizes)} tokens do not fit into {capacity}")
    descending = sorted(range(len(sizes)), key=lambda item: -sizes[item])
    fitted = _first_fit(sizes, descending, capacity)
    for count in range(-(-sum(sizes) // capacity), len(fitted) + 1):
        spread = _spread(sizes, descending, count)
        if all(sum(sizes[item] for item in members) <= capacity for members in spread):
            return [sorted(members) for members in spread]
    return [sorted(members) for members in fitted]


def build_rows(
    records: Sequence[CutRecord],
    rows: Sequence[Sequence[PackedTree]],
    first_images: Sequence[int],
    num_images: int,
    tokens_per_image: int,
    pad_token_id: int,
) -> PackedRows:
    """Return the tensors of a packed batch.

    Args:
        records: the R records of the batch.
        rows: the trees of each row.
        first_images: for each record, the index in the batch's images of its first ``<image>``; the others follow it.
        num_images: N.
        tokens_per_image: K.
        pad_token_id: the only text token of a batch without text, because the table of text must not be empty.
    """
    trees = [_pieces(records, tree) for row in rows for tree in row]
    pieces = [piece for tree in trees for piece in tree]
    ids, labels, sizes = (
        np.concatenate([getattr(records[piece.record], name)[piece.start : piece.stop] for piece in pieces])
        for name in ("input_ids", "labels", "sizes")
    )  # (U,) each
    record = np.repeat([piece.record for piece in pieces], [piece.stop - piece.start for piece in pieces])  # (U,)
    is_image = ids == IMAGE_TOKEN_INDEX  # (U,)
    text = np.array([pad_token_id]) if is_image.all() else ids[~is_image]  # (n,)
    image = np.asarray(first_images)[record] + _image_numbers(is_image, pieces)  # (U,), meaningless for text
    table_row = np.where(is_image, len(text) + image * tokens_per_image, _starts(~is_image))  # (U,), of the first token

    token = np.repeat(np.arange(len(ids)), sizes)  # (P,), index of the token before the splice
    numbers = np.arange(len(token))  # (P,)
    piece_sizes = np.array([piece.size for piece in pieces])  # (pieces,)
    position_shifts = np.array([piece.position for piece in pieces]) - _starts(piece_sizes)  # (pieces,)
    row_sizes = np.array([sum(tree.size for tree in row) for row in rows])  # (B,)
    length = int(row_sizes.max())  # L
    flat = numbers + np.repeat(np.arange(len(rows)) * length - _starts(row_sizes), row_sizes)  # (P,), row * L + column

    def padded(values: np.ndarray, padding: int) -> torch.Tensor:
        """Arrange (P,) values in rows, (B, L)."""
        table = np.full(len(rows) * length, padding)
        table[flat] = values
        return torch.from_numpy(table.reshape(len(rows), length))

    is_target = labels[token] != IGNORE_INDEX  # (P,)
    return {
        "input_ids": torch.from_numpy(text)[None],  # (1, n)
        "source": padded(table_row[token] + numbers - _starts(sizes)[token], len(text) + num_images * tokens_per_image),
        "position_ids": padded(numbers + np.repeat(position_shifts, piece_sizes), 0),
        "labels": padded(labels[token], IGNORE_INDEX),
        "target_positions": torch.from_numpy(flat[is_target] - 1),  # (M,)
        "target_records": torch.from_numpy(record[token[is_target]]),  # (M,)
        "layout": _layout(rows, trees),
    }


def _image_numbers(is_image: np.ndarray, pieces: Sequence["_Piece"]) -> np.ndarray:
    """Return int64 (U,): for each ``<image>``, its number among the images of its record.

    Counting within a piece is enough, because only pieces that begin with their record, the prefixes, contain images.
    """
    before = _starts(is_image)  # (U,)
    tokens = np.array([piece.stop - piece.start for piece in pieces])  # (pieces,)
    return before - np.repeat(before[_starts(tokens)], tokens)


class _Piece(NamedTuple):
    """A prefix or a branch: the tokens ``[start, stop)`` of a record."""

    record: int
    start: int
    stop: int
    size: int  # tokens after the splice
    position: int  # position id of its first token
    parent: int  # the piece that it continues, -1 for none


def _pieces(records: Sequence[CutRecord], tree: PackedTree) -> list[_Piece]:
    """Return the prefix of a tree and its branches, each before those that continue it."""
    found: list[_Piece] = []

    def add(tree: PackedTree, position: int, parent: int) -> None:
        record = tree.records[0]
        size = int(records[record].sizes[tree.start : tree.stop].sum())
        piece = len(found)
        found.append(_Piece(record, tree.start, tree.stop, size, position, parent))
        for child in tree.children:
            add(child, position + size, piece)

    add(tree, 0, -1)
    return found


def _layout(rows: Sequence[Sequence[PackedTree]], trees: Sequence[Sequence[_Piece]]) -> Layout:
    """Return the placement of trees, given in the order of the rows as their pieces, one after another in each row."""
    starts = [
        (number, start)
        for number, row in enumerate(rows)
        for start in itertools.accumulate((tree.size for tree in row[:-1]), initial=0)
    ]
    layout = []
    for (row, start), (prefix, *branches) in zip(starts, trees, strict=True):
        parents = tuple(branch.parent - 1 for branch in branches)
        sizes = tuple(branch.size for branch in branches)
        layout.append(Tree(row, start, prefix.size, sizes, parents if any(parent >= 0 for parent in parents) else ()))
    return tuple(layout)


def _images_end(record: CutRecord) -> int:
    """Return the number of tokens up to and including the last image; 0 without images."""
    images = np.flatnonzero(record.input_ids == IMAGE_TOKEN_INDEX)
    return int(images[-1]) + 1 if len(images) else 0


def _longest_prefix(record: CutRecord) -> int:
    """Return the number of tokens before the one that precedes the first target, or before the last without targets."""
    targets = np.flatnonzero(record.labels != IGNORE_INDEX)
    return (int(targets[0]) if len(targets) else len(record.labels)) - 1


def _trees_of(records: Sequence[CutRecord], members: Sequence[int], pack_max_tokens: int) -> list[PackedTree]:
    """Return the trees of records that can share a prefix."""
    tree = _tree(records, members, 0)
    if tree.size <= pack_max_tokens:
        return [tree]
    room = pack_max_tokens - (tree.size - sum(child.size for child in tree.children))
    large = [child for child in tree.children if child.size > room]
    small = [child for child in tree.children if child.size <= room]
    found = [part for child in large for part in _trees_of(records, child.records, pack_max_tokens)]
    for items in even_bins([child.size for child in small], room):
        found.append(_tree(records, [number for item in items for number in small[item].records], 0))
    return found


def _tree(records: Sequence[CutRecord], members: Sequence[int], start: int) -> PackedTree:
    """Return the tree of records that are equal before the token ``start``."""
    first = records[members[0]]
    if len(members) == 1:
        return PackedTree((members[0],), start, len(first.input_ids), int(first.sizes[start:].sum()))
    stop = min(_longest_prefix(records[number]) for number in members)
    for number in members[1:]:
        differing = np.flatnonzero(first.input_ids[start:stop] != records[number].input_ids[start:stop])
        stop = start + int(differing[0]) if len(differing) else stop
    groups: dict[bytes | int, list[int]] = {}
    for number in members:
        can_share = stop + LEAST_SHARED <= _longest_prefix(records[number])
        following = records[number].input_ids[stop : stop + LEAST_SHARED]
        groups.setdefault(following.tobytes() if can_share else number, []).append(number)
    children = tuple(_tree(records, group, stop) for group in groups.values())
    size = int(first.sizes[start:stop].sum()) + sum(child.size for child in children)
    return PackedTree(tuple(members), start, stop, size, children)


def _first_fit(sizes: Sequence[int], order: list[int], capacity: int) -> list[list[int]]:
    """Put each item into the first bin that has room, or into a new one."""
    bins: list[list[int]] = []
    room: list[int] = []
    for item in order:
        fitting = next((number for number, left in enumerate(room) if sizes[item] <= left), None)
        if fitting is None:
            fitting = len(bins)
            bins.append([])
            room.append(capacity)
        bins[fitting].append(item)
        room[fitting] -= sizes[item]
    return bins


def _spread(sizes: Sequence[int], order: list[int], count: int) -> list[list[int]]:
    """Put each item into the bin with the lowest load."""
    bins: list[list[int]] = [[] for _ in range(count)]
    loads = [0] * count
    for item in order:
        lowest = loads.index(min(loads))
        bins[lowest].append(item)
        loads[lowest] += sizes[item]
    return bins


def _starts(sizes: np.ndarray) -> np.ndarray:
    """Return the start of each of consecutive segments: the sum of the sizes before it."""
    return sizes.cumsum() - sizes
