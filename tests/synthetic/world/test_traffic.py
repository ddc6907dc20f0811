"""Traffic of the driving world: it obeys what is drawn, nobody collides, and a seed decides everything."""

import itertools
import math

import numpy as np
import pytest

from senna.synthetic.world.scenarios import PLANS, Journey, ego_positions, is_clean, paths_driven, retrace, travel
from senna.synthetic.world.sensors import CAMERAS, EGO_SIZE, camera_at, rotation_matrix
from senna.synthetic.world.snapshot import boxes_at, light_ahead
from senna.synthetic.world.town import (
    CYCLE_ASIDE,
    DIRECTIONS,
    EXTENT,
    LANES_ASIDE,
    NODES,
    PERIOD,
    REACH,
    Signals,
    empty_town,
    node_at,
    route,
)
from senna.synthetic.world.traffic import CHANGE_TIME, TICK, Driver, Mover, simulate

SECONDS = 19.5
RED, GREEN = Signals((-20.0, 0.0, 0.0, 0.0), (0, 0, 0, 0)), Signals((0.0, 0.0, 0.0, 0.0), (0, 0, 0, 0))


@pytest.fixture(scope="module")
def journeys() -> dict[str, Journey]:
    return {plan: travel(2, index, SECONDS)[0] for index, plan in list(enumerate(PLANS))[:9]}


def drive(signals: Signals, *others: Driver, before: float = 100.0, speed: float = 12.0, **ego: object) -> np.ndarray:
    """States (T, N, 5) of an ego in the right lane that goes east towards the first crossing."""
    lane = route((0, 0), 0, before, LANES_ASIDE[1])
    return simulate([Driver(Mover("ego"), lane, 0.0, speed, speed, **ego), *others], [], signals, SECONDS).states


def test_a_red_light_stops_the_car_at_its_line():
    ego = drive(RED)[:, 0]
    line = node_at((0, 0))[0] - REACH
    noses = ego[:, 0] + EGO_SIZE[0] / 2
    assert noses.max() < line
    assert line - noses[-1] < 2.0
    assert ego[-1, 3] < 0.05
    assert ego[:, 4].min() > -4.5


def test_a_green_light_does_not_slow_the_car():
    ego = drive(GREEN, before=80.0)[:, 0]
    assert ego[:, 3].min() > 11.5
    assert ego[-1, 0] > node_at((0, 0))[0] + REACH


def test_a_car_behind_a_slow_one_without_room_beside_it_follows_at_its_speed():
    lanes = [route((0, 0), 0, 240.0, aside) for aside in LANES_ASIDE]
    slow = [Driver(Mover("car"), lane, 50.0, 5.0, 5.0) for lane in lanes]
    ego, *_ = np.moveaxis(drive(RED, *slow, before=240.0, overtakes=True), 1, 0)
    assert ego[100, 3] == pytest.approx(5.0, abs=1.0)
    assert np.ptp(ego[:, 1]) < 0.01


def test_slow_traffic_means_a_lane_change_and_back():
    lane = route((0, 0), 0, 250.0, LANES_ASIDE[1])
    slow = Driver(Mover("truck"), lane, 80.0, 6.0, 6.0)
    ego = drive(GREEN, slow, before=250.0, speed=18.0, overtakes=True)[:, 0]
    left = ego[:, 1] - ego[0, 1]
    assert left.max() == pytest.approx(LANES_ASIDE[1] - LANES_ASIDE[0], abs=0.01)
    assert left[-1] == pytest.approx(0, abs=0.01)
    sideways = np.abs(np.diff(left, 2)).max() / TICK**2
    assert sideways < 5.8 * left.max() / CHANGE_TIME**2 * 1.05  # the smoothest change of that time has 5.77 d / T^2


@pytest.mark.parametrize(("turn", "side"), [("left", 1), ("right", -1), ("straight", 0)])
def test_a_turn_leads_into_the_same_lane_of_the_crossing_road_mirrored_for_the_other_side(turn, side):
    aside = LANES_ASIDE[side < 0]
    for node in NODES:
        for heading in range(4):
            lane = route(node, heading, 60.0, aside, [turn])
            after = (heading + side) % 4
            right = DIRECTIONS[after - 1]
            assert (lane.points[-1] - node_at(node)) @ right == pytest.approx(aside, abs=0.05)
            assert math.cos(lane.yaws[-1] - after * math.pi / 2) == pytest.approx(1)
            steps = np.linalg.norm(np.diff(lane.points, axis=0), axis=1)
            assert 0.97 < steps.min() <= steps.max() < 1.01
            assert ((lane.points >= 0) & (lane.points <= EXTENT)).all()


def test_lights_give_green_to_one_approach_at_a_time_and_yellow_between_green_and_red():
    signals = Signals((3.0, 20.0, 41.0, 0.0), (0, 1, 2, 3))
    follows = {"green": {"green", "yellow"}, "yellow": {"yellow", "red"}, "red": {"red", "green"}}
    for node in NODES:
        states = [[signals.state(node, heading, t) for heading in range(4)] for t in np.arange(0, PERIOD, 0.5)]
        assert all(sum(state != "red" for state in row) <= 1 for row in states)
        for before, after in itertools.pairwise(states):
            assert all(b in follows[a] for a, b in zip(before, after, strict=True))
        assert {state for row in states for state in row} == {"red", "yellow", "green"}


def test_nobody_walks_on_the_road_while_any_light_is_green():
    signals = Signals((3.0, 20.0, 41.0, 0.0), (0, 1, 2, 3))
    for node in NODES:
        for start in signals.walk_starts(node, 60.0):
            for time in np.arange(max(start, 0) + 0.01, max(start + 14, 0), 0.5):
                assert all(signals.state(node, heading, time) == "red" for heading in range(4))


def test_nobody_collides_and_every_plan_comes_about(journeys: dict[str, Journey]):
    assert all(is_clean(journey.tracks) for journey in journeys.values())
    paths = {plan: set(paths_driven(journey.tracks)) for plan, journey in journeys.items()}
    assert {"LEFT_CHANGE", "RIGHT_CHANGE"} <= paths["overtake"]
    assert "LEFT_TURN" in paths["left"]
    assert "RIGHT_TURN" in paths["right"]
    assert paths["go"] == paths["wait"] == {"STRAIGHT"}


def test_two_boxes_that_overlap_are_a_collision(journeys: dict[str, Journey]):
    tracks = journeys["go"].tracks
    states = tracks.states.copy()
    assert states[50, 1, 0] > 0
    states[50, 1, :3] = states[50, 0, :3] + [1.0, 0.3, 0.2]
    assert not is_clean(type(tracks)(tracks.movers, states))


def test_a_waiting_ego_sees_red_and_a_departing_one_green(journeys: dict[str, Journey]):
    journey = journeys["wait"]
    stopped = int(np.argmax(journey.tracks.states[:, 0, 3] < 0.05))
    assert light_ahead(journey, stopped) == "red"
    starts = int(np.flatnonzero(journey.tracks.states[:, 0, 3] < 0.05)[-1])
    assert light_ahead(journey, starts + 3) == "green"


def test_the_same_seed_makes_the_same_journey_and_another_seed_another():
    journey, attempt = travel(2, 8, 8.0)
    again, other = retrace(2, 8, attempt, 8.0), retrace(3, 8, attempt, 8.0)
    np.testing.assert_array_equal(journey.tracks.states, again.tracks.states)
    assert journey.description == again.description
    assert other.tracks.states.shape != journey.tracks.states.shape or not np.array_equal(
        other.tracks.states, journey.tracks.states, equal_nan=True
    )


def test_speed_is_how_far_the_ego_gets(journeys: dict[str, Journey]):
    for journey in journeys.values():
        states = journey.tracks.states[:, 0]
        steps = np.linalg.norm(np.diff(states[:, :2], axis=0), axis=1)
        speeds = (states[1:, 3] + states[:-1, 3]) / 2
        np.testing.assert_allclose(steps / TICK, speeds, atol=1.0)  # sideways speed comes on top while changing lane
        poses = ego_positions(journey.tracks)
        assert np.linalg.norm(poses[:, :2] - states[:, :2], axis=1) == pytest.approx(1.3)


def test_what_a_house_or_a_truck_hides_has_no_lidar_points(journeys: dict[str, Journey]):
    boxes = [box for journey in journeys.values() for tick in range(0, 190, 40) for box in boxes_at(journey, tick)]
    assert all((box.points == 0) or box.seen > 0 for box in boxes)
    assert any(box.seen == 0 for box in boxes)
    assert any(box.seen == 1 and box.points > 20 for box in boxes)


def test_houses_trees_and_lamps_stand_beside_the_roads():
    town = empty_town(5)
    lines = [node_at(NODES[0])[0], node_at(NODES[3])[0]]
    for things, distance in ((town.houses, 18), (town.trees, CYCLE_ASIDE), (town.lamps, CYCLE_ASIDE)):
        assert things
        assert min(abs(c - line) for thing in things for c in (thing.x, thing.y) for line in lines) > distance


def test_cameras_look_where_nuscenes_cameras_do():
    yaws = {"": 0, "_LEFT": 55, "_RIGHT": -55}
    expected = {f"CAM_FRONT{side}": yaw for side, yaw in yaws.items()} | {
        "CAM_BACK": 180,
        "CAM_BACK_LEFT": 108,
        "CAM_BACK_RIGHT": -110,
    }
    for sensor in CAMERAS:
        camera = camera_at(sensor, 10.0, 20.0, 0.3)
        yaw = math.degrees(math.atan2(camera.forward[1], camera.forward[0]) - 0.3)
        assert math.cos(math.radians(yaw - expected[sensor.channel])) > math.cos(math.radians(3))
        assert abs(camera.forward[2]) < 0.03
        np.testing.assert_allclose(
            rotation_matrix(sensor.rotation) @ rotation_matrix(sensor.rotation).T, np.eye(3), atol=1e-9
        )
