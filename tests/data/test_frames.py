"""Frames as training items: all their records at once, with their images once."""

import json
import pickle
from collections import Counter
from unittest import mock

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from PIL import Image
from torch.utils.data import BatchSampler, DataLoader
from transformers import CLIPImageProcessorPil

from senna.cli import main
from senna.data.collate import Collator, PackCollator
from senna.data.dataset import ConversationDataset
from senna.data.frames import FrameDataset
from senna.data.images import load_image
from senna.data.mixture import open_mixture
from senna.data.sampler import PADDING, LengthGroupedSampler
from senna.data.statistics import packing_statistics
from senna.data.tokenize import IGNORE_INDEX
from senna.records import write_records
from senna.views import image_block
from tests.helpers.packing import names_and_targets
from tests.helpers.small_tokenizers import byte_level

PROCESSOR = CLIPImageProcessorPil(size={"shortest_edge": 14}, crop_size={"height": 14, "width": 14})
VIEW, MAX_LENGTH, MOST = 10, 400, 900
COLLATE = PackCollator(0, MAX_LENGTH, VIEW, MOST)


def a_record(frame: str, question: str, answer: str = "KEEP, STRAIGHT", head: str = image_block(), **more) -> dict:
    turns = [{"from": "human", "value": head + question}, {"from": "gpt", "value": answer}]
    paths = [f"views/{frame}-{view}.png" for view in range(6)]
    named = {"image": paths[0], "images": paths} if head else {}
    return {"id": f"{frame}/{question}", **named, "conversations": turns, **more}


def mixed_records() -> list[dict]:
    """Return frames of 1, 13 and 60 questions, a frame that also has a front view, text, and answers that are cut."""
    random = np.random.default_rng(0)
    records = [a_record(name, f"{number}?", "yes " * (5 + number % 20)) for name, count in
               (("one", 1), ("dozen", 13), ("many", 60)) for number in range(count)]  # fmt: skip
    records += [a_record("dozen", f"front {number}?", head="<image>\n") for number in range(3)]
    records += [a_record("text", f"{number}?", head="") for number in range(4)]
    records += [a_record("long", f"{number}?", "many words " * count) for number, count in enumerate((5, 200, 1, 300))]
    records += [a_record("endless", "word " * 500)]  # no token of its answer remains
    return [records[number] for number in random.permutation(len(records))]


def draw_views(folder, records) -> None:
    (folder / "views").mkdir()
    for number, path in enumerate(sorted({path for record in records for path in record.get("images", [])})):
        Image.new("RGB", (32, 18), (number * 7 % 256, 0, 255)).save(folder / path)


@pytest.fixture
def mixed(tmp_path):
    records = mixed_records()
    write_records(tmp_path / "a.jsonl", records)
    draw_views(tmp_path, records)
    return conversations(tmp_path)


def conversations(folder, weight: str = "1", **options) -> ConversationDataset:
    options = {"tokens_per_image": VIEW, **options}
    return ConversationDataset(open_mixture(f"{folder}/a.jsonl:{weight}"), byte_level(), PROCESSOR, **options)


def batches_of(frames: FrameDataset, processes: int, epoch: int = 0, workers: int = 0) -> list[dict]:
    """Return the batches of an epoch on all processes."""
    sampler = LengthGroupedSampler(
        frames.lengths, frames.multimodal, 2, processes, accumulation=2, seed=5, draw=frames.draw
    )
    sampler.set_epoch(epoch)
    shards = [BatchSamplerShard(BatchSampler(sampler, 2, False), processes, rank) for rank in range(processes)]
    assert len({len(list(shard)) for shard in shards}) == 1
    loaders = [DataLoader(frames, batch_sampler=shard, collate_fn=COLLATE, num_workers=workers) for shard in shards]
    return [batch for loader in loaders for batch in loader]


# ---- every record once, with its own tokens and targets


@pytest.mark.parametrize("processes", [1, 2])
def test_an_epoch_has_every_record_once_with_its_own_targets(mixed, processes):
    batches = batches_of(FrameDataset(mixed), processes)
    padded = Collator(0, MAX_LENGTH, VIEW)([mixed[index] for index in range(len(mixed))])
    targets = [tuple(row[row != IGNORE_INDEX].tolist()) for row in padded["labels"]]
    expected = Counter(zip(padded["counts"].samples, targets, strict=True))
    found = Counter((name, tuple(ids)) for batch in batches for name, ids in names_and_targets(batch))
    assert found == expected
    assert set(found.values()) == {1}
    assert len(found) == 1 + 13 + 60 + 3 + 4 + 4 + 1
    assert sum(batch["counts"].cut for batch in batches) == padded["counts"].cut == 3
    assert sum(batch["counts"].unpacked_tokens for batch in batches) == padded["counts"].tokens
    assert all(batch["source"].shape[1] <= MOST for batch in batches)
    assert all(batch["position_ids"].max() < MAX_LENGTH for batch in batches)
    assert not any(batch["counts"].bad_samples for batch in batches)


def test_a_frame_has_the_tokens_and_images_of_each_of_its_records(mixed):
    frames = FrameDataset(mixed)
    for number in range(len(frames)):
        item = frames[number]
        for index, record in zip(frames.draw.members(number).tolist(), item["records"], strict=True):
            sample = mixed[index]
            assert torch.equal(sample["images"], item["images"])
            assert all(torch.equal(sample[name], record[name]) for name in ("input_ids", "labels"))
            assert (sample["kind"], sample["sample"]) == (record["kind"], record["sample"])
            assert set(record) == {"input_ids", "labels", "kind", "sample"}


def test_an_epoch_takes_a_random_half_of_the_frames_with_all_their_records(mixed, tmp_path):
    frames = FrameDataset(conversations(tmp_path, "0.5"))
    assert frames.draw.epoch_size == round(len(frames) / 2)
    epochs = [batches_of(frames, 1, epoch) for epoch in range(4)]
    drawn = [{name for batch in batches for name in batch["counts"].samples} for batches in epochs]
    assert len({frozenset(names) for names in drawn}) > 1
    for names in drawn:
        for number in range(len(frames)):
            members = {mixed.records.name(index) for index in frames.draw.members(number)}
            assert members <= names or not members & names


def test_workers_and_copies_give_the_same_batches(mixed):
    frames = FrameDataset(mixed)
    frames[0]
    in_process, in_workers = batches_of(frames, 1), batches_of(pickle.loads(pickle.dumps(frames)), 1, workers=2)
    assert len(in_process) == len(in_workers) > 1
    for batch, other in zip(in_process, in_workers, strict=True):
        assert batch.keys() == other.keys()
        assert (batch["layout"], batch["counts"]) == (other["layout"], other["counts"])
        for name in ("input_ids", "source", "position_ids", "labels", "target_positions", "target_records", "images"):
            assert batch[name] is other[name] is None or torch.equal(batch[name], other[name])


def test_a_frame_of_many_questions_needs_several_trees_but_its_images_once(mixed):
    frames = FrameDataset(mixed)
    sixty = max(range(len(frames)), key=lambda number: len(frames.draw.members(number)))
    batch = COLLATE([frames[sixty]])
    assert len(batch["layout"]) > 1
    assert sum(len(tree.branches) for tree in batch["layout"]) == 60
    assert torch.equal(batch["images"], frames[sixty]["images"])


# ---- frames


def test_the_images_of_a_frame_are_decoded_once(mixed):
    frames = FrameDataset(mixed)
    sixty = max(range(len(frames)), key=lambda number: len(frames.draw.members(number)))
    with mock.patch("senna.data.dataset.load_image", side_effect=load_image) as decode:
        item = frames[sixty]
    assert (len(item["records"]), decode.call_count, item["images"].shape) == (60, 6, (6, 3, 14, 14))


def test_lengths_count_the_images_of_a_frame_once(mixed):
    frames = FrameDataset(mixed)
    assert frames.lengths.dtype == np.int64
    for number in range(len(frames)):
        members = frames.draw.members(number)
        assert frames.lengths[number] == mixed.records.words[members].sum() + VIEW * mixed.records.images[members[0]]
        assert frames.multimodal[number] == (mixed.records.images[members[0]] > 0)
    assert frames.records is mixed.records


def test_records_that_are_not_grouped_become_trees_of_their_own(mixed):
    frames = FrameDataset(mixed, together=False)
    assert len(frames) == len(mixed)
    assert frames.lengths.tolist() == mixed.lengths.tolist()
    batch = COLLATE([frames[0], frames[1]])
    assert [tree.branches for tree in batch["layout"]] == [(), ()]


@pytest.mark.parametrize("damage", ["missing", "broken"])
def test_an_image_that_cannot_be_read_makes_every_record_of_its_frame_a_bad_sample(mixed, tmp_path, damage):
    view = tmp_path / "views/dozen-3.png"
    view.unlink() if damage == "missing" else view.write_bytes(view.read_bytes()[:40])
    frames = FrameDataset(mixed)
    batch = COLLATE([frames[number] for number in range(len(frames))])
    counts = batch["counts"]
    assert len(set(map(str, counts.bad_samples))) == len(counts.bad_samples) == 13
    assert all("views/dozen-3.png" in error.message for error in counts.bad_samples)
    assert len(counts.samples) == len(mixed)
    assert len(batch["kinds"]) == len(mixed) - 13
    assert not any("front" in error.message for error in counts.bad_samples), (
        "a front view without the others is another frame"
    )


def test_a_record_that_cannot_be_used_does_not_affect_the_rest_of_its_frame(tmp_path):
    two_questions = a_record("a", "bad")
    two_questions["conversations"].append({"from": "gpt", "value": "and again"})
    records = [a_record("a", "first"), two_questions, a_record("a", "last")]
    write_records(tmp_path / "a.jsonl", records)
    draw_views(tmp_path, records)
    frames = FrameDataset(conversations(tmp_path))
    item = frames[0]
    assert len(frames) == 1
    assert [set(record) == {"sample", "error"} for record in item["records"]] == [False, True, False]
    assert str(item["records"][1]["error"]).startswith(
        f"{tmp_path}/a.jsonl: record 1, line 2 (a/bad): turn 2 is from 'gpt'"
    )
    assert len(item["images"]) == 6
    assert len(COLLATE([item])["layout"][0].branches) == 2


def test_a_record_with_a_wrong_number_of_images_is_a_bad_sample_in_a_frame_of_its_own(tmp_path):
    few = a_record("a", "few", images=["views/a-0.png"])
    records = [
        a_record("a", "first"),
        few,
        a_record("a", "last"),
        a_record("a", "none", head="", image="views/a-0.png"),
    ]
    write_records(tmp_path / "a.jsonl", records)
    draw_views(tmp_path, records)
    frames = FrameDataset(conversations(tmp_path))
    items = [frames[number] for number in range(len(frames))]
    assert [len(item["records"]) for item in items] == [2, 1, 1]
    assert ["error" in item["records"][0] for item in items] == [False, True, True]
    assert len(COLLATE(items)["counts"].bad_samples) == 2


def test_the_padding_index_gives_a_frame_without_records(mixed):
    item = FrameDataset(mixed)[PADDING]
    assert (item["records"], item["images"].shape) == ([], (0, 3, 14, 14))
    batch = COLLATE([item, item])
    assert (batch["counts"].samples, batch["counts"].bad_samples, len(batch["kinds"])) == ([], [], 0)


# ---- statistics


def test_statistics_equal_the_counts_of_the_batches(mixed):
    frames = FrameDataset(mixed)
    found = packing_statistics(frames, MAX_LENGTH, VIEW, MOST)
    batches = batches_of(frames, 1)
    assert (found.measured, found.total) == (len(frames), len(frames))
    assert found.records * len(frames) == pytest.approx(len(mixed))
    assert found.packed_tokens * len(frames) == pytest.approx(sum(batch["counts"].tokens for batch in batches))
    assert found.unpacked_tokens * len(frames) == pytest.approx(
        sum(batch["counts"].unpacked_tokens for batch in batches)
    )


def test_statistics_of_many_frames_are_estimated_from_some(tmp_path):
    counts = np.random.default_rng(0).integers(1, 20, 300).tolist()
    records = [a_record(f"f{frame}", f"{number}?") for frame, count in enumerate(counts) for number in range(count)]
    write_records(tmp_path / "a.jsonl", records)  # the images do not exist, because none is read
    frames = FrameDataset(conversations(tmp_path))
    found = packing_statistics(frames, MAX_LENGTH, VIEW, MOST, max_frames=50)
    assert (found.measured, found.total) == (50, 300)
    assert found.records == pytest.approx(np.mean(counts), rel=0.02)


def test_a_frame_counts_as_often_as_an_epoch_takes_it(tmp_path):
    write_records(tmp_path / "a.jsonl", [a_record("a", f"{number}?") for number in range(4)])
    write_records(tmp_path / "b.jsonl", [a_record("b", "1?")])
    mixture = open_mixture(f"{tmp_path}/a.jsonl:2,{tmp_path}/b.jsonl")
    frames = FrameDataset(ConversationDataset(mixture, byte_level(), PROCESSOR, tokens_per_image=VIEW))
    assert packing_statistics(frames, MAX_LENGTH, VIEW, MOST).records == pytest.approx((2 * 4 + 1) / 3)


def test_statistics_without_usable_records_are_zero(tmp_path):
    write_records(tmp_path / "a.jsonl", [{"conversations": [{"from": "human", "value": "a"}] * 2}])
    found = packing_statistics(FrameDataset(conversations(tmp_path)), MAX_LENGTH, VIEW, MOST)
    assert (found.records, found.packed_tokens, found.unpacked_tokens) == (0, 0, 0)


def test_converted_frames_pack_to_less_than_a_third(drawn_world, tmp_path):
    assert main(["convert", "--nuscenes", str(drawn_world), "--version", "v1.0-mini", "--out", str(tmp_path)]) == 0
    path = tmp_path / "senna_nusc_train.jsonl"
    tokens = [json.loads(line)["token"] for line in path.read_text().splitlines()]
    frames = FrameDataset(ConversationDataset(open_mixture(f"{path}"), byte_level(), PROCESSOR))
    by_frame = [{tokens[index] for index in frames.draw.members(number)} for number in range(len(frames))]
    assert all(len(members) == 1 for members in by_frame), "records of one frame have one token"
    assert len(frames) == len(set(tokens))
    found = packing_statistics(frames, 2048, 128, 4096)
    assert found.records == pytest.approx(len(tokens) / len(frames))
    assert found.records > 8
    assert found.unpacked_tokens / found.packed_tokens > 3
