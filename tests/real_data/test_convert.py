"""Conversion of nuScenes mini itself: tables of all ten scenes, and three scenes with a few images."""

import json
from collections import Counter

import numpy as np
import pytest

from senna.cli import main
from senna.convert.caption_checks import ask
from senna.convert.captioners import Request, make_captioner
from senna.convert.frames import Frame, Source, load_tables, read_frames
from senna.convert.nuscenes_tables import scenes_of
from senna.evaluate.metrics.baselines import BY_SITUATION, MAJORITY, baselines
from senna.evaluate.metrics.bootstrap import Scenes
from senna.evaluate.metrics.meta_actions import decide
from senna.evaluate.metrics.plan_prompt import Situation
from senna.meta_actions import label_trajectory
from senna.record_file import open_records
from senna.views import VIEWS, camera_of
from tests.helpers.devkit import check_against_devkit

MINI = "v1.0-mini"
FIRST_SAMPLE = "ca9a282c9e77460f8360f564131a8af5"


def test_the_labels_and_baselines_of_mini_are_the_known_ones(data):
    root = data / "nuscenes_mini10_tables"
    assert scenes_of(root, MINI) == {
        "train": [f"scene-{number}" for number in "0061 0553 0655 0757 0796 1077 1094 1100".split()],
        "val": ["scene-0103", "scene-0916"],
        "test": [],
    }
    frames = list(read_frames(root, MINI))
    first = next(frame for frame in frames if frame.token == FIRST_SAMPLE)
    assert first.future[:, 1].round(2).tolist() == [4.63, 9.00, 13.19, 17.58, 21.41, 25.30]
    assert str(first.plan) == "KEEP, STRAIGHT"
    assert [camera_of(path) for path in first.images] == list(VIEWS)
    complete = [frame for frame in frames if frame.future_valid]
    assert (len(frames), len(complete)) == (404, 344)
    assert all((frame.plan is not None) == frame.future_valid for frame in frames)
    speeds = {"KEEP": 243, "STOP": 92, "DECELERATE": 7, "ACCELERATE": 2}
    assert Counter(frame.plan.speed for frame in complete) == speeds
    assert Counter(frame.plan.path for frame in complete) == {"STRAIGHT": 311, "LEFT_TURN": 20, "RIGHT_TURN": 13}
    check_agents(frames)
    check_captions(frames)
    check_baselines(complete)


def check_agents(frames: list[Frame]) -> None:
    """Check that cones and barriers are static, and that most moving pedestrians are not labelled as stopping."""
    static = {agent.category for frame in frames for agent in frame.agents if agent.group == "static"}
    assert {"movable_object.trafficcone", "movable_object.barrier"} <= static
    assert not any(name.startswith(("vehicle.", "human.", "animal")) for name in static)
    walkers = [agent for frame in frames for agent in frame.agents if agent.name == "pedestrian" and agent.plan]
    stopping = sum(agent.plan.speed == "STOP" for agent in walkers) / len(walkers)
    published = sum(label_trajectory(agent.future).speed == "STOP" for agent in walkers) / len(walkers)
    assert stopping < 0.5 < 0.95 < published


def check_captions(frames: list[Frame]) -> None:
    """Check that captions made of the annotations pass the checks of captions."""
    captioner, count = make_captioner("annotations"), 0
    for frame in frames:
        requests = [Request(frame, view, None, "description", "?") for view in VIEWS]
        requests += [Request(frame, "front", None, "explanation", "?")] * (frame.plan is not None)
        captions = ask(captioner, requests)
        assert [caption.problems for caption in captions] == [()] * len(requests)
        count += len(captions)
    assert count == 404 * 6 + 344


def check_baselines(frames: list[Frame]) -> None:
    """Check the figures of the baselines, which are fitted on all other scenes."""
    truth, names = [frame.plan for frame in frames], np.array([frame.scene for frame in frames])
    situations = [Situation(frame.command, None if np.isnan(frame.speed) else frame.speed) for frame in frames]
    predicted = {}
    for scene in np.unique(names):
        rest, held = np.flatnonzero(names != scene), np.flatnonzero(names == scene)
        found = baselines([situations[i] for i in rest], [truth[i] for i in rest], [situations[i] for i in held])
        for name, answers in found.items():
            predicted.setdefault(name, {}).update(zip(held, answers, strict=True))
    figures = {
        name: decide(truth, [answers[i] for i in range(len(truth))], Scenes(names)).as_json()
        for name, answers in predicted.items()
    }
    majority, tree = figures[MAJORITY], figures[BY_SITUATION]
    assert majority["accuracy"]["both"]["value"] == pytest.approx(0.616, abs=5e-4)
    assert majority["macro_f1"]["both"]["value"] == pytest.approx(0.127, abs=5e-4)
    assert tree["accuracy"]["both"]["value"] == pytest.approx(0.80, abs=0.02)
    assert tree["macro_f1"]["both"]["value"] == pytest.approx(0.33, abs=0.03)


def test_three_scenes_are_converted_with_the_devkits_facts_and_missing_images_are_counted(data, tmp_path, capsys):
    root, out = data / "nuscenes_mini3", tmp_path / "out"
    tables = load_tables(root, MINI)
    for frame in list(Source(tables).frames(["scene-0916"]))[::6]:
        assert check_against_devkit(tables, frame) > 10
    flags = ["convert", "--nuscenes", str(root), "--version", MINI, "--out", str(out)]
    assert main(flags) == 2
    error = capsys.readouterr().err
    assert "714 of 720 image files" in error
    assert "samples/CAM_FRONT/n015-2018-07-24-11-22-45+0800__CAM_FRONT__1532402928112460.jpg" in error
    assert main([*flags, "--allow-missing-images"]) == 0
    assert json.loads((out / "quality.json").read_text())["missing_images"] == 714
    assert open_records(out / "senna_nusc_train.jsonl")[0]["token"] == FIRST_SAMPLE
