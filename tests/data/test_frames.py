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
from transformers import AutoTokenizer, CLIPImageProcessorPil

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
from tests.data.small_tokenizers import byte_level
from tests.data.test_frame_packing import seen

PROCESSOR = CLIPImageProcessorPil(size={"shortest_edge": 14}, crop_size={"height": 14, "width": 14})
VIEW, MAX_LENGTH, MOST = 10, 400, 900
COLLATE = PackCollator(0, MAX_LENGTH, VIEW, MOST)


def a_record(frame: str, question: str, answer: str = "KEEP, STRAIGHT", head: str = image_block(), **more) -> dict:
    turns = [{"from": "human", "value": head + question}, {"from": "gpt", "value": answer}]
    paths = [f"views/{frame}-{view}.png" for view in range(6)]
    named = {"image": paths[0], "images": paths} if head else {}
    return {"id": f"{frame}/{question}", **named, "conversations": turns, **more}


def odd_records() -> list[dict]:
    """Frames of 1, 13 and 60 questions, one with a front view beside the six, text alone, and answers that are cut."""
    random = np.random.default_rng(0)
    records = [a_record(name, f"{number}?", "yes " * (5 + number % 20)) for name, count in
               (("one", 1), ("dozen", 13), ("many", 60)) for number in range(count)]  # fmt: skip
    records += [a_record("dozen", f"front {number}?", head="<image>\n") for number in range(3)]
    records += [a_record("text", f"{number}?", head="") for number in range(4)]
    records += [a_record("long", f"{number}?", "many words " * count) for number, count in enumerate((5, 200, 1, 300))]
    records += [a_record("endless", "word " * 500)]  # no answer is left of it
    return [records[number] for number in random.permutation(len(records))]


def draw_views(folder, records) -> None:
    (folder / "views").mkdir()
    for number, path in enumerate(sorted({path for record in records for path in record.get("images", [])})):
        Image.new("RGB", (32, 18), (number * 7 % 256, 0, 255)).save(folder / path)


@pytest.fixture
def odd(tmp_path):
    records = odd_records()
    write_records(tmp_path / "a.jsonl", records)
    draw_views(tmp_path, records)
    return conversations(tmp_path)


def conversations(folder, weight: str = "1", **options) -> ConversationDataset:
    options = {"tokens_per_image": VIEW, **options}
    return ConversationDataset(open_mixture(f"{folder}/a.jsonl:{weight}"), byte_level(), PROCESSOR, **options)


def batches_of(frames: FrameDataset, processes: int, epoch: int = 0, workers: int = 0) -> list[dict]:
    """The batches of an epoch, on all processes."""
    sampler = LengthGroupedSampler(
        frames.lengths, frames.multimodal, 2, processes, accumulation=2, seed=5, draw=frames.draw
    )
    sampler.set_epoch(epoch)
    shards = [BatchSamplerShard(BatchSampler(sampler, 2, False), processes, rank) for rank in range(processes)]
    assert len({len(list(shard)) for shard in shards}) == 1
    loaders = [DataLoader(frames, batch_sampler=shard, collate_fn=COLLATE, num_workers=workers) for shard in shards]
    return [batch for loader in loaders for batch in loader]


# ---- every record once, as it would be by itself


@pytest.mark.parametrize("processes", [1, 2])
def test_an_epoch_trains_every_record_once_with_the_targets_it_has_by_itself(odd, processes):
    batches = batches_of(FrameDataset(odd), processes)
    alone = Collator(0, MAX_LENGTH, VIEW)([odd[index] for index in range(len(odd))])
    targets = [tuple(row[row != IGNORE_INDEX].tolist()) for row in alone["labels"]]
    expected = Counter(zip(alone["samples"], targets, strict=True))
    found = Counter((name, tuple(ids)) for batch in batches for name, ids in seen(batch))
    assert found == expected
    assert set(found.values()) == {1}
    assert len(found) == 1 + 13 + 60 + 3 + 4 + 4 + 1
    assert sum(batch["cut"] for batch in batches) == alone["cut"] == 3
    assert sum(batch["unpacked_tokens"] for batch in batches) == alone["tokens"]
    assert all(batch["source"].shape[1] <= MOST for batch in batches)
    assert all(batch["position_ids"].max() < MAX_LENGTH for batch in batches)
    assert not any(batch["bad_samples"] for batch in batches)


def test_what_stands_in_the_rows_is_the_text_and_the_pictures_of_each_record(odd):
    frames = FrameDataset(odd)
    for number in range(len(frames)):
        item = frames[number]
        for index, record in zip(frames.draw.members(number).tolist(), item["records"], strict=True):
            sample = odd[index]
            assert torch.equal(sample["images"], item["images"])
            assert all(torch.equal(sample[name], record[name]) for name in ("input_ids", "labels"))
            assert (sample["kind"], sample["sample"]) == (record["kind"], record["sample"])
            assert set(record) == {"input_ids", "labels", "kind", "sample"}


def test_an_epoch_takes_a_random_half_of_the_frames_whole(odd, tmp_path):
    frames = FrameDataset(conversations(tmp_path, "0.5"))
    assert frames.draw.epoch_size == round(len(frames) / 2)
    epochs = [batches_of(frames, 1, epoch) for epoch in range(4)]
    drawn = [{name for batch in batches for name in batch["samples"]} for batches in epochs]
    assert len({frozenset(names) for names in drawn}) > 1
    for names in drawn:
        whole = [{odd.records.name(index) for index in frames.draw.members(number)} for number in range(len(frames))]
        assert all(members <= names or not members & names for members in whole)


def test_workers_and_copies_give_the_same_batches(odd):
    frames = FrameDataset(odd)
    frames[0]
    one, two = batches_of(frames, 1), batches_of(pickle.loads(pickle.dumps(frames)), 1, workers=2)
    assert len(one) == len(two) > 1
    for here, there in zip(one, two, strict=True):
        assert here.keys() == there.keys()
        assert (here["layout"], here["samples"]) == (there["layout"], there["samples"])
        for name in ("input_ids", "source", "position_ids", "labels", "target_places", "target_records", "images"):
            assert here[name] is there[name] is None or torch.equal(here[name], there[name])


def test_a_frame_of_many_questions_takes_several_trees_and_still_its_images_once(odd):
    frames = FrameDataset(odd)
    sixty = max(range(len(frames)), key=lambda number: len(frames.draw.members(number)))
    batch = COLLATE([frames[sixty]])
    assert len(batch["layout"]) > 1
    assert sum(len(tree.branches) for tree in batch["layout"]) == 60
    assert torch.equal(batch["images"], frames[sixty]["images"])


# ---- frames


def test_the_images_of_a_frame_are_decoded_once(odd):
    frames = FrameDataset(odd)
    sixty = max(range(len(frames)), key=lambda number: len(frames.draw.members(number)))
    with mock.patch("senna.data.dataset.load_image", side_effect=load_image) as decode:
        item = frames[sixty]
    assert (len(item["records"]), decode.call_count, item["images"].shape) == (60, 6, (6, 3, 14, 14))


def test_lengths_count_the_images_of_a_frame_once(odd):
    frames = FrameDataset(odd)
    assert frames.lengths.dtype == np.int64
    for number in range(len(frames)):
        members = frames.draw.members(number)
        assert frames.lengths[number] == odd.records.words[members].sum() + VIEW * odd.records.images[members[0]]
        assert frames.multimodal[number] == (odd.records.images[members[0]] > 0)
    assert frames.records is odd.records


def test_records_that_do_not_go_together_are_packed_as_trees_of_their_own(odd):
    frames = FrameDataset(odd, together=False)
    assert len(frames) == len(odd)
    assert frames.lengths.tolist() == odd.lengths.tolist()
    batch = COLLATE([frames[0], frames[1]])
    assert [tree.branches for tree in batch["layout"]] == [(), ()]


@pytest.mark.parametrize("damage", ["missing", "broken"])
def test_a_picture_that_cannot_be_read_makes_every_record_of_its_frame_a_bad_one(odd, tmp_path, damage):
    view = tmp_path / "views/dozen-3.png"
    view.unlink() if damage == "missing" else view.write_bytes(view.read_bytes()[:40])
    frames = FrameDataset(odd)
    batch = COLLATE([frames[number] for number in range(len(frames))])
    assert len(batch["bad_samples"]) == 13
    assert all("views/dozen-3.png" in message for message in batch["bad_samples"])
    assert len(set(batch["bad_samples"])) == 13
    assert len(batch["samples"]) == len(odd)
    assert len(batch["kinds"]) == len(odd) - 13
    assert any("front" in name for name in batch["samples"]), "another frame with another view of the same moment"


def test_a_record_that_cannot_be_used_leaves_the_rest_of_its_frame(tmp_path):
    two_questions = a_record("a", "bad")
    two_questions["conversations"].append({"from": "gpt", "value": "and again"})
    records = [a_record("a", "first"), two_questions, a_record("a", "last")]
    write_records(tmp_path / "a.jsonl", records)
    draw_views(tmp_path, records)
    frames = FrameDataset(conversations(tmp_path))
    item = frames[0]
    assert len(frames) == 1
    assert [set(record) == {"sample", "error"} for record in item["records"]] == [False, True, False]
    assert item["records"][1]["error"].startswith(f"{tmp_path}/a.jsonl: record 1, line 2 (a/bad): turn 2 is from 'gpt'")
    assert len(item["images"]) == 6
    assert len(COLLATE([item])["layout"][0].branches) == 2


def test_a_record_whose_images_and_text_differ_in_number_is_told_and_no_frame_of_others(tmp_path):
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
    assert len(COLLATE(items)["bad_samples"]) == 2


def test_the_padding_index_is_a_frame_of_nothing(odd):
    item = FrameDataset(odd)[PADDING]
    assert (item["records"], item["images"].shape) == ([], (0, 3, 14, 14))
    batch = COLLATE([item, item])
    assert (batch["samples"], batch["bad_samples"], len(batch["kinds"])) == ([], [], 0)


# ---- how much it saves


def test_statistics_are_what_the_batches_hold(odd):
    frames = FrameDataset(odd)
    found = packing_statistics(frames, MAX_LENGTH, VIEW, MOST)
    batches = batches_of(frames, 1)
    assert (found.looked_at, found.total) == (len(frames), len(frames))
    assert found.records * len(frames) == pytest.approx(len(odd))
    assert found.packed_tokens * len(frames) == pytest.approx(sum(batch["tokens"] for batch in batches))
    assert found.unpacked_tokens * len(frames) == pytest.approx(sum(batch["unpacked_tokens"] for batch in batches))


def test_statistics_of_many_frames_are_told_from_some(tmp_path):
    counts = np.random.default_rng(0).integers(1, 20, 300).tolist()
    records = [a_record(f"f{frame}", f"{number}?") for frame, count in enumerate(counts) for number in range(count)]
    write_records(tmp_path / "a.jsonl", records)  # no image is there: none is read
    frames = FrameDataset(conversations(tmp_path))
    found = packing_statistics(frames, MAX_LENGTH, VIEW, MOST, look_at=50)
    assert (found.looked_at, found.total) == (50, 300)
    assert found.records == pytest.approx(np.mean(counts), rel=0.02)


def test_a_frame_counts_as_often_as_an_epoch_takes_it(tmp_path):
    write_records(tmp_path / "a.jsonl", [a_record("a", f"{number}?") for number in range(4)])
    write_records(tmp_path / "b.jsonl", [a_record("b", "1?")])
    mixture = open_mixture(f"{tmp_path}/a.jsonl:2,{tmp_path}/b.jsonl")
    frames = FrameDataset(ConversationDataset(mixture, byte_level(), PROCESSOR, tokens_per_image=VIEW))
    assert packing_statistics(frames, MAX_LENGTH, VIEW, MOST).records == pytest.approx((2 * 4 + 1) / 3)


def test_statistics_of_nothing_that_can_be_used_are_zero(tmp_path):
    write_records(tmp_path / "a.jsonl", [{"conversations": [{"from": "human", "value": "a"}] * 2}])
    found = packing_statistics(FrameDataset(conversations(tmp_path)), MAX_LENGTH, VIEW, MOST)
    assert (found.records, found.packed_tokens, found.unpacked_tokens) == (0, 0, 0)


def test_converted_frames_of_nuscenes_pack_to_a_fraction(data, shared_golden, tmp_path):
    flags = ["--nuscenes", str(data / "nuscenes_mini3"), "--version", "v1.0-mini", "--allow-missing-images"]
    assert main(["convert", *flags, "--out", str(tmp_path)]) == 0
    path = tmp_path / "senna_nusc_train.jsonl"
    tokens = [json.loads(line)["token"] for line in path.read_text().splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(shared_golden / "vicuna_tokenizer")
    frames = FrameDataset(ConversationDataset(open_mixture(f"{path}"), tokenizer, PROCESSOR))
    by_frame = [{tokens[index] for index in frames.draw.members(number)} for number in range(len(frames))]
    assert all(len(of) == 1 for of in by_frame), "records of one frame have one token"
    assert len(frames) == len(set(tokens))
    found = packing_statistics(frames, 2048, 128, 4096)
    assert found.records == pytest.approx(len(tokens) / len(frames))
    assert found.records > 8
    assert found.unpacked_tokens / found.packed_tokens > 3
