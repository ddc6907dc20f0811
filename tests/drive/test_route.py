"""Plans along a route: speeds by the published rule, lane changes that end, turns where the route has them, bends, commands."""

import math

import numpy as np
import pytest

from senna.drive.route import LANE, RigRoute, RouteFollower
from senna.meta_actions import ALL_META_ACTIONS, SPEEDS, MetaAction, label_trajectory

STRAIGHT_ON = RigRoute([(0, 0), (80, 0)])


def left_turn(before: float = 10.0, radius: float = 11.0) -> np.ndarray:
    """Return a route that turns left by a quarter circle, with a point every 2 m."""
    angles = np.linspace(0, math.pi / 2, 9)
    arc = np.stack([before + radius * np.sin(angles), radius * (1 - np.cos(angles))], axis=1)
    ways = [(x, 0.0) for x in np.arange(-6, before, 2.0)], arc, [(before + radius, radius + y) for y in range(2, 60, 2)]
    return np.concatenate([np.array(way) for way in ways])


def plan(speed_word: str, path: str, here: RigRoute, speed: float, **more) -> np.ndarray:
    return RouteFollower()(MetaAction(speed_word, path), here, speed, 0.0, **more)


def in_records(poses: np.ndarray) -> np.ndarray:
    """Return the points of every 0.5 s as records have them: x to the right and y forward."""
    return np.stack([-poses[4::5, 1], poses[4::5, 0]], axis=1)


@pytest.mark.parametrize("speed", SPEEDS)
def test_the_published_rule_gives_each_decision_back(speed):
    start = 5.0 if speed == "STOP" else 9.0
    poses = plan(speed, "STRAIGHT", STRAIGHT_ON, start)
    assert poses.shape == (30, 3)
    assert np.abs(poses[:, 1:]).max() < 1e-9
    if speed == "STOP":  # 3 m/s^2 from 5 m/s: it stands after 2 s, and the rule then calls the rest of the way STOP
        assert poses[-1, 0] == pytest.approx(poses[-6, 0])
    else:
        assert str(label_trajectory(in_records(poses))) == f"{speed}, STRAIGHT"


def test_keep_accelerates_by_the_mean_of_the_probabilities():
    shares = {"KEEP": 0.7, "ACCELERATE": 0.3}
    probabilities = [shares.get(action.speed, 0.0) * (action.path == "STRAIGHT") for action in ALL_META_ACTIONS]
    poses = plan("KEEP", "STRAIGHT", STRAIGHT_ON, 9.0, probabilities=probabilities)
    # 0.1 s after the start the acceleration is reached; then 0.54 m/s^2 for 3 s.
    assert poses[-1, 0] == pytest.approx(27 + 0.54 * 9 / 2, abs=0.1)
    assert str(label_trajectory(in_records(poses))) == "KEEP, STRAIGHT"


@pytest.mark.parametrize(
    ("path", "side"), [("LEFT_CHANGE", 1), ("RIGHT_CHANGE", -1), ("LEFT_TURN", 1), ("RIGHT_TURN", -1)]
)
def test_a_lane_change_is_finished_and_then_the_lane_is_kept(path, side):
    """The vehicle follows its plan for 0.1 s, then plans anew: first to change lanes, afterwards straight on."""
    follower, at = RouteFollower(), np.zeros(3)
    for tick in range(80):
        cosine, sine = math.cos(at[2]), math.sin(at[2])
        turned = np.array([[cosine, -sine], [sine, cosine]])
        here = RigRoute((np.array([(at[0] - 10, 0.0), (at[0] + 80, 0.0)]) - at[:2]) @ turned)
        x, y, yaw = follower(MetaAction("KEEP", path if tick < 3 else "STRAIGHT"), here, 8.0, 100 + tick / 10)[0]
        at = np.array([*(at[:2] + turned @ (x, y)), at[2] + yaw])
    assert at[1] == pytest.approx(side * LANE, abs=0.05)
    assert at[2] == pytest.approx(0, abs=0.02)
    assert at[0] == pytest.approx(64, abs=0.5)


def test_a_turn_follows_the_route_and_slows_down_for_it():
    here = RigRoute(left_turn(before=6.0))
    poses = plan("KEEP", "LEFT_TURN", here, 8.0)
    assert str(label_trajectory(in_records(poses))).endswith("LEFT_TURN")
    speeds = np.linalg.norm(np.diff(poses[:, :2], axis=0), axis=1) / 0.1
    assert speeds.min() == pytest.approx(math.sqrt(2.8 * 11), abs=0.6)
    centre = np.array([6.0, 11.0])
    bend = poses[(poses[:, 0] > 8) & (poses[:, 2] < 1.4)]
    assert len(bend) > 5
    assert np.linalg.norm(bend[:, :2] - centre, axis=1) == pytest.approx(11, abs=0.15)
    assert plan("KEEP", "RIGHT_TURN", here, 8.0)[10, 1] < -0.2  # the route has none: a lane change


def test_the_plan_begins_at_the_vehicle_and_returns_to_the_route():
    """1 m to the right of the route, and turned to the left by 0.1."""
    cosine, sine = math.cos(0.1), math.sin(0.1)
    points = np.array([(-10.0, 1.0), (80.0, 1.0)]) @ np.array([[cosine, -sine], [sine, cosine]])
    here = RigRoute(points)
    assert here.left == pytest.approx(-1.0)
    poses = plan("KEEP", "STRAIGHT", here, 8.0)
    assert poses[0] == pytest.approx((0.8, 0.0, 0.0), abs=0.02)
    end = here.route.at(float(np.linalg.norm(poses[-1, :2])))
    assert np.linalg.norm(poses[-1, :2] - end[:2]) < 0.1
    assert poses[-1, 2] == pytest.approx(-0.1, abs=1e-3)


@pytest.mark.parametrize(
    "points",
    [[], [(3, 0)], [(0, 0), (0, 0)], [(5, 0), (9, 0)], [(-9, 0), (-5, 0)], [(-5, 0), (0, 0)], [(0, 0), (1e-9, 0)]],
)
def test_a_short_route_goes_straight_on(points):
    poses = plan("KEEP", "STRAIGHT", RigRoute(points), 8.0)
    assert poses == pytest.approx(np.stack([0.8 * np.arange(1, 31), np.zeros(30), np.zeros(30)], axis=1), abs=1e-6)


def test_speed_limits_are_held_and_the_acceleration_goes_on_from_plan_to_plan():
    limited = plan("ACCELERATE", "STRAIGHT", STRAIGHT_ON, 8.0, speed_limit=9.0)
    assert (limited[-1, 0] - limited[-2, 0]) / 0.1 < 9.0
    follower, speed = RouteFollower(), 8.0
    for tick in range(20):
        x, *_ = follower(MetaAction("STOP", "STRAIGHT"), STRAIGHT_ON, speed, tick / 10)[0]
        speed = x / 0.1
    assert speed == pytest.approx(8.0 - 0.1 * (0.6 + 1.2 + 1.8 + 2.4 + 16 * 3.0))  # the brakes engage within 0.5 s


def test_the_navigation_command_is_that_of_the_place_in_six_seconds():
    assert STRAIGHT_ON.command(8.0) == "go straight"
    assert RigRoute(left_turn(before=8.0)).command(5.0) == "turn left"
    assert RigRoute(left_turn(before=8.0) * (1, -1)).command(5.0) == "turn right"
    assert RigRoute(left_turn(before=16.0)).command(6.0) == "go straight and turn left"
    assert RigRoute(left_turn(before=60.0)).command(8.0) == "go straight"
    assert RigRoute(left_turn(before=8.0)).command(0.0) == "turn left"  # at a light, where it would roll 12 m in 6 s
