"""Records: written files, image paths, kinds."""

import errno
import json
import os

import pytest

import senna.files
from senna.errors import DataError, SennaError, UsageError
from senna.record_file import open_records
from senna.records import image_paths, prompt_images, record_kind, record_name, write_records
from senna.views import VIEWS, image_block
from tests.helpers.caption_records import AWKWARD


def test_written_records_are_read_back_in_both_formats(tmp_path):
    for name in ("out.json", "out.jsonl"):
        assert write_records(tmp_path / name, iter(AWKWARD)) == 4
        assert list(open_records(tmp_path / name)) == AWKWARD
    assert json.loads((tmp_path / "out.json").read_text()) == AWKWARD
    assert write_records(tmp_path / "none.json", []) == 0
    assert json.loads((tmp_path / "none.json").read_text()) == []


def test_replacing_a_file_does_not_disturb_its_reader(tmp_path):
    path = tmp_path / "a.jsonl"
    write_records(path, AWKWARD)
    reader = open_records(path)
    assert reader[0] == AWKWARD[0]
    write_records(path, AWKWARD[2:])
    assert list(reader) == AWKWARD
    assert list(open_records(path)) == AWKWARD[2:]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    write_records(path, AWKWARD)

    def no_space(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(senna.files.os, "fsync", no_space)
    with pytest.raises(SennaError, match="No space left"):
        write_records(path, AWKWARD[:1])
    assert list(open_records(path)) == AWKWARD
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.jsonl"]
    with pytest.raises(UsageError, match="csv"):
        write_records(tmp_path / "a.csv", AWKWARD)


@pytest.mark.parametrize(
    ("placeholders", "named", "expected"),
    [
        (6, {"image": "f", "images": list("abcdef")}, list("abcdef")),
        (1, {"image": "f", "images": list("abcdef")}, ["f"]),
        (1, {"images": ["f"]}, ["f"]),
        (2, {"image": "f"}, ["f"]),
        (0, {}, []),
        (0, {"image": None}, []),
        (0, {"image": "f"}, ["f"]),
    ],
)
def test_the_number_of_placeholders_selects_image_or_images(placeholders, named, expected):
    turns = [{"from": "human", "value": "<image>\n" * placeholders}, {"from": "gpt", "value": "x"}]
    assert image_paths({"conversations": turns, **named}) == expected


def test_an_image_path_that_is_not_text_raises_an_error():
    with pytest.raises(DataError, match="image paths must be text"):
        image_paths({"conversations": [{"from": "human", "value": "<image>"}], "image": 7})


PLAN, MOTION = "DECELERATE, LEFT_TURN\n", "Object 1: KEEP, STRAIGHT\nObject 2: STOP, STRAIGHT\n"


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        (["KEEP, STRAIGHT\n"], "plan"),
        ([" keep ,straight."], "plan"),
        ([PLAN, "STOP, STRAIGHT"], "plan"),
        ([PLAN, "Because the light is red."], "other"),
        (["Because the light is red.", PLAN], "other"),
        ([PLAN, ""], "other"),
        (["KEEP, STRAIGHT since the road is free"], "other"),
        (["KEEP, KEEP"], "other"),
        ([MOTION], "motion"),
        (["\n" + MOTION + "\n\n"], "motion"),
        ([MOTION, ""], "motion"),
        ([MOTION, "Object 3: ACCELERATE, RIGHT_CHANGE"], "motion"),
        ([MOTION + "Object 3: a parked car"], "other"),
        (["Object 1: KEEP, STRAIGHT, then STOP, STRAIGHT"], "other"),
        ([MOTION, PLAN], "other"),
        (["Red"], "traffic_light"),
        (["green.\n"], "traffic_light"),
        (["None"], "traffic_light"),
        (["None, no, none."], "other"),
        (["Red and white"], "other"),
        (["Blue"], "other"),
        (["a white car parked in front of a house"], "other"),
        ([""], "other"),
        ([" \n "], "other"),
        ([], "other"),
    ],
)
def test_without_a_kind_the_form_of_the_answers_decides(answers, kind):
    turns = [{"from": "human", "value": "KEEP, STRAIGHT"}]
    for answer in answers:
        turns += [{"from": "gpt", "value": answer}, turns[0]]
    assert record_kind({"conversations": turns[:-1] if answers else turns}) == kind
    assert record_kind({"conversations": turns}) == kind, "a last question without an answer has no effect"
    assert record_kind({"conversations": turns, "kind": None}) == kind


CAMERAS = {view: f"samples/CAM_{view.upper().replace(' ', '_')}/{number}.jpg" for number, view in enumerate(VIEWS)}
MIXED_UP = [CAMERAS[VIEWS[index]] for index in (3, 0, 5, 1, 4, 2)]


@pytest.mark.parametrize(
    ("question", "named", "expected"),
    [
        (image_block(), {"image": MIXED_UP[0], "images": MIXED_UP}, list(CAMERAS.values())),
        ("<image>" * 6, {"images": MIXED_UP}, list(CAMERAS.values())),
        (image_block(VIEWS[5:]), {"image": CAMERAS["front"], "images": MIXED_UP}, [CAMERAS["back"]]),
        (image_block(VIEWS[:1]), {"images": MIXED_UP}, [CAMERAS["front"]]),
        (image_block(VIEWS[:1]), {"image": CAMERAS["front"], "images": MIXED_UP[2:3]}, [CAMERAS["front"]]),
        (image_block(VIEWS[:1]), {"image": "f.jpg", "images": list("abcdef")}, ["f.jpg"]),
        ("<image>\n", {"image": "f.jpg", "images": MIXED_UP}, ["f.jpg"]),
        ("", {}, []),
    ],
)
def test_images_are_in_the_order_of_the_prompt_for_any_order_in_the_record(question, named, expected):
    turns = [{"from": "human", "value": f"{question}Plan?"}, {"from": "gpt", "value": PLAN}]
    assert prompt_images({"conversations": turns, **named}) == expected


def test_views_of_later_turns_follow_those_of_earlier_turns():
    turns = [{"from": "human", "value": image_block((view,))} for view in ("back", "front")]
    turns.insert(1, {"from": "gpt", "value": "A wall. <FRONT LEFT VIEW>:"})
    assert prompt_images({"conversations": turns, "images": MIXED_UP}) == [CAMERAS["back"], CAMERAS["front"]]


SPELLINGS = ("<Image>", "<IMAGE>", "<BACK VIEW>:\n<Image>")


@pytest.mark.parametrize(
    ("number", "word"),
    [
        *((number, word) for number in range(4) for word in SPELLINGS),
        *((number, word) for number in (1, 3) for word in ("<image>", "<BACK VIEW>:\n<image>")),
    ],
)
def test_another_spelling_or_an_image_in_an_answer_does_not_change_the_order_of_the_cameras(number, word):
    values = [f"{image_block()}Plan?", "KEEP, STRAIGHT", "Why?", "The road is free."]
    values[number] += f" {word} {word}"
    turns = [{"from": ("human", "gpt")[index % 2], "value": value} for index, value in enumerate(values)]
    assert prompt_images({"conversations": turns, "images": MIXED_UP}) == list(CAMERAS.values())


def test_a_tag_may_be_in_lower_case():
    turns = [{"from": "human", "value": "<back view>: <image>\n<Front Left View>: <image>\nPlan?"}]
    assert prompt_images({"conversations": turns, "images": MIXED_UP}) == [CAMERAS["back"], CAMERAS["front left"]]


def test_a_record_is_named_by_its_id_its_token_or_its_index():
    assert record_name({"id": "a", "token": "t"}, 7) == "a"
    assert (record_name({"token": "t"}, 7), record_name({}, 7)) == ("t", "7")
