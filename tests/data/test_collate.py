"""Padded batches: cut, padded on either side, with images, kinds and counts."""

import json

import pytest
import torch
from transformers import AutoTokenizer

from senna.data.batch import BatchCounts
from senna.data.collate import Collator
from senna.data.tokenize import IGNORE_INDEX, IMAGE_TOKEN_INDEX, encode_conversation
from senna.errors import DataError
from senna.model.tokenizer import load_tokenizer
from tests.data import own_conversations

IMG, IGN, PAD = IMAGE_TOKEN_INDEX, IGNORE_INDEX, 0


def sample(ids: list[int], targets: int, name: str = "s") -> dict:
    """Return a sample whose last ``targets`` tokens are targets; the pixels of each image are its number."""
    images = torch.arange(ids.count(IMG)).view(-1, 1, 1, 1).expand(-1, 3, 2, 2).float()
    labels = [IGN] * (len(ids) - targets) + ids[len(ids) - targets :]
    return {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels), "images": images, "sample": name}


def padding() -> dict:
    empty = torch.empty(0, dtype=torch.long)
    return {"input_ids": empty, "labels": empty, "images": torch.empty(0, 3, 2, 2), "sample": ""}


@pytest.mark.parametrize("name", own_conversations.BATCHES)
def test_batches_of_our_own_conversations_equal_the_stored_ones(name):
    stored = json.loads(own_conversations.STORED.read_text())
    batch = own_conversations.batch(load_tokenizer(own_conversations.TOKENIZER), name)
    assert batch == stored["batches"][name]
    # The rows are the stored cases, cut before the first token that starts at the limit, and padded on one side.
    options = own_conversations.BATCHES[name]
    for row, case in enumerate(own_conversations.BATCH):
        ids, labels = (stored["current"][case][key] for key in ("input_ids", "labels"))
        sizes = [options["tokens_per_image"] if token == IMG else 1 for token in ids]
        kept = [sum(sizes[:position]) < options["max_length"] for position in range(len(ids))].count(True)
        mask = batch["attention_mask"][row]
        assert mask == sorted(mask, reverse=options["padding_side"] == "right")
        for key, expected in (("input_ids", ids), ("labels", labels)):
            values = [value for value, is_token in zip(batch[key][row], mask, strict=True) if is_token]
            assert values == expected[:kept]
        assert {label for label, is_token in zip(batch["labels"][row], mask, strict=True) if not is_token} <= {IGN}


def test_batches_equal_the_published_ones(shared_golden):
    tokenizer = AutoTokenizer.from_pretrained(shared_golden / "vicuna_tokenizer")
    for case in json.loads((shared_golden / "collator.json").read_text()):
        rows = []
        for conversation in case["conversations"]:
            encoded = encode_conversation(conversation, tokenizer)
            rows.append({**encoded, "images": torch.zeros(6, 3, 2, 2), "sample": "s"})
        # The published code truncates before the splice, so an image counts as one token.
        batch = Collator(tokenizer.unk_token_id, case["model_max_length"], tokens_per_image=1)(rows)
        assert batch["input_ids"].tolist() == case["input_ids"], case["names"]
        mask, labels = torch.tensor(case["attention_mask"]).bool(), torch.tensor(case["labels"])
        if case["names"][0] == "v1_unk_in_answer":
            # The answer in row 0 has an unk, which is also the padding. The published code masks it from attention and masks
            # all labels of the row. Correct is: a token of the text is visible and a target; all other values are as published.
            answer = batch["input_ids"][0].tolist().index(tokenizer.unk_token_id)
            assert batch["attention_mask"][0, answer]
            assert not mask[0, answer]
            assert batch["labels"][0, answer] == tokenizer.unk_token_id
            assert (batch["attention_mask"] != mask).nonzero().tolist() == [[0, answer]]
            assert torch.equal(batch["labels"][1:], labels[1:])
        else:
            assert torch.equal(batch["attention_mask"], mask), case["names"]
            assert torch.equal(batch["labels"], labels), case["names"]


def test_padding_is_on_the_given_side():
    rows = [sample([5, 6, 7], 2), sample([8], 0)]
    right, left = (Collator(PAD, 9, 4, side)(rows) for side in ("right", "left"))
    assert right["input_ids"].tolist() == [[5, 6, 7], [8, PAD, PAD]]
    assert left["input_ids"].tolist() == [[5, 6, 7], [PAD, PAD, 8]]
    assert right["attention_mask"].tolist() == [[True] * 3, [True, False, False]]
    assert left["attention_mask"].tolist() == [[True] * 3, [False, False, True]]
    assert left["labels"].tolist() == [[IGN, 6, 7], [IGN, IGN, IGN]]
    assert right["attention_mask"].dtype == torch.bool


@pytest.mark.parametrize("max_length", range(1, 16))
def test_a_token_is_kept_if_it_starts_before_the_maximum_length_after_the_splice(max_length):
    row, views = sample([1, IMG, 2, IMG, 3, 4], 2), 4
    starts = [0, 1, 5, 6, 10, 11]  # an image takes 4 positions
    batch = Collator(PAD, max_length, views)([row])
    kept = sum(start < max_length for start in starts)
    assert batch["input_ids"][0].tolist() == row["input_ids"].tolist()[:kept]
    assert (batch["labels"] != IGN).sum() == sum(start < max_length for start in starts[-2:])
    images = [start < max_length for start in (1, 6)]
    assert batch["images"].shape[1] == sum(images)
    assert batch["images"][0, :, 0, 0, 0].tolist() == [0, 1][: sum(images)]


def test_images_are_one_tensor_if_counts_agree_and_else_a_list():
    single, double, text = sample([1, IMG, 2], 1), sample([1, IMG, IMG], 0), sample([1, 2], 1)
    assert Collator(PAD, 99, 4)([single, single])["images"].shape == (2, 1, 3, 2, 2)
    assert [len(views) for views in Collator(PAD, 99, 4)([single, double, text])["images"]] == [1, 2, 0]
    no_images = {**text, "images": torch.empty(0, 3, 2, 2)}
    assert Collator(PAD, 99, 4)([no_images, no_images])["images"].shape == (2, 0, 3, 2, 2)


def test_a_bad_sample_becomes_an_empty_row_and_is_counted():
    bad = {"sample": "file: record 3", "error": DataError("no such image", file="file", record=3)}
    batch = Collator(PAD, 99, 4)([sample([1, IMG, 2], 1, "good"), bad, padding()])
    assert batch["counts"].samples == ["good", "file: record 3"]
    assert batch["counts"].bad_samples == [bad["error"]]
    assert batch["input_ids"].tolist() == [[1, IMG, 2], [PAD] * 3, [PAD] * 3]
    assert batch["labels"][1:].eq(IGN).all()
    assert [len(views) for views in batch["images"]] == [1, 0, 0]
    # Attention over zero positions is NaN, so one position stays visible.
    assert batch["attention_mask"].sum(1).tolist() == [3, 1, 1]


def test_the_kind_of_padding_and_of_bad_samples_is_minus_one():
    good = [{**sample([1, 2], 1), "kind": kind} for kind in (2, 0)]
    bad = {"sample": "a", "error": DataError("bad", file="a")}
    kinds = Collator(PAD, 99, 4)([good[0], bad, padding(), good[1]])["kinds"]
    assert kinds.tolist() == [2, -1, -1, 0]
    assert kinds.dtype == torch.int64


def test_a_batch_of_bad_samples_alone_is_a_batch():
    batch = Collator(PAD, 99, 4)([{"sample": name, "error": DataError("bad", file=name)} for name in ("a", "b")])
    assert batch["labels"].eq(IGN).all()
    assert batch["images"].shape[:3] == (2, 0, 3)


def test_the_first_token_is_never_a_target():
    row = sample([7, 8, 9], 3)
    batch = Collator(PAD, 99, 4)([row])
    assert batch["labels"].tolist() == [[IGN, 8, 9]]
    assert row["labels"].tolist() == [7, 8, 9], "the sample must not change"


@pytest.mark.parametrize(("max_length", "tokens", "positions", "cut"), [(99, 11 + 3, 2 * 11, 0), (9, 9 + 3, 2 * 9, 1)])
def test_counts_are_the_tokens_positions_and_cut_samples_of_the_batch(max_length, tokens, positions, cut):
    rows = [sample([1, IMG, 2, IMG, 3], 1), sample([4, 5, 6], 1)]
    batch = Collator(PAD, max_length, 4)([{**row, "kind": 0} for row in rows])
    pairs = (tokens - 3) * (tokens - 2) // 2 + 6
    expected = {"tokens": tokens, "unpacked_tokens": tokens, "positions": positions, "cut": cut, "images": 2}
    in_records = {"records": 2, "targets": 2 - cut, "records_with_targets": 2 - cut}
    assert batch["counts"] == BatchCounts(["s", "s"], [], **in_records, **expected, pairs=pairs)


def test_a_cut_without_a_target_is_not_counted():
    question_last = sample([1, 2, 3, 4, 5, 6], 0)
    question_last["labels"][1] = 2
    assert Collator(PAD, 3, 4)([question_last])["counts"].cut == 0
    assert Collator(PAD, 1, 4)([question_last])["counts"].cut == 1
