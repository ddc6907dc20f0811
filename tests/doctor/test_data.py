"""Checks of records and images."""

import json
import shutil

import pytest

from tests.helpers.findings import only_failure


@pytest.fixture
def folder(toy, tmp_path):
    """Copy the images to a subfolder and return it."""
    shutil.copytree(toy.images, tmp_path / "data" / "images")
    return tmp_path / "data" / "images"


def test_an_empty_image_folder_fails_and_training_refuses_it(tmp_path, check_run, refusal):
    (tmp_path / "empty").mkdir()
    found = only_failure(check_run(image_folder=tmp_path / "empty"), "images")
    assert f"{tmp_path}/empty is empty" in found.message
    assert "--image_folder (IMAGE_DATA)" in found.remedy
    assert "is empty" in refusal(image_folder=tmp_path / "empty")


@pytest.mark.parametrize("wrong", ["", "images/views"], ids=["parent", "subfolder"])
def test_a_nearby_folder_that_holds_the_images_is_recommended(folder, check_run, wrong):
    found = only_failure(check_run(image_folder=folder.parent / wrong), "images")
    assert f"--image_folder {folder} " in found.remedy


def test_a_few_missing_or_damaged_images_give_a_warning(folder, check_run):
    (folder / "3.png").unlink()
    (folder / "5.png").write_bytes((folder / "5.png").read_bytes()[:60])
    [found] = check_run(image_folder=folder)["images"]
    assert found.level == "warn"
    assert "toy-3" in found.message
    assert "5.png: damaged" in found.message
    assert "2 of 24" in found.message
    assert "--skip_bad_samples 3" in found.remedy


def test_a_record_with_more_images_than_its_text_mentions_is_reported(toy, tmp_path, check_run):
    records = json.loads(toy.data.read_text())
    records[5]["image"] = ["0.png", "1.png"]
    (tmp_path / "two.json").write_text(json.dumps(records))
    [found] = check_run(data_path=tmp_path / "two.json")["images"]
    assert "the text has 1 <image> and the record lists 2" in found.message


def test_views_are_recognized_by_camera_names_and_paths_without_them_give_a_warning(toy, tmp_path, check_run):
    [found] = check_run(**toy.driving_options(toy.llm, vision_tower=toy.clip, mm_adapter_tokens=3))["images"]
    assert "with 6 views" in found.message
    assert found.level == "ok"
    shutil.copytree(toy.images / "views", tmp_path / "views")
    lines = toy.driving.read_text()
    for number, camera in enumerate(sorted((tmp_path / "views").iterdir())):
        camera.rename(camera.with_name(f"camera{number}"))
        lines = lines.replace(f"{camera.name}/", f"camera{number}/")
    (tmp_path / "nameless.jsonl").write_text(lines)
    options = toy.driving_options(toy.llm, vision_tower=toy.clip, mm_adapter_tokens=3, image_folder=tmp_path)
    [found] = check_run(**options | {"data_path": tmp_path / "nameless.jsonl"})["images"]
    assert found.level == "warn"
    assert "CAM_FRONT_LEFT" in found.remedy


def test_records_without_images_pass(toy, tmp_path, check_run):
    turns = [{"from": "human", "value": "Say it."}, {"from": "gpt", "value": "parked"}]
    (tmp_path / "text.json").write_text(json.dumps([{"id": "a", "conversations": turns}]))
    [found] = check_run(data_path=tmp_path / "text.json")["images"]
    assert (found.level, found.message) == ("ok", "no record has an image")


def test_an_invalid_data_file_fails_and_other_checks_are_made(tmp_path, check_run):
    (tmp_path / "bad.json").write_text("[{]")
    found = check_run(data_path=tmp_path / "bad.json")
    assert found["data"][0].level == "fail"
    assert found["model"][0].level == "ok"
