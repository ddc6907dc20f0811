"""Conversion of nuScenes mini itself: tables of all ten scenes, and three scenes with a few images."""

import json
from collections import Counter

import pytest

from senna.cli import main
from senna.convert.caption_checks import ask
from senna.convert.captioners import Request, make_captioner
from senna.convert.frames import frames_of, load_tables, read_frames
from senna.convert.nuscenes_tables import scenes_of
from senna.meta_actions import label_trajectory
from senna.record_file import open_records
from senna.views import VIEWS, camera_of
from tests.convert.test_frames import check_against_devkit

MINI = "v1.0-mini"
FIRST_SAMPLE = "ca9a282c9e77460f8360f564131a8af5"


@pytest.fixture(scope="module")
def mini(data):
    return list(read_frames(data / "nuscenes_mini10_tables", MINI))


def test_future_of_the_first_sample_is_the_known_one(mini):
    frame = next(frame for frame in mini if frame.token == FIRST_SAMPLE)
    assert frame.future[:, 1].round(2).tolist() == [4.63, 9.00, 13.19, 17.58, 21.41, 25.30]
    assert str(frame.plan) == "KEEP, STRAIGHT"
    assert [camera_of(path) for path in frame.images] == list(VIEWS)


def test_labels_of_mini_are_the_published_ones(mini):
    complete = [frame for frame in mini if frame.future_valid]
    assert (len(mini), len(complete)) == (404, 344)
    assert all((frame.plan is not None) == frame.future_valid for frame in mini)
    speeds = {"KEEP": 243, "STOP": 92, "DECELERATE": 7, "ACCELERATE": 2}
    assert Counter(frame.plan.speed for frame in complete) == speeds
    assert Counter(frame.plan.path for frame in complete) == {"STRAIGHT": 311, "LEFT_TURN": 20, "RIGHT_TURN": 13}


def test_facts_equal_the_devkits_own_calls(data):
    tables = load_tables(data / "nuscenes_mini3", MINI)
    for frame in list(frames_of(tables, scenes=["scene-0916"]))[::6]:
        assert check_against_devkit(tables, frame) > 10


def test_traffic_cones_and_barriers_are_static(mini):
    static = {agent.category for frame in mini for agent in frame.agents if agent.group == "static"}
    assert {"movable_object.trafficcone", "movable_object.barrier"} <= static
    assert not any(name.startswith(("vehicle.", "human.", "animal")) for name in static)


def test_most_moving_pedestrians_are_not_labelled_as_stopping(mini):
    walkers = [agent for frame in mini for agent in frame.agents if agent.name == "pedestrian" and agent.plan]
    stopping = sum(agent.plan.speed == "STOP" for agent in walkers) / len(walkers)
    published = sum(label_trajectory(agent.future).speed == "STOP" for agent in walkers) / len(walkers)
    assert stopping < 0.5 < 0.95 < published


def test_scenes_of_mini_are_split_officially(data):
    assert scenes_of(data / "nuscenes_mini10_tables", MINI) == {
        "train": [f"scene-{number}" for number in "0061 0553 0655 0757 0796 1077 1094 1100".split()],
        "val": ["scene-0103", "scene-0916"],
        "test": [],
    }


def test_captions_from_real_annotations_pass_the_checks(mini):
    captioner, count = make_captioner("annotations"), 0
    for frame in mini:
        requests = [Request(frame, view, None, "description", "?") for view in VIEWS]
        requests += [Request(frame, "front", None, "explanation", "?")] * (frame.plan is not None)
        captions = ask(captioner, requests)
        assert [caption.problems for caption in captions] == [()] * len(requests)
        count += len(captions)
    assert count == 404 * 6 + 344


def test_missing_images_of_mini_are_counted(data, tmp_path, capsys):
    out = tmp_path / "out"
    flags = ["convert", "--nuscenes", str(data / "nuscenes_mini3"), "--version", MINI, "--out", str(out)]
    assert main(flags) == 2
    error = capsys.readouterr().err
    assert "714 of 720 image files" in error
    assert "samples/CAM_FRONT/n015-2018-07-24-11-22-45+0800__CAM_FRONT__1532402928112460.jpg" in error
    assert main([*flags, "--allow-missing-images"]) == 0
    assert json.loads((out / "quality.json").read_text())["missing_images"] == 714
    assert open_records(out / "senna_nusc_train.jsonl")[0]["token"] == FIRST_SAMPLE
