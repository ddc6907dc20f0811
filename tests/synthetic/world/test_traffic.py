"""The traffic model: drivers obey signals, keep their distance and overtake."""

import numpy as np
import pytest

from senna.synthetic.world.sensors import EGO_SIZE
from senna.synthetic.world.town import LANE_OFFSETS, STOP_LINE_DISTANCE, Signals, make_route, node_at
from senna.synthetic.world.traffic import CHANGE_TIME, TICK, Driver, Mover, simulate

SECONDS = 19.5
RED, GREEN = Signals((-20.0, 0.0, 0.0, 0.0), (0, 0, 0, 0)), Signals((0.0, 0.0, 0.0, 0.0), (0, 0, 0, 0))


def drive(signals: Signals, *others: Driver, before: float = 100.0, speed: float = 12.0, **ego: object) -> np.ndarray:
    """Return the states (T, N, 5) of an ego vehicle that drives east in the right lane to the first intersection."""
    lane = make_route((0, 0), 0, before, LANE_OFFSETS[1])
    return simulate([Driver(Mover("ego"), lane, 0.0, speed, speed, **ego), *others], [], signals, SECONDS).states


def test_a_driver_stops_before_the_line_of_a_red_light():
    ego = drive(RED)[:, 0]
    line = node_at((0, 0))[0] - STOP_LINE_DISTANCE
    noses = ego[:, 0] + EGO_SIZE[0] / 2
    assert noses.max() < line
    assert line - noses[-1] < 2.0
    assert ego[-1, 3] < 0.05
    assert ego[:, 4].min() > -4.5


def test_a_green_light_does_not_slow_a_driver():
    ego = drive(GREEN, before=80.0)[:, 0]
    assert ego[:, 3].min() > 11.5
    assert ego[-1, 0] > node_at((0, 0))[0] + STOP_LINE_DISTANCE


def test_a_driver_follows_a_slow_vehicle_where_the_other_lane_is_occupied():
    lanes = [make_route((0, 0), 0, 240.0, offset) for offset in LANE_OFFSETS]
    slow = [Driver(Mover("car"), lane, 50.0, 5.0, 5.0) for lane in lanes]
    ego, *_ = np.moveaxis(drive(RED, *slow, before=240.0, overtakes=True), 1, 0)
    assert ego[100, 3] == pytest.approx(5.0, abs=1.0)
    assert np.ptp(ego[:, 1]) < 0.01


def test_a_driver_overtakes_slow_traffic_smoothly_and_returns_to_the_right_lane():
    lane = make_route((0, 0), 0, 250.0, LANE_OFFSETS[1])
    slow = Driver(Mover("truck"), lane, 80.0, 6.0, 6.0)
    ego = drive(GREEN, slow, before=250.0, speed=18.0, overtakes=True)[:, 0]
    left = ego[:, 1] - ego[0, 1]
    assert left.max() == pytest.approx(LANE_OFFSETS[1] - LANE_OFFSETS[0], abs=0.01)
    assert left[-1] == pytest.approx(0, abs=0.01)
    lateral_acceleration = np.abs(np.diff(left, 2)).max() / TICK**2
    # A fifth-degree polynomial that covers a distance d in a time T has a largest acceleration of 5.77 d / T^2.
    assert lateral_acceleration < 5.8 * left.max() / CHANGE_TIME**2 * 1.05
