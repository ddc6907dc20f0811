import json
import pickle

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from transformers import CLIPImageProcessorPil

from senna.data.collate import Collator
from senna.data.dataset import ConversationDataset
from senna.data.images import load_image
from senna.data.sampler import PADDING
from senna.data.tokenize import IMAGE_TOKEN_INDEX, encode_conversation
from senna.errors import UsageError
from senna.records import open_records, write_records
from senna.views import image_block
from tests.data.small_tokenizers import byte_level

SIX = [f"views/{name}.png" for name in "abcdef"]
PROCESSOR = CLIPImageProcessorPil(size={"shortest_edge": 14}, crop_size={"height": 14, "width": 14})


def turns(question: str, answer: str = "KEEP, STRAIGHT\n") -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


RECORDS = {
    "six": {"token": "six", "image": SIX[0], "images": SIX, "conversations": turns(image_block() + "Plan?")},
    "front": {"id": "front", "image": SIX[3], "images": SIX, "conversations": turns("<image>\nPlan?")},
    "text": {"id": "text", "conversations": turns("What is a red light?")},
    "missing": {"id": "missing", "image": "views/none.png", "conversations": turns("<image>\nPlan?")},
    "damaged": {"id": "damaged", "image": "views/damaged.png", "conversations": turns("<image>\nPlan?")},
    "too_few": {"id": "too_few", "image": SIX[0], "conversations": turns(image_block() + "Plan?")},
    "no_placeholder": {"id": "no_placeholder", "image": SIX[0], "conversations": turns("Plan?")},
    "lost": {"id": "lost", "image": SIX[0], "conversations": [turns("", "<image>")[1], *turns("Plan?")]},
    "two_questions": {"id": "two_questions", "conversations": [*turns("a"), *turns("b")[:1], *turns("c")]},
}
BAD = {
    "missing": "none.png",
    "damaged": "damaged.png",
    "too_few": "the text has 6 <image>, the record names 1 images",
    "no_placeholder": "the text has 0 <image>, the record names 1 images",
    "lost": "1 <image> stand in an answer before the first question",
    "two_questions": "turn 3 is from 'human'",
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "views").mkdir()
    for number, path in enumerate(SIX):
        Image.new("RGB", (32, 18), (40 * number, 0, 255)).save(tmp_path / path)
    whole = (tmp_path / SIX[0]).read_bytes()
    (tmp_path / "views/damaged.png").write_bytes(whole[: len(whole) // 2])
    write_records(tmp_path / "data.jsonl", RECORDS.values())
    return tmp_path


def dataset(folder, **options) -> ConversationDataset:
    return ConversationDataset(open_records(folder / "data.jsonl"), byte_level(), PROCESSOR, **options)


def index(name: str) -> int:
    return list(RECORDS).index(name)


def test_six_views_come_in_the_order_of_the_prompt(folder):
    data = dataset(folder)
    item = data[index("six")]
    assert item["images"].shape == (6, 3, 14, 14)
    assert item["images"].dtype == torch.float32
    for view, path in zip(item["images"], SIX, strict=True):
        assert torch.equal(view, load_image(folder / path, PROCESSOR))
    encoded = encode_conversation(RECORDS["six"]["conversations"], data.tokenizer)
    assert torch.equal(item["input_ids"], encoded["input_ids"])
    assert torch.equal(item["labels"], encoded["labels"])
    assert (item["input_ids"] == IMAGE_TOKEN_INDEX).sum() == 6


def test_one_placeholder_takes_the_front_image_and_none_takes_none(folder):
    data = dataset(folder)
    assert torch.equal(data[index("front")]["images"][0], load_image(folder / SIX[3], PROCESSOR))
    assert data[index("text")]["images"].shape == (0, 3, 14, 14)


@pytest.mark.parametrize("name", BAD)
def test_a_sample_that_cannot_be_used_says_why_and_which_it_is(folder, name):
    item = dataset(folder)[index(name)]
    assert set(item) == {"sample", "error"}
    assert item["sample"] == f"{folder}/data.jsonl: record {index(name)}, line {index(name) + 1} ({name})"
    assert item["error"].startswith(item["sample"])
    assert BAD[name] in item["error"]


def test_images_are_looked_for_in_the_image_folder_or_at_their_absolute_path(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("records")
    records = [RECORDS["front"], {**RECORDS["front"], "image": str(folder / SIX[3])}]
    (elsewhere / "data.json").write_text(json.dumps(records))
    options = {
        "records": open_records(elsewhere / "data.json"),
        "tokenizer": byte_level(),
        "image_processor": PROCESSOR,
    }
    there, lost = ConversationDataset(**options, image_folder=folder), ConversationDataset(**options)
    assert torch.equal(there[0]["images"], there[1]["images"])
    assert str(elsewhere / SIX[3]) in lost[0]["error"]
    assert torch.equal(lost[1]["images"], there[1]["images"])


def test_the_padding_index_is_a_sample_of_nothing(folder):
    item = dataset(folder)[PADDING]
    assert (len(item["input_ids"]), len(item["labels"]), item["sample"]) == (0, 0, "")
    assert item["images"].shape == (0, 3, 14, 14)


def test_lengths_count_words_and_the_tokens_of_images(folder):
    data = dataset(folder, tokens_per_image=100)
    assert data.lengths[index("text")] == 5 + 2
    assert data.lengths[index("front")] == 2 + 2 + 100
    assert data.multimodal[[index("six"), index("front"), index("text")]].tolist() == [True, True, False]


def test_workers_give_the_same_batches_as_the_main_process(folder):
    data = dataset(folder)
    data[0]
    pickle.loads(pickle.dumps(data))
    order = [*range(len(data)), PADDING]
    collate = Collator(pad_token_id=0, max_length=2048, tokens_per_image=128)
    alone, shared = (list(DataLoader(data, 4, sampler=order, num_workers=w, collate_fn=collate)) for w in (0, 2))
    assert len(alone) == len(shared) == 3
    for one, other in zip(alone, shared, strict=True):
        assert torch.equal(one["input_ids"], other["input_ids"])
        assert torch.equal(one["labels"], other["labels"])
        assert (one["samples"], one["bad_samples"]) == (other["samples"], other["bad_samples"])
    assert sum(len(batch["bad_samples"]) for batch in alone) == len(BAD)


def test_unknown_options_fail_before_the_first_sample(folder):
    for wrong in ({"version": "v2"}, {"aspect_ratio": "round"}, {"decode": "slow"}):
        with pytest.raises(UsageError, match=next(iter(wrong.values()))):
            dataset(folder, **wrong)


def test_real_pretraining_records_become_samples(data):
    records = open_records(data / "llava_pretrain_10" / "blip_laion_cc_sbu_558k.json")
    folder = data / "llava_pretrain_10" / "images"
    samples = ConversationDataset(records, byte_level(), PROCESSOR, folder, version="plain")
    items = [samples[number] for number in range(len(samples))]
    assert len(items) == 10
    assert [item.get("error") for item in items] == [None] * 10
    assert all(item["images"].shape == (1, 3, 14, 14) for item in items)
