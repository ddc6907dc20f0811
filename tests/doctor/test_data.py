"""Records and images: what is missing is told with the folder that holds it, or the flag that goes on without."""

import json
import shutil

import pytest

from tests.doctor.conftest import the_fail


@pytest.fixture
def folder(toy, tmp_path):
    """A copy of the pictures, one level down, to take from."""
    shutil.copytree(toy.images, tmp_path / "data" / "images")
    return tmp_path / "data" / "images"


def test_an_empty_image_folder_is_told_and_training_refuses_it(tmp_path, examined, refused):
    (tmp_path / "empty").mkdir()
    found = the_fail(examined(image_folder=tmp_path / "empty"), "images")
    assert f"{tmp_path}/empty is empty" in found.says
    assert "--image_folder (IMAGE_DATA)" in found.remedy
    assert "is empty" in refused(image_folder=tmp_path / "empty")


@pytest.mark.parametrize("wrong", ["", "images/views"], ids=["a folder above", "a folder below"])
def test_the_folder_that_has_the_images_is_named_where_it_is_near(folder, examined, wrong):
    found = the_fail(examined(image_folder=folder.parent / wrong), "images")
    assert f"--image_folder {folder} " in found.remedy


def test_a_few_images_that_are_missing_or_damaged_are_named_and_do_not_stop_training(folder, toy, examined, capsys):
    (folder / "3.png").unlink()
    (folder / "5.png").write_bytes((folder / "5.png").read_bytes()[:60])
    [found] = examined(image_folder=folder)["images"]
    assert found.level == "warn"
    assert "toy-3" in found.says
    assert "5.png: damaged" in found.says
    assert "2 of 24" in found.says
    assert "--skip_bad_samples 3" in found.remedy


def test_a_record_with_more_images_than_its_text_shows_is_named(toy, tmp_path, examined):
    records = json.loads(toy.data.read_text())
    records[5]["image"] = ["0.png", "1.png"]
    (tmp_path / "two.json").write_text(json.dumps(records))
    [found] = examined(data_path=tmp_path / "two.json")["images"]
    assert "the text has 1 <image>, the record names 2" in found.says


def test_six_views_are_recognised_by_their_cameras_names_and_warned_of_without(toy, tmp_path, examined):
    [found] = examined(**toy.driving_options(toy.llm, vision_tower=toy.clip, mm_adapter_tokens=3))["images"]
    assert "of 6 views" in found.says
    assert found.level == "ok"
    shutil.copytree(toy.images / "views", tmp_path / "views")
    for number, place in enumerate(sorted((tmp_path / "views").iterdir())):
        place.rename(place.with_name(f"camera{number}"))
    lines = toy.driving.read_text()
    for number, place in enumerate(sorted(path.name for path in (toy.images / "views").iterdir())):
        lines = lines.replace(f"{place}/", f"camera{number}/")
    (tmp_path / "nameless.jsonl").write_text(lines)
    options = toy.driving_options(toy.llm, vision_tower=toy.clip, mm_adapter_tokens=3, image_folder=tmp_path)
    [found] = examined(**options | {"data_path": tmp_path / "nameless.jsonl"})["images"]
    assert found.level == "warn"
    assert "CAM_FRONT_LEFT" in found.remedy


def test_text_alone_needs_no_images(toy, tmp_path, examined):
    turns = [{"from": "human", "value": "Say it."}, {"from": "gpt", "value": "parked"}]
    (tmp_path / "text.json").write_text(json.dumps([{"id": "a", "conversations": turns}]))
    [found] = examined(data_path=tmp_path / "text.json")["images"]
    assert (found.level, found.says) == ("ok", "the records are text alone")


def test_a_file_that_is_no_list_of_records_is_one_fail_and_hides_no_other(tmp_path, examined):
    (tmp_path / "bad.json").write_text("[{]")
    found = examined(data_path=tmp_path / "bad.json")
    assert found["data"][0].level == "fail"
    assert found["model"][0].level == "ok"
