"""The order of an epoch, the same on any number of processes and workers."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from torch.utils.data import Sampler

PADDING = -1
"""The index that stands for no sample, so that every process has as many."""

_BATCHES_SORTED_TOGETHER = 50  # more waste less padding, fewer are closer to a plain shuffle


class Draw(Protocol):
    """What an epoch takes; ``senna.data.mixture.Mixture`` is one."""

    epoch_size: int

    def epoch(self, seed: int, epoch: int) -> np.ndarray:
        """int64 (epoch_size,): indices, the same for the same arguments."""


class LengthGroupedSampler(Sampler[int]):
    """Shuffled indices in which samples of one optimizer step have similar lengths.

    A *global batch* is what one optimizer step sees: ``batch_size_per_device * num_processes * accumulation`` samples.
    Same seed and epoch: the global batches, their contents and their order depend on that product alone, not on its
    factors. Each sample comes once an epoch, or as often as ``draw`` says, then ``PADDING`` up to a multiple of
    ``batch_size_per_device * num_processes``; the last global batch may be smaller than the others.

    Within a global batch lengths descend, so that the consecutive batches which accelerate hands to the processes of
    one moment are alike. The first global batch holds the longest sample (where its kind fills a batch at all), so that
    a lack of memory shows at once.
    """

    def __init__(
        self,
        lengths: Sequence[int] | np.ndarray,
        multimodal: Sequence[bool] | np.ndarray,
        batch_size_per_device: int,
        num_processes: int = 1,
        accumulation: int = 1,
        seed: int = 0,
        group: bool = True,
        by_modality: bool = True,
        draw: Draw | None = None,
    ) -> None:
        """``group=False`` is a plain shuffle. ``by_modality``: samples with images (``multimodal``) and without share a
        global batch only when neither are left in number enough to fill one. ``draw``: the samples of each epoch, by
        default every one once."""
        self.lengths = np.asarray(lengths, dtype=np.int64)
        self.multimodal = np.asarray(multimodal, dtype=bool)
        if self.lengths.shape != self.multimodal.shape:
            raise ValueError(f"{len(self.lengths)} lengths, but {len(self.multimodal)} modalities")
        self.micro_batch = batch_size_per_device * num_processes
        self.global_batch = self.micro_batch * accumulation
        self.seed, self.epoch = seed, 0
        self.group, self.by_modality = group, by_modality
        self.draw = draw
        self.epoch_size = len(self.lengths) if draw is None else draw.epoch_size

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order iteration gives; accelerate calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.epoch_size // self.micro_batch) * self.micro_batch

    def __iter__(self) -> Iterator[int]:
        order = self.order()
        return iter(np.pad(order, (0, len(self) - len(order)), constant_values=PADDING).tolist())

    def order(self) -> np.ndarray:
        """int64 (epoch_size,): this epoch's samples in their order, without padding."""
        random = np.random.default_rng((self.seed, self.epoch))
        everything = random.permutation(self.epoch_size)
        if self.draw is not None:
            everything = self.draw.epoch(self.seed, self.epoch)[everything]
        if not self.group:
            return everything
        if len(everything):
            longest = int(self.lengths[everything].argmax())
            everything[[0, longest]] = everything[[longest, 0]]
        pools = [everything]
        if self.by_modality:
            has_images = self.multimodal[everything]
            pools = [everything[has_images], everything[~has_images]]
        whole = [len(pool) // self.global_batch * self.global_batch for pool in pools]
        batches = [self._sorted_batches(pool[:size]) for pool, size in zip(pools, whole, strict=True)]
        # What is left of each pool may fill one more batch together; the pools stay apart as far as that goes.
        rest = np.concatenate([pool[size:] for pool, size in zip(pools, whole, strict=True)])
        if len(rest) >= self.global_batch:
            batches.append(self._sorted_batches(rest[: self.global_batch]))
            rest = rest[self.global_batch :]
        shuffled = self._longest_first(random.permutation(np.concatenate(batches)))
        return np.concatenate([shuffled.ravel(), rest[self._descending(rest)]])

    def _sorted_batches(self, indices: np.ndarray) -> np.ndarray:
        """(batches, global batch): stretches of a few batches are sorted by length and cut up."""
        stretch = np.arange(len(indices)) // (self.global_batch * _BATCHES_SORTED_TOGETHER)
        by_length = indices[np.lexsort((-self.lengths[indices], stretch))]
        return by_length.reshape(-1, self.global_batch)

    def _longest_first(self, batches: np.ndarray) -> np.ndarray:
        if not len(batches):
            return batches
        longest = int(self.lengths[batches].max(axis=1).argmax())
        return np.concatenate([batches[longest : longest + 1], np.delete(batches, longest, axis=0)])

    def _descending(self, indices: np.ndarray) -> np.ndarray:
        return np.argsort(-self.lengths[indices], kind="stable")
