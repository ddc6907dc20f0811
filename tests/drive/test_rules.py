"""The rules of a drive against cases that are worked out by hand."""

import math

import numpy as np
import pytest

from senna.drive.rules import corners, is_at_fault, is_drivable, overlap, passes_red_light
from senna.drive.simulator import EgoState
from senna.synthetic.world.town import EXTENT, MARGIN, STOP_LINE_DISTANCE, Signals


@pytest.mark.parametrize(
    ("other", "hits"),
    [
        ((3.9, 0, 0), True),  # 4 m long each: the ends overlap by 0.1 m
        ((4.1, 0, 0), False),
        ((0, 1.9, 0), True),
        ((0, 2.1, 0), False),
        ((0, 2.9, math.pi / 2), True),  # across: half a length and half a width are 3 m
        ((0, 3.1, math.pi / 2), False),
        ((2.9, 1.9, math.pi / 4), True),
        ((3.6, 2.6, math.pi / 4), False),  # the boxes' extents in x and y overlap, the boxes do not
    ],
)
def test_boxes_overlap_as_drawn_on_paper(other, hits):
    first = corners(0, 0, 0, 4, 2)
    assert overlap(first, corners(*other, 4, 2)) is hits
    turned = [points @ np.array([[0.6, 0.8], [-0.8, 0.6]]) + [7, -3] for points in (first, corners(*other, 4, 2))]
    assert overlap(*turned) is hits


@pytest.mark.parametrize(
    ("speed", "other", "fault"),
    [(5.0, (4.0, 0.0), True), (0.2, (4.0, 0.0), False), (5.0, (-4.0, 0.3), False), (5.0, (-1.0, 1.8), True)],
)
def test_a_car_that_stands_or_is_hit_from_behind_is_not_at_fault(speed, other, fault):
    assert is_at_fault(EgoState(0, 0, 0, speed), other, 4.0) is fault
    north = EgoState(0, 0, math.pi / 2, speed)
    assert is_at_fault(north, (-other[1], other[0]), 4.0) is fault


def approach(front: float, right: float, yaw: float = 0.0) -> EgoState:
    """Return a car whose front is `front` metres beyond the stop line of the eastbound approach to the first intersection."""
    return EgoState(MARGIN - STOP_LINE_DISTANCE + front - 2.0, MARGIN - right, yaw, 5.0)


def test_a_red_light_is_passed_where_the_front_crosses_the_line_while_it_is_red():
    signals = Signals((0.0,) * 4, (0,) * 4)  # eastbound traffic has green from 0 to 9 s, yellow to 12 s
    before, after = approach(-0.2, 2.25), approach(0.3, 2.25)
    assert passes_red_light(before, after, 4.0, signals, 20.0)
    assert not passes_red_light(before, after, 4.0, signals, 5.0)
    assert not passes_red_light(before, after, 4.0, signals, 10.0)  # yellow
    assert not passes_red_light(after, approach(0.8, 2.25), 4.0, signals, 20.0)  # beyond the line already
    assert not passes_red_light(approach(-0.2, -2.25), approach(0.3, -2.25), 4.0, signals, 20.0)  # the oncoming lanes
    assert not passes_red_light(after, before, 4.0, signals, 20.0)  # backwards


def test_the_drivable_area_has_rounded_corners():
    kerb = MARGIN + 9  # where the straight kerbs of the first intersection would meet
    points = [
        (MARGIN + 8.9, 30.0),
        (MARGIN + 9.1, 30.0),
        (kerb + 1, kerb + 1),  # asphalt: 7.1 m from the centre of the arc, whose radius is 6 m
        (kerb + 2, kerb + 2),  # 5.7 m from it: pavement
        (EXTENT / 2, MARGIN + 8.9),
        (EXTENT / 2, EXTENT / 2),
    ]
    assert is_drivable(points).tolist() == [True, False, True, False, True, False]
