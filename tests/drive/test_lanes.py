"""Meta-actions as motion: the published rule gives the decision back, and lanes are kept, changed and left where decided."""

import math

import numpy as np
import pytest

from senna.drive.lanes import LaneFollower, lane_at
from senna.drive.simulator import TICKS, EgoState
from senna.meta_actions import ALL_META_ACTIONS, KEEP_STRAIGHT, MetaAction, label_trajectory
from senna.synthetic.world.town import BLOCK, LANE_OFFSETS, LANE_WIDTH, MARGIN, STOP_LINE_DISTANCE, TURN_RADIUS

LEFT_LANE, RIGHT_LANE = LANE_OFFSETS


def eastbound(before: float, offset: float, speed: float) -> EgoState:
    """Return a car that drives east, `before` metres from the centre of the first intersection."""
    return EgoState(MARGIN - before, MARGIN - offset, 0.0, speed)


def run(ego: EgoState, decisions: list[MetaAction], limit: float = 15.0, probabilities=None) -> list[EgoState]:
    follower = LaneFollower(limit)
    follower.start(ego)
    return [ego, *(state for decision in decisions for state in follower(decision, probabilities).states)]


def distribution(**speeds: float) -> list[float]:
    """Return the twenty probabilities of a driver who goes straight on."""
    return [speeds.get(action.speed, 0.0) * (action.path == "STRAIGHT") for action in ALL_META_ACTIONS]


def label(states: list[EgoState]) -> MetaAction:
    """Return the meta-action of the first 3 s."""
    first = states[0]
    offsets = np.array([state[:2] for state in states[TICKS : 6 * TICKS + 1 : TICKS]]) - [first.x, first.y]
    forward = np.array([math.cos(first.yaw), math.sin(first.yaw)])
    return label_trajectory(np.stack([offsets @ [forward[1], -forward[0]], offsets @ forward], axis=1))


@pytest.mark.parametrize(
    ("speed", "decision"),
    [(8.0, "KEEP"), (8.0, "ACCELERATE"), (0.0, "ACCELERATE"), (8.0, "DECELERATE"), (0.0, "STOP"), (2.5, "STOP"),
     (0.0, "KEEP"), (1.0, "KEEP")],
)  # fmt: skip
def test_the_published_rule_calls_the_motion_of_a_speed_by_its_name(speed, decision):
    action = MetaAction(decision, "STRAIGHT")
    assert label(run(eastbound(200, RIGHT_LANE, speed), [action] * 6, limit=20.0)) == action


@pytest.mark.parametrize(
    ("probabilities", "acceleration"),
    [
        (distribution(KEEP=1.0), 0.0),
        (distribution(KEEP=0.7, ACCELERATE=0.3), 0.3 * 1.8),
        (distribution(KEEP=0.4, DECELERATE=0.3, STOP=0.2, ACCELERATE=0.1), 0.18 - 0.63 - 0.6),
        (distribution(ACCELERATE=1.0), 1.4),  # a decision by a prior correction need not be the most probable one
        (distribution(STOP=1.0), -1.4),
    ],
)
def test_keep_accelerates_by_the_mean_of_the_probabilities_and_stays_keep(probabilities, acceleration):
    states = run(eastbound(200, RIGHT_LANE, 9.0), [KEEP_STRAIGHT] * 6, limit=40.0, probabilities=probabilities)
    assert states[-1].acceleration == pytest.approx(acceleration, abs=0.02)
    assert label(states) == KEEP_STRAIGHT


def test_other_speeds_do_not_depend_on_the_probabilities():
    for speed, acceleration in (("ACCELERATE", 1.8), ("DECELERATE", -2.1), ("STOP", -3.0)):
        decisions = [MetaAction(speed, "STRAIGHT")] * 4
        states = run(eastbound(200, RIGHT_LANE, 9.0), decisions, 40.0, distribution(KEEP=0.6, ACCELERATE=0.4))
        assert states[-1].acceleration == pytest.approx(acceleration, abs=0.02)


@pytest.mark.parametrize("side", ["LEFT", "RIGHT"])
def test_the_published_rule_calls_the_motion_of_a_lane_change_and_a_turn_by_its_name(side):
    offset = RIGHT_LANE if side == "LEFT" else LEFT_LANE
    change = MetaAction("KEEP", f"{side}_CHANGE")
    # The rule calls a change of 4.5 m at less than 17 m/s a turn: its bearing is above 5 degrees.
    assert label(run(eastbound(200, offset, 18.5), [change] * 6, limit=25.0)) == change
    turn = MetaAction("KEEP", f"{side}_TURN")
    before = 12 if side == "LEFT" else 18
    assert label(run(eastbound(before, LANE_WIDTH * 2 - offset, 5.0), [turn] * 6)) == turn


def test_a_lane_change_is_finished_and_goes_no_further_than_the_lanes():
    left, straight = MetaAction("KEEP", "LEFT_CHANGE"), MetaAction("KEEP", "STRAIGHT")
    states = run(eastbound(200, RIGHT_LANE, 10.0), [left] + [straight] * 7)
    assert states[-1].y == pytest.approx(MARGIN - LEFT_LANE)
    assert states[-1].yaw == 0.0
    states = run(eastbound(200, RIGHT_LANE, 10.0), [left] * 16)
    assert states[-1].y == pytest.approx(MARGIN - LEFT_LANE)
    assert max(state.y for state in states) < MARGIN - LEFT_LANE + 1e-6


@pytest.mark.parametrize(
    ("path", "offset", "heading"),
    [("LEFT_TURN", LEFT_LANE, math.pi / 2), ("RIGHT_TURN", RIGHT_LANE, -math.pi / 2), ("STRAIGHT", LEFT_LANE, 0.0)],
)
def test_a_turn_that_is_decided_ends_in_the_lane_of_the_other_road(path, offset, heading):
    decisions = [MetaAction("KEEP", path)] * 26
    end = run(eastbound(45, offset, 6.0), decisions)[-1]
    lane = lane_at(*end[:3])
    assert math.remainder(end.yaw - heading, 2 * math.pi) == pytest.approx(0.0, abs=0.02)
    assert (lane.offset, lane.left) == pytest.approx((offset, 0.0), abs=0.01)
    assert lane.heading == round(heading / (math.pi / 2)) % 4


def test_a_turn_that_is_decided_late_begins_at_once_and_ends_in_a_lane():
    place = TURN_RADIUS["left"] - LEFT_LANE  # metres before the centre at which a left turn begins
    late, keep = MetaAction("KEEP", "LEFT_TURN"), MetaAction("KEEP", "STRAIGHT")
    end = run(eastbound(place - 2.0, LEFT_LANE, 5.0), [late] + [keep] * 20)[-1]
    lane = lane_at(*end[:3])
    assert (lane.heading, lane.left) == (1, pytest.approx(0.0, abs=0.01))
    too_late = run(eastbound(place - 5.0, LEFT_LANE, 5.0), [late] * 12)[-1]
    assert too_late.y == pytest.approx(MARGIN - LEFT_LANE)


@pytest.mark.parametrize("side", ["LEFT", "RIGHT"])
def test_a_turn_far_from_an_intersection_is_the_lane_change_that_the_rule_calls_so(side):
    offset = RIGHT_LANE if side == "LEFT" else LEFT_LANE
    turn = MetaAction("KEEP", f"{side}_TURN")
    states = run(eastbound(200, offset, 11.0), [turn] * 6)
    assert label(states) == turn
    assert states[-1].y == pytest.approx(MARGIN - (LANE_WIDTH * 2 - offset))


def test_a_turn_that_has_begun_is_finished():
    decisions = [MetaAction("KEEP", "RIGHT_TURN")] * 4 + [MetaAction("KEEP", "STRAIGHT")] * 12
    end = run(eastbound(23, RIGHT_LANE, 5.0), decisions)[-1]
    assert lane_at(*end[:3]).heading == 3


def test_speed_stays_below_the_limit_and_below_that_of_a_bend():
    faster = [MetaAction("ACCELERATE", "STRAIGHT")] * 20
    assert max(state.speed for state in run(eastbound(240, RIGHT_LANE, 8.0), faster, limit=10.0)) < 10.05
    turning = run(eastbound(60, RIGHT_LANE, 12.0), [MetaAction("KEEP", "RIGHT_TURN")] * 16)
    in_bend = [state.speed for state in turning if -1.2 < state.yaw < -0.4]
    assert max(in_bend) < 6.0


def test_lanes_are_found_on_all_roads_and_behind_the_last_intersection():
    lane = lane_at(MARGIN + BLOCK - 50, MARGIN + BLOCK - 7.0, 0.1)
    assert (lane.node, lane.before, lane.heading, lane.offset) == ((1, 1), pytest.approx(50), 0, RIGHT_LANE)
    assert lane.left == pytest.approx(-0.25)
    assert lane_at(MARGIN + BLOCK + 2.0, MARGIN - STOP_LINE_DISTANCE - 1, -math.pi / 2).node is None
    end = run(eastbound(-BLOCK - 40, RIGHT_LANE, 8.0), [MetaAction("KEEP", "STRAIGHT")] * 4)[-1]
    assert end.x == pytest.approx(MARGIN + BLOCK + 40 + 16)
