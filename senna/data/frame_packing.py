"""The records of a frame as one tree: what they share once, as a prefix, and the rest of each as a branch.

Pure functions over tokens: no model, no files. Letters: T tokens of a record before the splice, U of all pieces laid out;
K places an image takes after it; B rows of L places, R records, N images, n text tokens of a packed batch.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from senna.model.config import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from senna.model.layout import Tree


class CutRecord(NamedTuple):
    """A record's tokens before the splice, as many as the model sees; int64 (T,) each."""

    input_ids: np.ndarray
    labels: np.ndarray
    sizes: np.ndarray  # places each token takes after the splice; an image at the very end may keep a part of its own
    lost_targets: bool


class PackedTree(NamedTuple):
    """Records that become one tree."""

    records: tuple[int, ...]
    prefix: int  # tokens, before the splice, that stand once; all of them where there is but one record
    size: int  # places of prefix and branches


def cut_record(input_ids: torch.Tensor, labels: torch.Tensor, max_length: int, tokens_per_image: int) -> CutRecord:
    """Cut a record, LongTensor (T,) twice, so that after the splice no token starts at ``max_length`` or later.

    The first token is no target, as nothing precedes it.
    """
    ids, targets = input_ids.numpy(), labels.numpy().copy()
    targets[:1] = IGNORE_INDEX
    sizes = np.where(ids == IMAGE_TOKEN_INDEX, tokens_per_image, 1)
    starts = _starts(sizes)
    kept = int(np.searchsorted(starts, max_length))
    lost = bool((targets[kept:] != IGNORE_INDEX).any())
    return CutRecord(ids[:kept], targets[:kept], np.minimum(sizes, max_length - starts)[:kept], lost)


def plan_trees(records: Sequence[CutRecord], pack_max_tokens: int) -> list[PackedTree]:
    """The trees of a frame's records, each of at most ``pack_max_tokens`` places; every record is in exactly one.

    Records share a tree where they are equal up to their last image. A prefix goes on as far as all are equal, but ends
    before the token that precedes a first target: that token's output predicts the target, and differs between
    branches in what follows. Where no prefix can hold all images of a record and none of its targets (a caption
    right after its image, images in a later turn, no image at all), and where a record is alone, it is a tree without
    branches. What is too large is split into as few trees as are needed, evenly, each with the prefix again.
    """
    groups: dict[bytes | int, list[int]] = {}
    for number, record in enumerate(records):
        images_end = _images_end(record)
        shares = 0 < images_end <= _longest_prefix(record)
        groups.setdefault(record.input_ids[:images_end].tobytes() if shares else number, []).append(number)
    return [tree for members in groups.values() for tree in _trees_of(records, members, pack_max_tokens)]


def even_bins(sizes: Sequence[int], capacity: int) -> list[list[int]]:
    """Places in ``sizes`` by bin, ascending within each: few bins of at most ``capacity``, filled as evenly as may be.

    As few as first-fit decreasing takes, or fewer. Raises ``ValueError`` for a size beyond the capacity.
    """
    if sizes and max(sizes) > capacity:
        raise ValueError(f"{max(sizes)} tokens do not fit into {capacity}")
    descending = sorted(range(len(sizes)), key=lambda place: -sizes[place])
    fitted = _first_fit(sizes, descending, capacity)
    for count in range(-(-sum(sizes) // capacity), len(fitted) + 1):
        spread = _spread(sizes, descending, count)
        if all(sum(sizes[place] for place in members) <= capacity for members in spread):
            return [sorted(members) for members in spread]
    return [sorted(members) for members in fitted]


def lay_out(
    records: Sequence[CutRecord],
    rows: Sequence[Sequence[PackedTree]],
    first_views: Sequence[int],
    views: int,
    tokens_per_image: int,
    pad_token_id: int,
) -> dict[str, Any]:
    """The tensors of a packed batch (see ``PackCollator``), of which each row holds the trees named in ``rows``.

    Args:
        first_views: for each record, which of the batch's images its first ``<image>`` is; the others follow.
        views: how many images the batch has, N.
        pad_token_id: stands for the text of a batch that has none, since the table of text is never empty.
    """
    trees = [_pieces(records, tree) for row in rows for tree in row]
    pieces = [piece for tree in trees for piece in tree]
    ids, labels, sizes = (
        np.concatenate([getattr(records[piece.record], name)[piece.start : piece.stop] for piece in pieces])
        for name in ("input_ids", "labels", "sizes")
    )  # (U,) each
    record = np.repeat([piece.record for piece in pieces], [piece.stop - piece.start for piece in pieces])
    is_image = ids == IMAGE_TOKEN_INDEX
    text = np.array([pad_token_id]) if is_image.all() else ids[~is_image]
    view = np.asarray(first_views)[record] + _ranks(is_image, pieces)
    first_row = np.where(is_image, len(text) + view * tokens_per_image, _starts(~is_image))  # of the table, (U,)

    token = np.repeat(np.arange(len(ids)), sizes)  # that stands at a place, (P,): P places that are no padding
    places = np.arange(len(token))
    piece_sizes = np.array([piece.size for piece in pieces])
    position_shifts = np.array([piece.position for piece in pieces]) - _starts(piece_sizes)
    row_sizes = np.array([sum(tree.size for tree in row) for row in rows])
    length = int(row_sizes.max())
    packed = places + np.repeat(np.arange(len(rows)) * length - _starts(row_sizes), row_sizes)  # row * L + column

    def padded(values: np.ndarray, padding: int) -> torch.Tensor:
        table = np.full(len(rows) * length, padding)
        table[packed] = values
        return torch.from_numpy(table.reshape(len(rows), length))

    is_target = labels[token] != IGNORE_INDEX
    return {
        "input_ids": torch.from_numpy(text)[None],
        "source": padded(first_row[token] + places - _starts(sizes)[token], len(text) + views * tokens_per_image),
        "position_ids": padded(places + np.repeat(position_shifts, piece_sizes), 0),
        "labels": padded(labels[token], IGNORE_INDEX),
        "target_places": torch.from_numpy(packed[is_target] - 1),
        "target_records": torch.from_numpy(record[token[is_target]]),
        "layout": _layout(rows, trees),
    }


def _ranks(is_image: np.ndarray, pieces: Sequence["_Piece"]) -> np.ndarray:
    """int64 (U,): of each image, which of its record's images it is.

    Images stand only in pieces that begin with their record, so that counting within a piece is enough.
    """
    before = _starts(is_image)
    tokens = np.array([piece.stop - piece.start for piece in pieces])
    return before - np.repeat(before[_starts(tokens)], tokens)


class _Piece(NamedTuple):
    """A prefix or a branch: the tokens ``[start, stop)`` of a record."""

    record: int
    start: int
    stop: int
    size: int  # places
    position: int  # of its first place


def _pieces(records: Sequence[CutRecord], tree: PackedTree) -> list[_Piece]:
    first = records[tree.records[0]]
    prefix = _Piece(tree.records[0], 0, tree.prefix, int(first.sizes[: tree.prefix].sum()), 0)
    if len(tree.records) == 1:
        return [prefix]
    branches = [
        # A branch has no image: a place each token.
        _Piece(number, tree.prefix, stop, stop - tree.prefix, prefix.size)
        for number in tree.records
        for stop in [len(records[number].input_ids)]
    ]
    return [prefix, *branches]


def _layout(rows: Sequence[Sequence[PackedTree]], trees: Sequence[Sequence[_Piece]]) -> tuple[Tree, ...]:
    places = [
        (number, start)
        for number, row in enumerate(rows)
        for start in itertools.accumulate((tree.size for tree in row[:-1]), initial=0)
    ]
    return tuple(
        Tree(row, start, prefix.size, tuple(branch.size for branch in branches))
        for (row, start), (prefix, *branches) in zip(places, trees, strict=True)
    )


def _images_end(record: CutRecord) -> int:
    """Tokens up to and including the last image; 0 without one."""
    images = np.flatnonzero(record.input_ids == IMAGE_TOKEN_INDEX)
    return int(images[-1]) + 1 if len(images) else 0


def _longest_prefix(record: CutRecord) -> int:
    """Tokens that may be shared: all before the one that precedes the first target, or the last where there is none."""
    targets = np.flatnonzero(record.labels != IGNORE_INDEX)
    return (int(targets[0]) if len(targets) else len(record.labels)) - 1


def _trees_of(records: Sequence[CutRecord], members: list[int], pack_max_tokens: int) -> list[PackedTree]:
    """The trees of records that can share a prefix."""
    if len(members) == 1:
        return [_alone(records, members[0])]
    first, *others = (records[number].input_ids for number in members)
    prefix = min(_longest_prefix(records[number]) for number in members)
    for other in others:
        differing = np.flatnonzero(first[:prefix] != other[:prefix])
        prefix = int(differing[0]) if len(differing) else prefix
    prefix_size = int(records[members[0]].sizes[:prefix].sum())
    branches = [len(records[number].input_ids) - prefix for number in members]
    parts = even_bins(branches, pack_max_tokens - prefix_size)
    return [
        PackedTree(
            tuple(members[place] for place in part), prefix, prefix_size + sum(branches[place] for place in part)
        )
        if len(part) > 1
        else _alone(records, members[part[0]])
        for part in parts
    ]


def _alone(records: Sequence[CutRecord], number: int) -> PackedTree:
    return PackedTree((number,), len(records[number].input_ids), int(records[number].sizes.sum()))


def _first_fit(sizes: Sequence[int], order: list[int], capacity: int) -> list[list[int]]:
    bins: list[list[int]] = []
    room: list[int] = []
    for place in order:
        fitting = next((number for number, left in enumerate(room) if sizes[place] <= left), None)
        if fitting is None:
            fitting = len(bins)
            bins.append([])
            room.append(capacity)
        bins[fitting].append(place)
        room[fitting] -= sizes[place]
    return bins


def _spread(sizes: Sequence[int], order: list[int], count: int) -> list[list[int]]:
    """Each into the bin that is emptiest."""
    bins: list[list[int]] = [[] for _ in range(count)]
    loads = [0] * count
    for place in order:
        emptiest = loads.index(min(loads))
        bins[emptiest].append(place)
        loads[emptiest] += sizes[place]
    return bins


def _starts(sizes: np.ndarray) -> np.ndarray:
    """Where each of consecutive stretches begins: the sum of those before it."""
    return sizes.cumsum() - sizes
