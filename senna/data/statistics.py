"""How long samples are in tokens, and what the length limit cuts off: told before a run, without reading an image."""

from dataclasses import dataclass

import numpy as np
import torch

from senna.data.dataset import ConversationDataset
from senna.data.frame_packing import cut_record, plan_trees
from senna.data.frames import FrameDataset
from senna.errors import DataError
from senna.model.config import IGNORE_INDEX, IMAGE_TOKEN_INDEX


@dataclass(frozen=True)
class TokenStatistics:
    """Lengths in tokens after the splice, each view counted with its tokens. Exact when ``looked_at == total``.

    Attributes:
        mean: of a sample.
        longest: of the samples looked at, among which are those that are longest by the words they have.
        share_cut: of the samples, 0 to 1, that are longer than the limit.
        share_with_cut_answers: of the samples, 0 to 1, whose answers do not wholly lie within it.
        looked_at, total: records.
    """

    mean: float
    longest: int
    share_cut: float
    share_with_cut_answers: float
    looked_at: int
    total: int


def token_statistics(
    dataset: ConversationDataset, max_length: int, tokens_per_image: int, look_at: int = 2000
) -> TokenStatistics:
    """Tokenise at most ``look_at`` records and say what the limit of ``max_length`` tokens does to them.

    Half of them are those longest by estimate, which stand for themselves: no long one is overlooked. The other half stands
    for the rest. A record counts as often as an epoch takes it; one that cannot be tokenised does not count.
    """
    longest, spread = _chosen(dataset.lengths, look_at)
    stands_for = (len(dataset) - len(longest)) / max(len(spread), 1)
    rows = [
        (*measured, dataset.records.weight(index) * times)
        for indices, times in ((longest, 1.0), (spread, stands_for))
        for index in indices.tolist()
        if (measured := _measure(dataset, index, max_length, tokens_per_image))
    ]
    if not rows:
        return TokenStatistics(0.0, 0, 0.0, 0.0, 0, len(dataset))
    lengths, answers_cut, weights = (np.array(column) for column in zip(*rows, strict=True))
    return TokenStatistics(
        mean=float(np.average(lengths, weights=weights)),
        longest=int(lengths.max()),
        share_cut=float(np.average(lengths > max_length, weights=weights)),
        share_with_cut_answers=float(np.average(answers_cut, weights=weights)),
        looked_at=len(rows),
        total=len(dataset),
    )


@dataclass(frozen=True)
class PackingStatistics:
    """What packing saves: ``unpacked_tokens / packed_tokens``. Means of a frame, as often as an epoch takes it.

    Attributes:
        records: that can be tokenised.
        packed_tokens: after the splice, what they share counted once (once a tree where a frame takes several).
        unpacked_tokens: of the same records one by one.
        looked_at, total: frames.
    """

    records: float
    packed_tokens: float
    unpacked_tokens: float
    looked_at: int
    total: int


def packing_statistics(
    frames: FrameDataset, max_length: int, tokens_per_image: int, pack_max_tokens: int, look_at: int = 200
) -> PackingStatistics:
    """Tokenise at most ``look_at`` frames, evenly spread by length, and plan their trees; no image is read."""
    by_length = np.argsort(frames.lengths, kind="stable")
    chosen = _evenly(by_length, min(look_at, len(frames)))
    rows, weights = [], []
    for frame in chosen.tolist():
        texts = [text for text in frames.texts(frame) if "error" not in text]
        cut = [cut_record(text["input_ids"], text["labels"], max_length, tokens_per_image) for text in texts]
        packed = sum(tree.size for tree in plan_trees(cut, pack_max_tokens))
        rows.append((len(cut), packed, sum(int(record.sizes.sum()) for record in cut)))
        weights.append(frames.records.weight(int(frames.draw.members(frame)[0])))
    records, packed, unpacked = np.average(rows, axis=0, weights=weights).tolist()
    return PackingStatistics(records, packed, unpacked, len(chosen), len(frames))


def _evenly(values: np.ndarray, count: int) -> np.ndarray:
    """``count`` of the values, at even distances."""
    return values[(2 * np.arange(count) + 1) * len(values) // (2 * count)]


def _chosen(lengths: np.ndarray, look_at: int) -> tuple[np.ndarray, np.ndarray]:
    """The longest records, and others evenly spaced by length; together all where ``look_at`` suffices.

    By length and not by place, since files repeat: every fifteenth record may be the same question of another frame.
    """
    by_length = np.argsort(lengths, kind="stable")
    if len(by_length) <= look_at:
        return by_length, by_length[:0]
    longest = look_at // 2
    rest = by_length[: len(by_length) - longest]
    return by_length[len(rest) :], _evenly(rest, look_at - longest)


def _measure(
    dataset: ConversationDataset, index: int, max_length: int, tokens_per_image: int
) -> tuple[int, bool] | None:
    """A sample's length, and whether a target starts at ``max_length`` or later, where the model sees nothing."""
    try:
        encoded = dataset.encode(index)
    except DataError:
        return None  # the run itself decides about it, and names it
    sizes = torch.where(encoded["input_ids"] == IMAGE_TOKEN_INDEX, tokens_per_image, 1)
    starts = sizes.cumsum(0) - sizes
    return int(sizes.sum()), bool((encoded["labels"][starts >= max_length] != IGNORE_INDEX).any())
