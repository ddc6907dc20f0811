"""The sampler: the order of an epoch, the same for any number of processes and workers."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from torch.utils.data import Sampler

PADDING = -1
"""The index of no sample, which gives every process the same number of samples."""

_BATCHES_SORTED_TOGETHER = 50  # more waste less padding, fewer are closer to a plain shuffle


class Draw(Protocol):
    """The choice of the samples of an epoch, for example a ``senna.data.mixture.Mixture``."""

    epoch_size: int

    def epoch(self, seed: int, epoch: int) -> np.ndarray:
        """Return indices, int64 (epoch_size,), the same for the same arguments."""
        ...


class LengthGroupedSampler(Sampler[int]):
    """Shuffled indices in which the samples of one optimizer step have similar lengths.

    A *global batch* is the samples of one optimizer step: ``batch_size_per_device * num_processes * accumulation``. For a
    given seed and epoch, the content and order of the global batches depend only on this product, not on its factors.
    Each sample occurs once in an epoch, or as often as ``draw`` chooses it; then ``PADDING`` fills up to a multiple of
    ``batch_size_per_device * num_processes``. The last global batch may be smaller than the others.

    Lengths descend within a global batch, so that the batches which accelerate gives to the processes at the same time have
    similar lengths. The first global batch contains the longest sample (if its modality fills a batch), so that a lack of
    memory appears in the first step.
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
        """Create the sampler.

        Args:
            lengths: (N,), tokens of each sample; an estimate is enough.
            multimodal: (N,), whether a sample has images.
            group: whether to group by length; False gives a plain shuffle.
            by_modality: whether samples with and without images share a global batch only when neither are left in
                sufficient number to fill one.
            draw: chooses the samples of each epoch; by default every sample once.
        """
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
        """Set the epoch of the next iteration; accelerate calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.epoch_size // self.micro_batch) * self.micro_batch

    def __iter__(self) -> Iterator[int]:
        order = self.order()
        return iter(np.pad(order, (0, len(self) - len(order)), constant_values=PADDING).tolist())

    def order(self) -> np.ndarray:
        """Return the samples of this epoch in their order, int64 (epoch_size,), without padding."""
        random = np.random.default_rng((self.seed, self.epoch))
        indices = random.permutation(self.epoch_size)
        if self.draw is not None:
            indices = self.draw.epoch(self.seed, self.epoch)[indices]
        if not self.group:
            return indices
        if len(indices):
            longest = int(self.lengths[indices].argmax())
            indices[[0, longest]] = indices[[longest, 0]]
        pools = [indices]
        if self.by_modality:
            has_images = self.multimodal[indices]
            pools = [indices[has_images], indices[~has_images]]
        sizes = [len(pool) // self.global_batch * self.global_batch for pool in pools]  # in complete batches
        batches = [self._sorted_batches(pool[:size]) for pool, size in zip(pools, sizes, strict=True)]
        # The rests of the pools may fill one more batch together, the only one with both modalities.
        rest = np.concatenate([pool[size:] for pool, size in zip(pools, sizes, strict=True)])
        if len(rest) >= self.global_batch:
            batches.append(self._sorted_batches(rest[: self.global_batch]))
            rest = rest[self.global_batch :]
        shuffled = self._longest_first(random.permutation(np.concatenate(batches)))
        return np.concatenate([shuffled.ravel(), rest[self._descending(rest)]])

    def _sorted_batches(self, indices: np.ndarray) -> np.ndarray:
        """Return (batches, global_batch): groups of a few batches are sorted by length, then split into batches."""
        group = np.arange(len(indices)) // (self.global_batch * _BATCHES_SORTED_TOGETHER)
        by_length = indices[np.lexsort((-self.lengths[indices], group))]
        return by_length.reshape(-1, self.global_batch)

    def _longest_first(self, batches: np.ndarray) -> np.ndarray:
        if not len(batches):
            return batches
        longest = int(self.lengths[batches].max(axis=1).argmax())
        return np.concatenate([batches[longest : longest + 1], np.delete(batches, longest, axis=0)])

    def _descending(self, indices: np.ndarray) -> np.ndarray:
        return np.argsort(-self.lengths[indices], kind="stable")
