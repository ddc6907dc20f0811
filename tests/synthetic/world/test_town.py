"""The town: routes stay in their lanes, signals exclude each other, scenery is outside the roads."""

import itertools
import math

import numpy as np
import pytest

from senna.synthetic.world.town import (
    CYCLE_OFFSET,
    DIRECTIONS,
    EXTENT,
    LANE_OFFSETS,
    NODES,
    PERIOD,
    WALK,
    Signals,
    empty_town,
    make_route,
    node_at,
)

SIGNALS = Signals((3.0, 20.0, 41.0, 0.0), (0, 1, 2, 3))


@pytest.mark.parametrize(("turn", "side"), [("left", 1), ("right", -1), ("straight", 0)])
def test_a_route_leaves_an_intersection_in_the_lane_with_the_same_offset(turn, side):
    offset = LANE_OFFSETS[side < 0]
    for node in NODES:
        for heading in range(4):
            route = make_route(node, heading, 60.0, offset, [turn])
            new_heading = (heading + side) % 4
            right = DIRECTIONS[new_heading - 1]
            assert (route.points[-1] - node_at(node)) @ right == pytest.approx(offset, abs=0.05)
            assert math.cos(route.yaws[-1] - new_heading * math.pi / 2) == pytest.approx(1)
            steps = np.linalg.norm(np.diff(route.points, axis=0), axis=1)
            assert 0.97 < steps.min() <= steps.max() < 1.01
            assert ((route.points >= 0) & (route.points <= EXTENT)).all()


def test_only_one_approach_has_green_and_yellow_comes_between_green_and_red():
    successors = {"green": {"green", "yellow"}, "yellow": {"yellow", "red"}, "red": {"red", "green"}}
    for node in NODES:
        times = np.arange(0, PERIOD, 0.5)
        states = [[SIGNALS.state(node, heading, time) for heading in range(4)] for time in times]
        assert all(sum(state != "red" for state in row) <= 1 for row in states)
        for before, after in itertools.pairwise(states):
            assert all(new in successors[old] for old, new in zip(before, after, strict=True))
        assert {state for row in states for state in row} == {"red", "yellow", "green"}


def test_all_lights_are_red_while_pedestrians_cross():
    for node in NODES:
        for start in SIGNALS.walk_starts(node, 60.0):
            for time in np.arange(max(start, 0) + 0.01, max(start + WALK, 0), 0.5):
                assert all(SIGNALS.state(node, heading, time) == "red" for heading in range(4))


def test_houses_trees_and_lamps_stand_beside_the_roads():
    town = empty_town(5)
    lines = [node_at(NODES[0])[0], node_at(NODES[3])[0]]
    for things, distance in ((town.houses, 18), (town.trees, CYCLE_OFFSET), (town.lamps, CYCLE_OFFSET)):
        assert things
        assert min(abs(c - line) for thing in things for c in (thing.x, thing.y) for line in lines) > distance
