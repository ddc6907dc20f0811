"""The frames of a file of records that the page offers."""

import json
import os

import pytest
from PIL import Image

from senna.demo import examples
from senna.demo.examples import choose_examples, find_examples
from senna.demo.questions import Refusal
from senna.demo.uploads import serve_copy
from senna.errors import DataError
from senna.record_file import open_records
from senna.views import VIEWS
from tests.helpers.demo import PLANS, write_frames


def numbers(chosen) -> list[int]:
    return [int(example.images[0].stem) for example in chosen]


def test_examples_are_spread_over_the_file_and_have_speed_command_and_truth(tmp_path):
    chosen = find_examples(str(write_frames(tmp_path, 11)), None, count=6)
    assert numbers(chosen) == [0, 2, 4, 6, 8, 10]
    for example, frame in zip(chosen, numbers(chosen), strict=True):
        answer, command, speed = PLANS[frame % 3]
        assert (str(example.truth), example.command, example.speed) == (answer, command, speed)
        assert [f"CAM_{view.upper().replace(' ', '_')}" for view in VIEWS] == [p.parent.name for p in example.images]


def test_a_frame_with_missing_or_damaged_images_is_replaced_by_another(tmp_path):
    records = write_frames(tmp_path, 11)
    (tmp_path / "samples/CAM_BACK/4.jpg").unlink()
    (tmp_path / "samples/CAM_FRONT/6.jpg").write_bytes(b"damaged")
    assert numbers(find_examples(str(records), None, count=6)) == [0, 2, 8, 10, 1, 3]


def test_images_are_ordered_by_their_cameras(tmp_path):
    path = write_frames(tmp_path, 1)
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "images": record["images"][::-1]}) + "\n")
    [example] = find_examples(str(path), None)
    assert [p.parent.name for p in example.images] == [f"CAM_{view.upper().replace(' ', '_')}" for view in VIEWS]


def test_frames_of_records_without_plans_are_examples_too(tmp_path):
    path = write_frames(tmp_path, 2)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line["kind"], line["conversations"][1]["value"] = "description", "A road."
    path.write_text("".join(json.dumps(line) + "\n" for line in lines for _ in range(2)))  # two records a frame
    chosen = choose_examples(open_records(path), tmp_path, 6)
    assert numbers(chosen) == [0, 1]
    assert [example.truth for example in chosen] == [None, None]


def test_a_file_without_a_usable_frame_is_an_error_with_a_remedy(tmp_path):
    records = write_frames(tmp_path, 1)
    with pytest.raises(DataError, match="give the folder of the images with --image-folder"):
        find_examples(str(records), str(tmp_path / "elsewhere"))


def test_without_a_file_the_records_of_the_quickstart_are_used_if_they_exist(tmp_path, monkeypatch):
    monkeypatch.setattr(examples, "EMBEDDED", (tmp_path / "records.jsonl", tmp_path))
    assert find_examples(None, None) == []
    write_frames(tmp_path, 2)
    assert numbers(find_examples(None, None)) == [0, 1]


@pytest.mark.parametrize("view", range(6))
@pytest.mark.parametrize("kind", ["text", "pipe", "large"])
def test_a_record_that_names_another_file_than_an_image_is_no_example(tmp_path, view, kind):
    records, secret = write_frames(tmp_path, 2), tmp_path / "secret"
    if kind == "pipe":
        os.mkfifo(secret)
    elif kind == "text":
        secret.write_text("root:x:0:0:root:/root:/bin/sh\n")
    else:
        Image.new("L", (10_000, 6_000)).save(secret, "PNG", compress_level=1)
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    lines[0]["images"][view] = str(secret)
    records.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert numbers(find_examples(str(records), None)) == [1]


def test_the_page_serves_the_pixels_of_an_example_and_nothing_else_of_its_file(tmp_path):
    source, copy = tmp_path / "private" / "front.jpg", tmp_path / "uploads" / "examples" / "0-front.png"
    source.parent.mkdir()
    Image.effect_noise((64, 48), 60).convert("RGB").save(
        source, comment=b"a secret comment", icc_profile=b"a secret profile"
    )
    source.write_bytes(source.read_bytes() + b"a secret behind the image")
    assert serve_copy(source, "front", copy, 40.0) == copy
    assert b"secret" in source.read_bytes()
    assert b"secret" not in copy.read_bytes()
    with Image.open(source) as image, Image.open(copy) as served:
        assert served.tobytes() == image.convert("RGB").tobytes()
        assert not served.info


def test_an_example_whose_file_was_replaced_is_not_served(tmp_path):
    records = write_frames(tmp_path, 1)
    [example] = find_examples(str(records), None)
    example.images[3].unlink()
    example.images[3].symlink_to("/etc/passwd")
    with pytest.raises(Refusal) as refusal:
        serve_copy(example.images[3], "back left", tmp_path / "copy.png", 40.0)
    assert "passwd" not in str(refusal.value)
    assert not (tmp_path / "copy.png").exists()
