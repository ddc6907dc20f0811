"""How long samples are in tokens, and what the length limit cuts off: told before a run, without reading an image."""

from dataclasses import dataclass

import numpy as np
import torch

from senna.data.dataset import ConversationDataset
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


def _chosen(lengths: np.ndarray, look_at: int) -> tuple[np.ndarray, np.ndarray]:
    """The longest records, and others evenly spaced by length; together all where ``look_at`` suffices.

    By length and not by place, since files repeat: every fifteenth record may be the same question of another frame.
    """
    by_length = np.argsort(lengths, kind="stable")
    if len(by_length) <= look_at:
        return by_length, by_length[:0]
    longest = look_at // 2
    rest = by_length[: len(by_length) - longest]
    count = look_at - longest
    return by_length[len(rest) :], rest[(2 * np.arange(count) + 1) * len(rest) // (2 * count)]


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
