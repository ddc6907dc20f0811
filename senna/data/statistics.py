"""Lengths of samples in tokens and the effect of the length limit, computed before a run without reading an image."""

from dataclasses import dataclass

import numpy as np
import torch

from senna.data.dataset import ConversationDataset
from senna.data.frame_packing import cut_record, pack_trees
from senna.data.frames import FrameDataset
from senna.errors import DataError
from senna.model.config import IGNORE_INDEX, IMAGE_TOKEN_INDEX


@dataclass(frozen=True)
class TokenStatistics:
    """Lengths in tokens after the splice. They are exact if ``measured == total``, else estimates.

    Attributes:
        mean: tokens of a sample.
        longest: tokens of the longest sample that was tokenized; the samples with most words are among them.
        share_cut: share of the samples, 0 to 1, that are longer than the limit.
        share_with_cut_answers: share of the samples, 0 to 1, that lose tokens of an answer to the limit.
        measured, total: number of records that were tokenized, and number of all records.
    """

    mean: float
    longest: int
    share_cut: float
    share_with_cut_answers: float
    measured: int
    total: int


def token_statistics(
    dataset: ConversationDataset, max_length: int, tokens_per_image: int, max_records: int = 2000
) -> TokenStatistics:
    """Tokenize at most ``max_records`` records and compute the effect of the limit of ``max_length`` tokens.

    Half of these records are the longest by estimate, so that no long one is missed; they represent themselves. The other
    half represents the rest. A record is weighted by how often an epoch takes it; one that cannot be tokenized is left out.
    """
    longest, spread = _choose(dataset.lengths, max_records)
    spread_weight = (len(dataset) - len(longest)) / max(len(spread), 1)
    rows = [
        (*lengths, dataset.records.weight(index) * weight)
        for indices, weight in ((longest, 1.0), (spread, spread_weight))
        for index in indices.tolist()
        if (lengths := _measure(dataset, index, max_length, tokens_per_image))
    ]
    if not rows:
        return TokenStatistics(0.0, 0, 0.0, 0.0, 0, len(dataset))
    lengths, answers_cut, weights = (np.array(column) for column in zip(*rows, strict=True))
    return TokenStatistics(
        mean=float(np.average(lengths, weights=weights)),
        longest=int(lengths.max()),
        share_cut=float(np.average(lengths > max_length, weights=weights)),
        share_with_cut_answers=float(np.average(answers_cut, weights=weights)),
        measured=len(rows),
        total=len(dataset),
    )


@dataclass(frozen=True)
class PackingStatistics:
    """The saving by packing, ``unpacked_tokens / packed_tokens``; means over frames, weighted like an epoch.

    Attributes:
        records: number of records of a frame that can be tokenized.
        packed_tokens: tokens of these records after the splice, with a shared prefix counted once for each tree.
        unpacked_tokens: tokens of the same records, each by itself.
        measured, total: number of frames that were tokenized, and number of all frames.
    """

    records: float
    packed_tokens: float
    unpacked_tokens: float
    measured: int
    total: int


def packing_statistics(
    frames: FrameDataset, max_length: int, tokens_per_image: int, pack_max_tokens: int, max_frames: int = 200
) -> PackingStatistics:
    """Tokenize at most ``max_frames`` frames, evenly spread by length, and compute their trees; no image is read."""
    by_length = np.argsort(frames.lengths, kind="stable")
    chosen = _evenly(by_length, min(max_frames, len(frames)))
    rows, weights = [], []
    for frame in chosen.tolist():
        texts = [text for text in frames.texts(frame) if "error" not in text]
        cut = [cut_record(text["input_ids"], text["labels"], max_length, tokens_per_image) for text in texts]
        packed = sum(tree.size for tree in pack_trees(cut, pack_max_tokens))
        rows.append((len(cut), packed, sum(int(record.sizes.sum()) for record in cut)))
        weights.append(frames.records.weight(int(frames.draw.members(frame)[0])))
    records, packed, unpacked = np.average(rows, axis=0, weights=weights).tolist()
    return PackingStatistics(records, packed, unpacked, len(chosen), len(frames))


def _evenly(values: np.ndarray, count: int) -> np.ndarray:
    """Return ``count`` of the values, evenly spaced."""
    return values[(2 * np.arange(count) + 1) * len(values) // (2 * count)]


def _choose(lengths: np.ndarray, max_records: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the longest records, and others evenly spaced by length; all records if there are few enough.

    They are spaced by length and not by index because files are periodic: every 15th record may be the same question.
    """
    by_length = np.argsort(lengths, kind="stable")
    if len(by_length) <= max_records:
        return by_length, by_length[:0]
    longest = max_records // 2
    rest = by_length[: len(by_length) - longest]
    return by_length[len(rest) :], _evenly(rest, max_records - longest)


def _measure(
    dataset: ConversationDataset, index: int, max_length: int, tokens_per_image: int
) -> tuple[int, bool] | None:
    """Return the length of a sample, and whether the limit cuts a target; None for a record that cannot be tokenized.

    The model does not see tokens that start at ``max_length`` or later.
    """
    try:
        encoded = dataset.encode(index)
    except DataError:
        return None  # the training run reports it and applies --skip_bad_samples
    sizes = torch.where(encoded["input_ids"] == IMAGE_TOKEN_INDEX, tokens_per_image, 1)
    starts = sizes.cumsum(0) - sizes
    return int(sizes.sum()), bool((encoded["labels"][starts >= max_length] != IGNORE_INDEX).any())
