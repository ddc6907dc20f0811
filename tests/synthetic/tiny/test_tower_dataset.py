"""What the tiny tower learns from: pictures with true answers, which say nothing of what the ego does."""

from dataclasses import replace

import numpy as np
import pytest

from senna.synthetic.tiny.scene_labels import GAPS, LIGHTS, OUTLOOK, STOP_LINES, outlook_at, to_stop_line
from senna.synthetic.tiny.tower_dataset import PADDING, lessons_of
from senna.synthetic.world.scenarios import Journey, retrace
from senna.synthetic.world.snapshot import ego_pose, light_ahead
from senna.synthetic.world.traffic import Mover, Tracks

NAMES = list(OUTLOOK)


@pytest.fixture(scope="module")
def journey() -> Journey:
    return retrace(0, 0, 0, 2.0)


def with_somebody(journey: Journey, gap: float, left: float, speed: float) -> Journey:
    """The journey's first moment with one car alone, `gap` metres of air ahead of the ego (half of it and of the car: 2.04 and
    2.2 m)."""
    x, y, yaw = journey.tracks.states[0, 0, :3]
    forward, aside = np.array([np.cos(yaw), np.sin(yaw)]), np.array([-np.sin(yaw), np.cos(yaw)])
    place = np.array([x, y]) + (2.04 + gap + 2.2) * forward + left * aside
    states = np.stack([journey.tracks.states[0, 0], [*place, yaw, speed, 0.0]])[None]
    return replace(journey, tracks=Tracks((journey.tracks.movers[0], Mover("car")), states))


def test_the_way_to_the_stop_line_is_that_of_the_nose():
    # The crossing's middle is 60 m ahead, its stop line 20 m before it, the nose 1.3 + 2.04 m before the rear axle.
    assert to_stop_line(200.0, 253.25, 0.0) == pytest.approx(60 - 20 - 3.34)
    assert to_stop_line(830.0, 253.25, 0.0) == np.inf  # behind the last crossing of the road


@pytest.mark.parametrize(("gap", "left", "label"), [(10.0, 0.0, 3), (30.0, 4.5, 4), (6.0, -4.5, 5)])
def test_a_vehicle_ahead_is_told_in_its_lane_with_its_gap(journey, gap, left, label):
    answers = dict(zip(NAMES, outlook_at(with_somebody(journey, gap, left, 8.0), 0), strict=True))
    gaps = [answers[name] for name in ("gap ahead", "gap in the lane to the left", "gap in the lane to the right")]
    expected = [len(GAPS)] * 3  # nobody
    expected[label - 3] = sum(end < gap for end in GAPS)
    assert gaps == expected
    assert answers["brake lamps ahead"] == (1 if label == 3 else 0)


def test_who_stands_ahead_shows_brake_lamps(journey):
    assert outlook_at(with_somebody(journey, 10.0, 0.0, 0.0), 0)[NAMES.index("brake lamps ahead")] == 2


def test_the_answers_are_of_the_moment(journey):
    answers = dict(zip(NAMES, outlook_at(journey, 0), strict=True))
    assert all(0 <= answers[name] < count for name, count in OUTLOOK.items())
    assert LIGHTS[answers["light"]] == light_ahead(journey, 0)
    assert answers["stop line"] == sum(end < to_stop_line(*ego_pose(journey, 0)) for end in STOP_LINES)


def test_lessons_are_of_the_towers_size_and_the_same_for_the_same_seed():
    made, again = lessons_of(3, 1, 6, 64, 16), lessons_of(3, 1, 6, 64, 16)
    assert made.pixels.shape == (6, 64, 64, 3)
    assert made.classes.shape == made.weights.shape == (6, 5, 16)
    assert all(np.array_equal(getattr(made, name), getattr(again, name)) for name in vars(made))
    assert (made.outlook[:2] == -1).all()  # a third are road pictures of stage 1
    assert (made.pixels[2:, 0] == PADDING).all()  # of the others, 64 x 36, the upper and lower 14 rows are padding
    assert not (made.pixels[2:, 14] == PADDING).all()
