"""Frames are found from image paths and text only, and numbered by first appearance."""

import time

import numpy as np
import pytest

from senna.frame_keys import number_keys
from senna.record_file import open_records
from senna.records import write_records
from senna.views import VIEWS, image_block

SIX = [f"CAM_{view.upper().replace(' ', '_')}/1.jpg" for view in VIEWS]


def a_record(question: str = image_block() + "Plan?", **more) -> dict:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": "KEEP, STRAIGHT"}]
    return {"image": SIX[0], "images": SIX, "conversations": turns, **more}


def frames(tmp_path, records: list[dict]) -> list[int]:
    write_records(tmp_path / "a.jsonl", records)
    opened = open_records(tmp_path / "a.jsonl")
    assert opened.frames.dtype == np.int32
    return opened.frames.tolist()


def test_records_with_equal_images_and_equal_text_up_to_the_last_image_are_one_frame(tmp_path):
    other = [path.replace("1.jpg", "2.jpg") for path in SIX]
    records = [
        a_record(),
        a_record(images=other),
        a_record(image_block() + "What else?"),
        a_record("Look: " + image_block() + "Plan?"),
        a_record("<image>\nPlan?"),
        a_record(images=other),
        a_record(images=SIX[::-1]),
        a_record("<image>\nWhy?"),
    ]
    assert frames(tmp_path, records) == [0, 1, 0, 2, 3, 1, 4, 3]


def test_tokens_ids_and_answers_do_not_separate_frames(tmp_path):
    record, other = a_record(token="a", id="x"), a_record(token="b", id="y")
    other["conversations"][1]["value"] = "STOP, STRAIGHT"
    longer = a_record()
    longer["conversations"] += [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "A car."}]
    assert frames(tmp_path, [record, other, longer, a_record()]) == [0, 0, 0, 0]


def test_records_without_images_or_with_images_later_are_frames_of_their_own(tmp_path):
    later = a_record("<image>\nWhat?")
    later["conversations"] += [{"from": "human", "value": "<image> And here?"}, {"from": "gpt", "value": "A car."}]
    lost = a_record("Plan?")
    lost["conversations"].insert(0, {"from": "gpt", "value": "<image>"})
    answers_only = {"image": "a.jpg", "conversations": [{"from": "gpt", "value": "<image>"}]}
    records = [a_record("Plan?"), later, lost, answers_only]
    assert frames(tmp_path, [*records, *records]) == list(range(8))


@pytest.mark.parametrize("named", [{"images": 3}, {"images": {"a": 1}}, {"images": [["a"]]}, {"image": [SIX[0]]}])
def test_an_invalid_image_path_does_not_stop_the_indexing(tmp_path, named):
    assert len(frames(tmp_path, [a_record(), a_record(**named), a_record()])) == 3
    invalid = {**a_record(), **named}
    assert frames(tmp_path, [a_record(), invalid, a_record()])[::2] == [0, 0]
    assert frames(tmp_path, [a_record(), invalid, a_record()])[1] == 1


def test_a_string_is_not_a_list_of_its_letters(tmp_path):
    assert frames(tmp_path, [a_record("<image>", images=named) for named in ("abc", ["a", "b", "c"])]) == [0, 1]


def test_numbers_are_by_first_appearance():
    keys = np.array([7, -3, 7, 2**62, -3, 0])
    assert number_keys(keys).tolist() == [0, 1, 0, 2, 1, 3]
    assert number_keys(keys[:0]).tolist() == []


def test_every_pretraining_image_is_a_frame(tmp_path):
    turns = [{"from": "human", "value": "Describe.\n<image>"}, {"from": "gpt", "value": "a car"}]
    records = [{"id": str(number), "image": f"{number % 5}.jpg", "conversations": turns} for number in range(10)]
    assert frames(tmp_path, records) == [*range(5), *range(5)]


def test_half_a_million_keys_are_numbered_in_a_second():
    keys = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, 40_000)[np.arange(520_000) // 13]
    start = time.perf_counter()
    assert number_keys(keys)[-1] == 39_999
    assert time.perf_counter() - start < 1
