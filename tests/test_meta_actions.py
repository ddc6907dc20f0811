"""Meta-actions: their text form, and the labels of trajectories."""

import json
import subprocess
import sys

import numpy as np
import pytest

from senna.meta_actions import (
    ALL_META_ACTIONS,
    PEDESTRIAN_STOP_SPEED,
    MetaAction,
    label_trajectories,
    label_trajectory,
    parse_meta_action,
)


def test_each_of_the_twenty_meta_actions_is_parsed_from_its_own_text():
    assert len(set(ALL_META_ACTIONS)) == 20
    assert all(parse_meta_action(str(action)) == action for action in ALL_META_ACTIONS)
    assert str(MetaAction("KEEP", "STRAIGHT")) == "KEEP, STRAIGHT"


@pytest.mark.parametrize("text", ["KEEP, LEFT_TURN\n", " keep,left_turn", "Keep ,\n Left_Turn.", "\tKEEP, LEFT_TURN ."])
def test_case_blanks_and_a_full_stop_are_ignored(text):
    assert parse_meta_action(text) == MetaAction("KEEP", "LEFT_TURN")


@pytest.mark.parametrize(
    "text",
    ["", "KEEP", "KEEP LEFT_TURN", "LEFT_TURN, KEEP", "KEEP, STOP", "KEEP, STRAIGHT, LEFT_TURN", "My plan: KEEP, STRAIGHT",
     "KEEP, STRAIGHT\nSTOP, STRAIGHT", "KEEP, STRAIGHTEN", "KEEP, LEFT", "UPKEEP, STRAIGHT"],
)  # fmt: skip
def test_any_other_text_is_not_a_meta_action(text):
    assert parse_meta_action(text) is None


PUBLISHED = {
    "const": "KEEP", "accelerate": "ACCELERATE", "decelerate": "DECELERATE", "stop": "STOP", "straight": "STRAIGHT",
    "right turn": "RIGHT_TURN", "left turn": "LEFT_TURN", "right lane change": "RIGHT_CHANGE",
    "left lane change": "LEFT_CHANGE",
}  # fmt: skip


def test_labels_equal_the_published_ones(golden):
    cases = json.loads((golden / "labels.json").read_text())["trajectories"]
    assert len(cases) >= 218
    for case in cases:
        xy = np.array(case["trajectory"], dtype=case["dtype"])
        assert label_trajectory(xy) == (PUBLISHED[case["speed"]], PUBLISHED[case["path"]]), case


def drive(speeds, aside=0.0):
    """Return a trajectory with the given step speeds in m/s forward that ends `aside` metres to the right."""
    forward = np.cumsum([speeds[0], *speeds]) * 0.5
    return np.stack([np.linspace(aside / 6, aside, len(forward)), forward], axis=1)


@pytest.mark.parametrize(
    ("xy", "label"),
    [
        (drive([8] * 5), "KEEP, STRAIGHT"),
        (drive([1.9] * 5), "STOP, STRAIGHT"),
        (drive([2.0] * 5), "KEEP, STRAIGHT"),
        (drive([4, 5, 6, 6.5, 7]), "ACCELERATE, STRAIGHT"),
        (drive([7, 7, 7, 7, 4]), "DECELERATE, STRAIGHT"),
        (drive([7, 7, 7, 7, 4.1]), "KEEP, STRAIGHT"),
        (drive([8] * 5, aside=4.1), "KEEP, RIGHT_TURN"),
        (drive([8] * 5, aside=-4.1), "KEEP, LEFT_TURN"),
        (drive([20] * 5, aside=4.1), "KEEP, RIGHT_CHANGE"),
        (drive([20] * 5, aside=-4.1), "KEEP, LEFT_CHANGE"),
        (drive([20] * 5, aside=3.9), "KEEP, STRAIGHT"),
    ],
)
def test_the_limits_of_the_published_rule(xy, label):
    assert str(label_trajectory(xy)) == label


def test_mirrored_trajectories_have_mirrored_labels():
    rng = np.random.default_rng(0)
    trajectories = np.cumsum(rng.uniform((-6, 0), (6, 9), (2000, 6, 2)), axis=1)
    swap = {"RIGHT": "LEFT", "LEFT": "RIGHT", "STRAIGHT": "STRAIGHT"}
    for action, mirrored in zip(
        label_trajectories(trajectories), label_trajectories(trajectories * (-1, 1)), strict=True
    ):
        side, _, kind = action.path.partition("_")
        assert mirrored == (action.speed, f"{swap[side]}_{kind}".rstrip("_"))


def test_a_walking_pedestrian_is_not_stopped_with_the_pedestrian_threshold():
    walk = drive([1.3] * 5)
    assert label_trajectory(walk).speed == "STOP"
    assert label_trajectory(walk, PEDESTRIAN_STOP_SPEED).speed == "KEEP"
    assert [str(label) for label in label_trajectories(np.stack([walk, walk]), np.array([0.5, 2.0]))] == [
        "KEEP, STRAIGHT",
        "STOP, STRAIGHT",
    ]


@pytest.mark.parametrize("xy", [[], [[0.0, 1.0]], [0.0, 1.0, 2.0], [[0.0], [1.0]], [[0.0, 0.0], [0.0, np.nan]]])
def test_an_invalid_trajectory_raises_an_error(xy):
    with pytest.raises(ValueError, match="trajectory"):
        label_trajectory(xy)


@pytest.mark.filterwarnings("error")
def test_trajectories_that_are_not_finite_have_no_label():
    trajectories = np.stack([drive([8] * 5)] * 3)
    trajectories[1, 5], trajectories[2, :2] = np.nan, np.inf
    assert label_trajectories(trajectories) == [("KEEP", "STRAIGHT"), None, None]
    assert label_trajectories(np.empty((0, 6, 2))) == []


def test_labels_do_not_import_torch():
    code = "import sys, senna.meta_actions, senna.convert.questions; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
