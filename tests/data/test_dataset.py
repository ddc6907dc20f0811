"""Samples of single records: tokens, images in the order of the prompt, and records that cannot be used."""

import json
import pickle
import random
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from transformers import CLIPImageProcessorPil

from senna.data.collate import Collator
from senna.data.dataset import ConversationDataset, find_image
from senna.data.mixture import open_mixture
from senna.data.sampler import PADDING
from senna.data.tokenize import IMAGE_TOKEN_INDEX, encode_conversation
from senna.errors import DataError, UsageError
from senna.record_file import open_records
from senna.records import write_records
from senna.views import VIEWS, image_block
from tests.helpers.published_pixels import load_levels
from tests.helpers.small_tokenizers import byte_level

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
    "lost": "1 <image> are in an answer before the first question",
    "two_questions": "turn 3 is from 'human'",
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "views").mkdir()
    for number, path in enumerate(SIX):
        Image.new("RGB", (32, 18), (40 * number, 0, 255)).save(tmp_path / path)
    content = (tmp_path / SIX[0]).read_bytes()
    (tmp_path / "views/damaged.png").write_bytes(content[: len(content) // 2])
    write_records(tmp_path / "data.jsonl", RECORDS.values())
    return tmp_path


def dataset(folder, **options) -> ConversationDataset:
    return ConversationDataset(open_records(folder / "data.jsonl"), byte_level(), PROCESSOR, **options)


def index(name: str) -> int:
    return list(RECORDS).index(name)


def test_six_views_are_in_the_order_of_the_prompt(folder):
    data = dataset(folder)
    item = data[index("six")]
    assert item["images"].shape == (6, 3, 14, 14)
    assert item["images"].dtype == torch.uint8
    for view, path in zip(item["images"], SIX, strict=True):
        assert torch.equal(view, load_levels(folder / path, PROCESSOR))
    encoded = encode_conversation(RECORDS["six"]["conversations"], data.tokenizer)
    assert torch.equal(item["input_ids"], encoded["input_ids"])
    assert torch.equal(item["labels"], encoded["labels"])
    assert (item["input_ids"] == IMAGE_TOKEN_INDEX).sum() == 6


def test_one_placeholder_takes_the_front_image_and_a_text_takes_no_image(folder):
    data = dataset(folder)
    assert torch.equal(data[index("front")]["images"][0], load_levels(folder / SIX[3], PROCESSOR))
    assert data[index("text")]["images"].shape == (0, 3, 14, 14)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_sample_has_the_name_of_the_record_and_the_reason(folder, name):
    item = dataset(folder)[index(name)]
    assert set(item) == {"sample", "error"}
    assert item["sample"] == f"{folder}/data.jsonl: record {index(name)}, line {index(name) + 1} ({name})"
    assert str(item["error"]).startswith(item["sample"])
    assert BAD[name] in str(item["error"])


def six_cameras(folder) -> dict[str, str]:
    """Create six grey images with the names of nuScenes cameras; return their paths by view."""
    paths = {}
    for number, view in enumerate(VIEWS):
        channel = f"CAM_{view.upper().replace(' ', '_')}"
        paths[view] = f"samples/{channel}/n008__{channel}__15{number}.png"
        (folder / paths[view]).parent.mkdir(parents=True)
        Image.new("RGB", (32, 18), (40 * number,) * 3).save(folder / paths[view])
    return paths


def test_each_view_of_the_prompt_shows_its_camera_for_any_order_in_the_record(folder):
    paths = six_cameras(folder)
    for seed in range(5):
        generator = random.Random(seed)
        listed, prompted = generator.sample(list(paths.values()), 6), tuple(generator.sample(VIEWS, 6))
        questions = {prompted: image_block(prompted), VIEWS: "<image>\n" * 6, ("back",): image_block(("back",))}
        records = [
            {"image": paths["front"], "images": listed, "conversations": turns(f"{question}Plan?")}
            for question in questions.values()
        ]
        write_records(folder / "data.jsonl", records)
        data = dataset(folder)
        for number, views in enumerate(questions):
            expected = torch.stack([load_levels(folder / paths[view], PROCESSOR) for view in views])
            assert torch.equal(data[number]["images"], expected)


def test_a_view_without_an_image_makes_a_bad_sample(folder):
    paths = six_cameras(folder)
    del paths["back left"]
    record = {"id": "five", "images": list(paths.values()), "conversations": turns(image_block() + "Plan?")}
    write_records(folder / "data.jsonl", [record])
    item = dataset(folder)[0]
    assert str(item["error"]).startswith(
        f"{folder}/data.jsonl: record 0, line 1 (five): the prompt asks for the back left view"
    )


def test_six_views_one_view_and_text_fit_in_one_batch(folder):
    data = dataset(folder, aspect_ratio="pad")
    items = [data[index(name)] for name in ("six", "text", "front")] + [data[PADDING]]
    batch = Collator(pad_token_id=0, max_length=2048, tokens_per_image=128)(items)
    assert [tuple(images.shape) for images in batch["images"]] == [(v, 3, 14, 14) for v in (6, 0, 1, 0)]
    assert (batch["input_ids"] == IMAGE_TOKEN_INDEX).sum(1).tolist() == [6, 0, 1, 0]
    for images, path in zip(batch["images"][0], SIX, strict=True):
        assert torch.equal(images, load_levels(folder / path, PROCESSOR, aspect_ratio="pad"))
    plan = data.records.kind_names.index("plan")
    assert batch["kinds"].tolist() == [plan, plan, plan, -1]
    assert batch["counts"].bad_samples == []


def test_a_sample_carries_the_kind_of_its_record(folder):
    records = [{**RECORDS["text"], "kind": kind} for kind in ("vru", "explanation", "vru")]
    write_records(folder / "data.jsonl", [*records, {"conversations": turns("Light?", "Red")}])
    data = dataset(folder)
    assert [data.records.kind_names[data[number]["kind"]] for number in range(4)] == [
        *("vru", "explanation", "vru", "traffic_light")
    ]
    assert data[PADDING]["kind"] == -1


def test_images_that_are_not_in_the_image_folder_are_read_beside_the_file_of_records(folder, tmp_path_factory):
    first, second = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    record = {"image": "a.png", "conversations": turns("<image>\nPlan?")}
    for number, parent in enumerate((first, second)):
        write_records(parent / "data.jsonl", [record, {**record, "image": f"../{parent.name}/nowhere.png"}])
        Image.new("RGB", (9, 9), (100 * number,) * 3).save(parent / "a.png")
    mixture = open_mixture(f"{first}/data.jsonl,{second}/data.jsonl")
    for image_folder in (None, folder):
        data = ConversationDataset(mixture, byte_level(), PROCESSOR, image_folder)
        assert torch.equal(data[0]["images"][0], load_levels(first / "a.png", PROCESSOR))
        assert torch.equal(data[2]["images"][0], load_levels(second / "a.png", PROCESSOR))
    missing = str(data[3]["error"])
    assert missing.startswith(f"{second}/data.jsonl: record 1, line 2")
    assert f"neither {folder}/../{second.name}/nowhere.png nor {second}/../{second.name}/nowhere.png" in missing
    Image.new("RGB", (9, 9), (255,) * 3).save(folder / "a.png")
    assert torch.equal(data[0]["images"], data[2]["images"]), "the image folder has priority"
    assert torch.equal(data[0]["images"][0], load_levels(folder / "a.png", PROCESSOR))


def test_a_missing_image_is_an_error_of_that_kind(folder):
    for image, folders in (("none.png", [folder, folder / "views"]), ("views/none.png", [folder])):
        with pytest.raises(DataError) as error:
            load_levels(find_image(image, folders), PROCESSOR)
        assert error.value.kind == DataError.MISSING_IMAGE
    with pytest.raises(DataError) as error:
        load_levels(find_image("views/damaged.png", [folder]), PROCESSOR)
    assert error.value.kind is None


def test_images_are_read_from_the_image_folder_or_their_absolute_path(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("records")
    records = [RECORDS["front"], {**RECORDS["front"], "image": str(folder / SIX[3])}]
    (elsewhere / "data.json").write_text(json.dumps(records))
    options = {
        "records": open_records(elsewhere / "data.json"),
        "tokenizer": byte_level(),
        "image_processor": PROCESSOR,
    }
    with_folder, without = ConversationDataset(**options, image_folder=folder), ConversationDataset(**options)
    assert torch.equal(with_folder[0]["images"], with_folder[1]["images"])
    assert str(elsewhere / SIX[3]) in str(without[0]["error"])
    assert torch.equal(without[1]["images"], with_folder[1]["images"])


def test_the_padding_index_gives_an_empty_sample(folder):
    item = dataset(folder)[PADDING]
    assert (len(item["input_ids"]), len(item["labels"]), item["sample"]) == (0, 0, "")
    assert item["images"].shape == (0, 3, 14, 14)


def test_lengths_are_words_plus_the_tokens_of_images(folder):
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
    in_process, in_workers = (
        list(DataLoader(data, 4, sampler=order, num_workers=count, collate_fn=collate)) for count in (0, 2)
    )
    assert len(in_process) == len(in_workers) == 3
    for batch, other in zip(in_process, in_workers, strict=True):
        assert torch.equal(batch["input_ids"], other["input_ids"])
        assert torch.equal(batch["labels"], other["labels"])
        texts = [
            replace(each["counts"], bad_samples=list(map(str, each["counts"].bad_samples))) for each in (batch, other)
        ]
        assert texts[0] == texts[1]
    assert sum(len(batch["counts"].bad_samples) for batch in in_process) == len(BAD)


def test_unknown_options_raise_an_error_before_the_first_sample(folder):
    for wrong in ({"version": "v2"}, {"aspect_ratio": "round"}, {"decode": "slow"}):
        with pytest.raises(UsageError, match=next(iter(wrong.values()))):
            dataset(folder, **wrong)


def test_pretraining_records_become_samples_of_the_plain_format(folder):
    records = [{"id": str(n), "image": SIX[n], "conversations": turns("Describe.\n<image>", "a car")} for n in range(3)]
    (folder / "data.json").write_text(json.dumps(records))
    samples = ConversationDataset(open_records(folder / "data.json"), byte_level(), PROCESSOR, version="plain")
    for number in range(3):
        item = samples[number]
        assert item["input_ids"][0] == IMAGE_TOKEN_INDEX
        assert samples.tokenizer.decode(item["labels"][1:]) == "a car\n"
        assert torch.equal(item["images"][0], load_levels(folder / SIX[number], PROCESSOR))
