"""The sampler: global batches, lengths, modalities, draws and padding."""

import itertools
import time

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler

from senna.data.sampler import PADDING, LengthGroupedSampler

COUNT = 3001
LENGTHS = np.random.default_rng(0).integers(5, 2000, COUNT)
MULTIMODAL = np.random.default_rng(1).random(COUNT) < 0.7


def sampler(per_device=4, processes=2, accumulation=3, seed=7, epoch=0, **options) -> LengthGroupedSampler:
    created = LengthGroupedSampler(LENGTHS, MULTIMODAL, per_device, processes, accumulation, seed, **options)
    created.set_epoch(epoch)
    return created


def global_batches(order: list[int], size: int) -> list[list[int]]:
    real = [index for index in order if index != PADDING]
    return [real[start : start + size] for start in range(0, len(real), size)]


@pytest.mark.parametrize("group", [True, False])
@pytest.mark.parametrize("split", [(24, 1, 1), (1, 24, 1), (1, 1, 24), (3, 8, 1), (4, 3, 2), (2, 2, 6)])
def test_global_batches_depend_only_on_their_size(group, split):
    reference = global_batches(list(sampler(group=group)), 24)
    assert global_batches(list(sampler(*split, group=group)), 24) == reference


@pytest.mark.parametrize("group", [True, False])
@pytest.mark.parametrize("split", [(4, 2, 3), (1, 1, 1), (8, 4, 1), (5000, 1, 1), (7, 3, 200)])
def test_every_sample_occurs_once_followed_by_padding_to_complete_micro_batches(group, split):
    order = list(sampler(*split, group=group))
    assert sorted(order[:COUNT]) == list(range(COUNT))
    assert set(order[COUNT:]) <= {PADDING}
    assert len(order) == len(sampler(*split, group=group))
    micro_batch = split[0] * split[1]
    assert len(order) % micro_batch == 0
    assert len(order) - COUNT < micro_batch


def test_the_batches_of_the_processes_are_disjoint_and_form_the_global_batches():
    order = list(sampler())
    reference = global_batches(order, 24)
    shards = [list(BatchSamplerShard(BatchSampler(order, 4, False), 2, rank)) for rank in range(2)]
    assert len(shards[0]) == len(shards[1])
    for number, expected in enumerate(reference):
        step = slice(3 * number, 3 * number + 3)
        seen = list(itertools.chain(*shards[0][step], *shards[1][step]))
        assert sorted(index for index in seen if index != PADDING) == sorted(expected)


def test_the_order_changes_only_with_seed_and_epoch():
    assert list(sampler()) == list(sampler())
    assert list(sampler()) != list(sampler(epoch=1))
    assert list(sampler()) != list(sampler(seed=8))
    assert list(sampler(seed=0, epoch=1)) != list(sampler(seed=1, epoch=0))
    again = sampler(epoch=1)
    assert list(again) == list(sampler(epoch=1))
    again.set_epoch(0)
    assert list(again) == list(sampler())


def test_lengths_within_a_global_batch_are_similar_and_descend():
    grouped, plain = (global_batches(list(sampler(group=group)), 24)[:-3] for group in (True, False))

    def spread(batches):
        return np.mean([np.ptp(LENGTHS[batch]) for batch in batches])

    assert spread(grouped) < spread(plain) / 10
    assert all((np.diff(LENGTHS[batch]) <= 0).all() for batch in global_batches(list(sampler()), 24))


def test_global_batches_are_not_ordered_by_length():
    longest = [LENGTHS[batch].max() for batch in global_batches(list(sampler()), 24)]
    assert abs(np.corrcoef(longest[1:], np.arange(len(longest) - 1))[0, 1]) < 0.3


@pytest.mark.parametrize("count", [30, COUNT])
def test_the_longest_sample_is_in_the_first_global_batch(count):
    lengths = LENGTHS[:count]
    for seed in range(20):
        order = LengthGroupedSampler(lengths, np.ones(count), 4, 2, 3, seed)
        assert lengths[next(iter(order))] == lengths.max()


def test_samples_with_and_without_images_share_a_batch_only_when_one_modality_runs_out():
    mixed = [len(set(MULTIMODAL[batch])) > 1 for batch in global_batches(list(sampler()), 24)]
    assert sum(mixed) <= 2
    ungrouped = global_batches(list(sampler(by_modality=False)), 24)
    assert sum(len(set(MULTIMODAL[batch])) > 1 for batch in ungrouped) > 100


class Draw:
    """A draw of the same records in every epoch."""

    def __init__(self, indices):
        self.indices, self.epoch_size = np.array(indices), len(indices)

    def epoch(self, seed, epoch):
        return self.indices


@pytest.mark.parametrize("options", [{}, {"group": False}, {"by_modality": False}])
def test_a_draw_of_every_record_once_does_not_change_the_order(options):
    for epoch in (0, 1):
        assert list(sampler(epoch=epoch, draw=Draw(range(COUNT)), **options)) == list(sampler(epoch=epoch, **options))


@pytest.mark.parametrize("group", [True, False])
def test_an_epoch_has_each_record_as_often_as_it_is_drawn(group):
    drawn = [*range(0, COUNT, 2), *range(0, COUNT, 2), *range(0, COUNT, 6)]
    drawing = sampler(group=group, draw=Draw(drawn))
    order = [index for index in drawing if index != PADDING]
    assert sorted(order) == sorted(drawn)
    assert len(list(drawing)) == len(drawing) == -(-len(drawn) // 8) * 8
    batches = global_batches(order, 24)
    assert LENGTHS[batches[0]].max() == LENGTHS[::2].max() or not group


def test_the_draw_gets_the_seed_and_the_epoch():
    class SeedAndEpoch(Draw):
        def epoch(self, seed, epoch):
            return np.full(self.epoch_size, 10 * seed + epoch)

    drawing = sampler(seed=3, epoch=4, draw=SeedAndEpoch(range(16)))
    assert set(drawing) == {34}
    drawing.set_epoch(5)
    assert set(drawing) == {35}


@pytest.mark.parametrize("count", [0, 1, 5, 24, 25])
def test_datasets_smaller_than_a_batch_are_complete(count):
    for group in (True, False):
        order = list(LengthGroupedSampler(LENGTHS[:count], MULTIMODAL[:count], 4, 2, 3, group=group))
        assert sorted(index for index in order if index != PADDING) == list(range(count))
        assert len(order) == -(-count // 8) * 8


def test_a_million_samples_are_ordered_in_seconds():
    count = 1_000_000
    random = np.random.default_rng(0)
    big = LengthGroupedSampler(random.integers(5, 2000, count), random.random(count) < 0.5, 8, 8, 3)
    start = time.perf_counter()
    order = big.order()
    assert time.perf_counter() - start < 10
    assert len(order) == count


def test_lengths_and_modalities_must_have_the_same_size():
    with pytest.raises(ValueError, match="3 lengths, but 2 modalities"):
        LengthGroupedSampler([1, 2, 3], [True, False], 1)
