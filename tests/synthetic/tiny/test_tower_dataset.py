"""The training data of the tiny tower, whose labels contain only what the images show."""

from dataclasses import fields, replace

import numpy as np
import pytest

from senna.synthetic.tiny.scene_labels import (
    GAP_BINS,
    LIGHTS,
    SCENE_LABELS,
    STOP_LINE_BINS,
    distance_to_stop_line,
    scene_labels,
)
from senna.synthetic.tiny.tower_dataset import PADDING, draw_scenario
from senna.synthetic.world.scenarios import Scenario, simulate_scenario
from senna.synthetic.world.snapshot import ego_pose, light_ahead
from senna.synthetic.world.traffic import Mover, Tracks


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return simulate_scenario(0, 0, 0, 2.0)


def with_car(scenario: Scenario, gap: float, left: float, speed: float) -> Scenario:
    """Return the first moment of the scenario with a single car, `gap` metres ahead and `left` metres beside the ego.

    The gap is measured from the ego's nose to the car's back, which are 2.04 m and 2.2 m from the centres.
    """
    x, y, yaw = scenario.tracks.states[0, 0, :3]
    forward, aside = np.array([np.cos(yaw), np.sin(yaw)]), np.array([-np.sin(yaw), np.cos(yaw)])
    position = np.array([x, y]) + (2.04 + gap + 2.2) * forward + left * aside
    states = np.stack([scenario.tracks.states[0, 0], [*position, yaw, speed, 0.0]])[None]
    return replace(scenario, tracks=Tracks((scenario.tracks.movers[0], Mover("car")), states))


def labels_at_start(scenario: Scenario) -> dict[str, int]:
    return dict(zip(SCENE_LABELS, scene_labels(scenario, 0), strict=True))


def test_the_distance_to_the_stop_line_starts_at_the_nose():
    # The centre of the crossing is 60 m ahead, its stop line 20 m before it, the nose 1.3 + 2.04 m before the rear axle.
    assert distance_to_stop_line(200.0, 253.25, 0.0) == pytest.approx(60 - 20 - 3.34)
    assert distance_to_stop_line(830.0, 253.25, 0.0) == np.inf  # behind the last crossing of the road


@pytest.mark.parametrize(("gap", "left", "lane"), [(10.0, 0.0, 0), (30.0, 4.5, 1), (6.0, -4.5, 2)])
def test_a_vehicle_ahead_is_labelled_in_its_lane_with_its_gap(scenario, gap, left, lane):
    labels = labels_at_start(with_car(scenario, gap, left, 8.0))
    gaps = [labels[name] for name in ("gap ahead", "gap in the lane to the left", "gap in the lane to the right")]
    expected = [len(GAP_BINS)] * 3  # no vehicle
    expected[lane] = sum(end < gap for end in GAP_BINS)
    assert gaps == expected
    assert labels["brake lamps ahead"] == (1 if lane == 0 else 0)


def test_a_standing_vehicle_ahead_has_its_brake_lamps_on(scenario):
    assert labels_at_start(with_car(scenario, 10.0, 0.0, 0.0))["brake lamps ahead"] == 2


def test_light_and_stop_line_are_those_of_the_tick(scenario):
    labels = labels_at_start(scenario)
    assert all(0 <= labels[name] < count for name, count in SCENE_LABELS.items())
    assert LIGHTS[labels["light"]] == light_ahead(scenario, 0)
    assert labels["stop line"] == sum(end < distance_to_stop_line(*ego_pose(scenario, 0)) for end in STOP_LINE_BINS)


def test_images_have_the_towers_size_and_depend_only_on_the_seed():
    dataset, again = draw_scenario(3, 1, 6, 64, 16), draw_scenario(3, 1, 6, 64, 16)
    assert dataset.pixels.shape == (6, 64, 64, 3)
    assert dataset.patch_classes.shape == dataset.patch_weights.shape == (6, 5, 16)
    for field in fields(dataset):
        assert np.array_equal(getattr(dataset, field.name), getattr(again, field.name))
    assert (dataset.scene_labels[:2] == -1).all()  # a third are road images of stage 1
    assert (dataset.pixels[2:, 0] == PADDING).all()  # the others are 64 x 36, with 14 padded rows above and below
    assert not (dataset.pixels[2:, 14] == PADDING).all()
