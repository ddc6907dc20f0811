"""Statistics of lengths in tokens, before a run."""

import json

import numpy as np
import pytest
import torch
from transformers import CLIPImageProcessorPil

from senna.data.collate import Collator
from senna.data.dataset import ConversationDataset
from senna.data.mixture import open_mixture
from senna.data.statistics import token_statistics
from senna.data.tokenize import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from senna.model.tokenizer import load_tokenizer
from senna.records import write_records
from senna.views import image_block
from tests.data import own_conversations
from tests.helpers.small_tokenizers import byte_level

PROCESSOR = CLIPImageProcessorPil(size={"shortest_edge": 14}, crop_size={"height": 14, "width": 14})
VIEW = 10  # tokens a view


def a_record(words: int, answer: str = "yes", views: int = 6) -> dict:
    question = image_block() if views == 6 else "<image>\n" * views
    turns = [{"from": "human", "value": question + "word " * words}, {"from": "gpt", "value": answer}]
    return {"images": [f"{view}.jpg" for view in range(views)], "conversations": turns}  # no such file: none is read


def dataset(tmp_path, records, weight="1", more=()) -> ConversationDataset:
    write_records(tmp_path / "a.jsonl", records)
    data_path = f"{tmp_path}/a.jsonl:{weight}"
    if more:
        write_records(tmp_path / "b.jsonl", more)
        data_path += f",{tmp_path}/b.jsonl"
    return ConversationDataset(open_mixture(data_path), byte_level(), PROCESSOR, tokens_per_image=VIEW)


def lengths_of(data: ConversationDataset) -> np.ndarray:
    """Return lengths after the splice, from all ids."""
    ids = [data.encode(number)["input_ids"].tolist() for number in range(len(data))]
    return np.array([len(row) + (VIEW - 1) * row.count(IMAGE_TOKEN_INDEX) for row in ids])


def test_few_records_are_all_tokenized_and_the_figures_are_exact(tmp_path):
    data = dataset(tmp_path, [a_record(words, views=views) for words, views in ((5, 0), (30, 6), (90, 1), (60, 6))])
    lengths = lengths_of(data)
    limit = int(np.sort(lengths)[2])  # only the longest of the four exceeds it
    found = token_statistics(data, limit, VIEW)
    assert (found.measured, found.total) == (4, 4)
    assert found.mean == pytest.approx(lengths.mean())
    assert (found.longest, found.share_cut) == (lengths.max(), 0.25)
    assert token_statistics(data, int(lengths.max()), VIEW).share_cut == 0


@pytest.mark.parametrize("less", [0, 1, 2, 30])
def test_an_answer_counts_as_cut_if_the_batch_loses_a_target(tmp_path, less):
    data = dataset(tmp_path, [a_record(20, "a long answer of some words that may be lost")])
    encoded = data.encode(0)
    limit = int(lengths_of(data)[0]) - less
    batch = Collator(0, limit, VIEW)([{**encoded, "images": torch.empty(6, 3, 1, 1), "sample": "s"}])
    lost = (batch["labels"] != IGNORE_INDEX).sum() < (encoded["labels"] != IGNORE_INDEX).sum()
    found = token_statistics(data, limit, VIEW)
    assert found.share_with_cut_answers == float(lost)
    assert found.share_cut == float(less > 0)
    assert lost == (less > 0)


def test_a_cut_question_after_the_last_answer_is_no_cut_answer(tmp_path):
    record = a_record(5)
    record["conversations"].append({"from": "human", "value": "word " * 50})
    data = dataset(tmp_path, [record])
    found = token_statistics(data, int(lengths_of(data)[0]) - 10, VIEW)
    assert (found.share_cut, found.share_with_cut_answers) == (1, 0)


def test_many_records_are_estimated_from_some_and_no_long_one_is_missed(tmp_path):
    words = np.random.default_rng(0).integers(5, 200, 3000)
    words[1234], words[77] = 900, 800
    data = dataset(tmp_path, [a_record(int(count)) for count in words])
    lengths = lengths_of(data)
    limit = int(np.sort(lengths)[-301])  # cuts a tenth, more than the number of longest records that are tokenized
    found = token_statistics(data, limit, VIEW, max_records=200)
    assert (found.measured, found.total) == (200, 3000)
    assert found.longest == lengths.max()
    assert found.mean == pytest.approx(lengths.mean(), rel=0.01)
    assert found.share_cut == pytest.approx(0.1, abs=0.01)
    limit = int(np.sort(lengths)[-3])
    assert token_statistics(data, limit, VIEW, max_records=200).share_with_cut_answers == pytest.approx(2 / 3000)


@pytest.mark.parametrize("period", [2, 5, 15])
def test_a_periodic_file_does_not_bias_the_estimate(tmp_path, period):
    data = dataset(tmp_path, [a_record(200 if number % period == 0 else 10) for number in range(period * 40)])
    found = token_statistics(data, 10_000, VIEW, max_records=40)
    assert found.mean == pytest.approx(lengths_of(data).mean(), rel=0.05)


def test_a_record_counts_as_often_as_an_epoch_takes_it(tmp_path):
    data = dataset(tmp_path, [a_record(10)] * 4, weight="2.5", more=[a_record(100)] * 6)
    short, long = lengths_of(data)[[0, -1]]
    found = token_statistics(data, int(short), VIEW)
    assert found.mean == pytest.approx((10 * short + 6 * long) / 16)
    assert found.share_cut == pytest.approx(6 / 16)


def test_records_that_cannot_be_used_are_left_out(tmp_path):
    wrong = {"conversations": [{"from": "human", "value": "a"}] * 2}
    found = token_statistics(dataset(tmp_path, [a_record(5), wrong]), 100, VIEW)
    assert (found.measured, found.total) == (1, 2)
    empty = token_statistics(dataset(tmp_path, [wrong]), 100, VIEW)
    assert (empty.mean, empty.longest, empty.share_cut, empty.measured) == (0, 0, 0, 0)


def test_the_longest_record_has_the_stored_tokens_and_those_of_its_images(tmp_path):
    version, conversation = own_conversations.CASES["six_images"]
    write_records(tmp_path / "a.jsonl", [{"images": list("abcdef"), "conversations": conversation}])
    tokenizer = load_tokenizer(own_conversations.TOKENIZER)
    data = ConversationDataset(open_mixture(f"{tmp_path}/a.jsonl"), tokenizer, PROCESSOR, version=version)
    stored = json.loads(own_conversations.STORED.read_text())["current"]["six_images"]
    assert token_statistics(data, 2048, 128).longest == len(stored["input_ids"]) + 6 * 127
