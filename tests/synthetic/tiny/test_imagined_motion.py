"""Imagined situations: their motion is possible, and plan, command and layout agree with it."""

from collections import Counter

import numpy as np
import pytest

from senna.meta_actions import STEP, label_trajectory
from senna.synthetic.tiny.imagined_motion import Situation, imagine_situation
from senna.synthetic.tiny.layout import GAP_WORDS, LINE_WORDS, NOTHING
from senna.synthetic.tiny.scene_labels import GAP_BINS, STOP_LINE_BINS


@pytest.fixture(scope="module")
def situations() -> list[Situation]:
    rng = np.random.default_rng(0)
    return [imagine_situation(rng) for _ in range(1500)]


def test_the_same_seed_gives_the_same_situation():
    first, again = (imagine_situation(np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(first.future, again.future)
    assert first.layout == again.layout


def test_no_car_moves_faster_turns_tighter_or_brakes_harder_than_a_car_can(situations: list[Situation]):
    for situation in situations:
        points = np.vstack([[0.0, 0.0], situation.future])
        steps = np.linalg.norm(np.diff(points, axis=0), axis=1) / STEP  # m/s
        changes = np.diff([situation.speed, *steps]) / STEP
        assert steps.max() < 20
        assert changes[1:].min() > -6.5
        assert changes[1:].max() < 3.5
        assert abs(steps[0] - situation.speed) < 3
        second = np.linalg.norm(np.diff(points, 2, axis=0), axis=1) / STEP**2
        assert second.max() < 7


def test_the_plan_is_the_label_of_the_motion_and_every_common_plan_occurs(situations: list[Situation]):
    plans = Counter(str(situation.plan) for situation in situations)
    assert all(label_trajectory(situation.future) == situation.plan for situation in situations)
    common = ["KEEP, STRAIGHT", "ACCELERATE, STRAIGHT", "DECELERATE, STRAIGHT", "STOP, STRAIGHT", "KEEP, LEFT_TURN",
              "KEEP, RIGHT_TURN", "KEEP, LEFT_CHANGE", "KEEP, RIGHT_CHANGE"]  # fmt: skip
    assert all(plans[plan] > 15 for plan in common), plans


def test_a_car_turns_to_the_side_that_its_command_says(situations: list[Situation]):
    for situation in situations:
        side = situation.command.split()[-1]
        if side in ("left", "right"):
            assert situation.plan.path in ("STRAIGHT", f"{side.upper()}_TURN", f"{side.upper()}_CHANGE")


def test_no_car_touches_a_standing_vehicle_ahead(situations: list[Situation]):
    stops = 0
    for situation in situations:
        forward, standing = situation.future[-1, 1], situation.layout.lamps == "on" and situation.leader_speed < 0.3
        if situation.plan.path == "STRAIGHT" and standing:
            assert forward < situation.ahead + 1
            stops += 1
    assert stops > 10


def test_no_car_passes_a_red_light_unless_it_turns_green(situations: list[Situation]):
    passed, seen = 0, 0
    for situation in situations:
        if situation.light == "red" and situation.layout.line != NOTHING and situation.plan.path == "STRAIGHT":
            line = STOP_LINE_BINS[LINE_WORDS.index(situation.layout.line)]  # at most, in metres
            seen += 1
            passed += situation.future[-1, 1] > line + 0.5
    assert seen > 80
    assert passed < 0.05 * seen  # a seventh of the red lights turn green, few of them in time


def test_the_words_of_the_gap_are_those_of_its_bin(situations: list[Situation]):
    for situation in situations:
        word = situation.layout.ahead
        if word == NOTHING:
            assert situation.ahead > GAP_BINS[-1]
            assert situation.layout.lamps == NOTHING
        else:
            number = GAP_WORDS.index(word)
            assert situation.ahead <= GAP_BINS[number]
            assert number == 0 or situation.ahead > GAP_BINS[number - 1]
