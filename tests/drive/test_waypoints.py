"""Pure pursuit: straight lines exactly, bends and stops closely, and braking where there is nothing to follow."""

import math

import numpy as np
import pytest

from senna.drive.simulator import EgoState
from senna.drive.town import lidar_offsets
from senna.drive.waypoints import TrajectoryFollower
from senna.meta_actions import STEP


def follower(speed: float, yaw: float = 0.4) -> TrajectoryFollower:
    made = TrajectoryFollower()
    made.start(EgoState(10.0, -5.0, yaw, speed))
    return made


def test_a_straight_trajectory_is_driven_to_the_point():
    drive, start = follower(8.0), EgoState(10.0, -5.0, 0.4, 8.0)
    points = np.stack([np.zeros(6), 4.0 * np.arange(1, 7)], axis=1)
    end = drive(points).states[-1]
    assert end.speed == pytest.approx(8.0)
    assert (end.x, end.y) == pytest.approx((start.x + 4 * math.cos(0.4), start.y + 4 * math.sin(0.4)), abs=1e-6)


@pytest.mark.parametrize("side", [1, -1])
def test_a_bend_is_followed_closely(side):
    """The lidar's path is a circle with a radius of 12 m at 5 m/s, predicted anew in each step as a perfect model would."""
    ego = EgoState(0.0, 0.0, 0.0, 5.0)
    drive = TrajectoryFollower()
    drive.start(ego)
    radius, speed = 12.0, 5.0
    centre = np.array([0.0, side * radius])
    for step in range(8):
        angles = (step + np.arange(1, 7)) * STEP * speed / radius
        points = centre + radius * np.stack([np.sin(angles), -side * np.cos(angles)], axis=1)
        future = [EgoState(x, y, side * angle, speed) for (x, y), angle in zip(points.tolist(), angles, strict=True)]
        ego = drive(lidar_offsets(ego, future)).states[-1]
        assert np.linalg.norm([ego.x, ego.y] - centre) == pytest.approx(radius, abs=0.5)
    assert abs(math.remainder(ego.yaw - side * 8 * STEP * speed / radius, 2 * math.pi)) < 0.15


def test_a_trajectory_that_stops_is_a_stop():
    drive = follower(6.0)
    for distances in (np.array([2.4, 3.6, 4.0, 4.0, 4.0, 4.0]), np.array([1.2, 1.6, 1.6, 1.6, 1.6, 1.6])):
        drive(np.stack([np.zeros(6), distances], axis=1))
    end = drive(np.zeros((6, 2))).states[-1]
    assert end.speed == 0.0
    assert end.yaw == pytest.approx(0.4, abs=1e-3)


def test_without_a_trajectory_the_car_brakes_in_its_direction():
    states = follower(6.0)(None).states
    assert states[-1].speed == pytest.approx(4.5)
    assert {state.yaw for state in states} == {0.4}
