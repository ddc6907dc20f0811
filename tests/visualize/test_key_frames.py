"""Records become frames in driving order, with file names that cannot collide."""

import json

import pytest

from senna.record_file import open_records
from senna.views import VIEWS, image_block
from senna.visualize.key_frames import driving_order, file_name, front_description, key_frames, view_paths
from tests.helpers.plan_records import paths, record


def opened(tmp_path, records):
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return open_records(path)


def test_records_of_one_token_are_one_frame(tmp_path):
    records = opened(tmp_path, [
        record("a", "description", "Rain.", views=("front",)), record("a", "plan"), record("b"), record("a", "vru", "None."),
    ])  # fmt: skip
    first, second = key_frames(records)
    assert (first.token, first.number, first.count, first.plan) == ("a", 1, 2, 1)
    assert list(first.records) == [0, 1, 3]
    assert first.paths == dict(zip(VIEWS, paths("a"), strict=True))
    assert (second.token, second.number, second.plan) == ("b", 2, 2)


def test_frames_without_plan_or_token_are_shown_and_text_only_records_are_not(tmp_path):
    bare = record("c", "perception", "Two cars.")
    del bare["token"], bare["scene_token"]
    text = {"conversations": [{"from": "human", "value": "Say it."}, {"from": "gpt", "value": "It."}]}
    [frame] = key_frames(opened(tmp_path, [text, bare]))
    assert (frame.plan, frame.token, frame.scene, frame.name) == (None, "", "", "frames_0001")


def test_frames_of_a_shuffled_file_are_in_driving_order(tmp_path):
    records = [record("c", prev="b"), record("a", prev="elsewhere"), record("x", scene="t"), record("b", prev="a")]
    frames = key_frames(opened(tmp_path, records))
    assert [(frame.scene, frame.token, frame.number) for frame in frames] == [
        ("s", "a", 1), ("s", "b", 2), ("s", "c", 3), ("t", "x", 1),
    ]  # fmt: skip


def test_frames_without_links_keep_their_order_and_a_ring_ends():
    assert driving_order([("b", ""), ("a", ""), ("", "")]) == [0, 1, 2]
    assert driving_order([("a", "b"), ("b", "a")]) == [0, 1]
    assert driving_order([("b", "a"), ("a", ""), ("d", "c"), ("c", "")]) == [1, 0, 3, 2]


@pytest.mark.parametrize("count", [1, 3, 6])
def test_views_come_from_cameras_else_from_tags_else_from_their_order(count):
    plain = [f"{number}.jpg" for number in range(count)]
    turns = [{"from": "human", "value": "<image>\n" * count}]
    assert view_paths({"images": plain, "conversations": turns}) == dict(zip(VIEWS, plain, strict=False))
    tagged = [{"from": "human", "value": image_block(VIEWS[::-1][:count])}]
    assert view_paths({"images": plain, "conversations": tagged}) == dict(zip(VIEWS[::-1], plain, strict=False))
    assert view_paths({"images": paths("a")[::-1], "conversations": turns}) == dict(zip(VIEWS, paths("a"), strict=True))
    assert view_paths({"conversations": turns}) == {}


def test_the_description_of_the_front_view_is_found_among_six(tmp_path):
    ours = [record("a", "description", view, id=f"a-description-{view.replace(' ', '-')}") for view in reversed(VIEWS)]
    records = opened(tmp_path, ours)
    assert records[front_description(records, key_frames(records)[0])]["conversations"][1]["value"] == "front"
    alone = [record("a", "description", view, views=(view,), id="") for view in ("back", "front", "front left")]
    records = opened(tmp_path, alone)
    assert front_description(records, key_frames(records)[0]) == 1
    records = opened(tmp_path, alone[:1])
    assert front_description(records, key_frames(records)[0]) is None


def test_file_names_are_safe_and_distinct():
    assert file_name("scene-0061") == "scene-0061"
    assert file_name("54cdaaae372d421fa4734d66f51a8c48") == "54cdaaae372d421fa4734d66f51a8c48"
    strange = ["a/b", "a_b", "a b", "../a b", "..", "frames ", "x" * 300, "x" * 301, "a\nb"]
    names = [file_name(scene) for scene in strange]
    assert len(set(names)) == len(names)
    for name in names:
        assert "/" not in name
        assert not name.startswith(".")
        assert len(name) < 100
