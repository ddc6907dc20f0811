"""Scenarios and snapshots: maneuvers happen, vehicles do not collide, the tables agree with the simulation."""

import numpy as np
import pytest

from senna.synthetic.world.scenarios import (
    MANEUVERS,
    Scenario,
    ego_poses,
    find_scenario,
    is_collision_free,
    path_labels,
    simulate_scenario,
)
from senna.synthetic.world.snapshot import boxes_at, lidar_sweep, light_ahead
from senna.synthetic.world.traffic import TICK

SECONDS = 19.5


@pytest.fixture(scope="module")
def scenarios() -> dict[str, Scenario]:
    return {maneuver: find_scenario(2, index, SECONDS)[0] for index, maneuver in list(enumerate(MANEUVERS))[:9]}


def test_scenarios_have_no_collision_and_carry_out_their_maneuver(scenarios: dict[str, Scenario]):
    assert all(is_collision_free(scenario.tracks) for scenario in scenarios.values())
    paths = {maneuver: set(path_labels(scenario.tracks)) for maneuver, scenario in scenarios.items()}
    assert {"LEFT_CHANGE", "RIGHT_CHANGE"} <= paths["overtake"]
    assert "LEFT_TURN" in paths["left"]
    assert "RIGHT_TURN" in paths["right"]
    assert paths["go"] == paths["wait"] == {"STRAIGHT"}


def test_overlapping_boxes_are_a_collision(scenarios: dict[str, Scenario]):
    tracks = scenarios["go"].tracks
    states = tracks.states.copy()
    assert states[50, 1, 0] > 0
    states[50, 1, :3] = states[50, 0, :3] + [1.0, 0.3, 0.2]
    assert not is_collision_free(type(tracks)(tracks.movers, states))


def test_the_light_ahead_is_red_for_a_waiting_ego_and_green_when_it_starts(scenarios: dict[str, Scenario]):
    scenario = scenarios["wait"]
    standing = np.flatnonzero(scenario.tracks.states[:, 0, 3] < 0.05)
    assert light_ahead(scenario, int(standing[0])) == "red"
    assert light_ahead(scenario, int(standing[-1]) + 3) == "green"


def test_a_seed_determines_a_scenario():
    scenario, attempt = find_scenario(2, 8, 8.0)
    again, other = simulate_scenario(2, 8, attempt, 8.0), simulate_scenario(3, 8, attempt, 8.0)
    np.testing.assert_array_equal(scenario.tracks.states, again.tracks.states)
    assert scenario.description == again.description
    assert other.tracks.states.shape != scenario.tracks.states.shape or not np.array_equal(
        other.tracks.states, scenario.tracks.states, equal_nan=True
    )


def test_the_ego_moves_at_its_speed_and_its_frame_is_at_the_rear_axle(scenarios: dict[str, Scenario]):
    for scenario in scenarios.values():
        states = scenario.tracks.states[:, 0]
        steps = np.linalg.norm(np.diff(states[:, :2], axis=0), axis=1)
        speeds = (states[1:, 3] + states[:-1, 3]) / 2
        np.testing.assert_allclose(steps / TICK, speeds, atol=1.0)  # the speed does not include lateral speed
        poses = ego_poses(scenario.tracks)
        assert np.linalg.norm(poses[:, :2] - states[:, :2], axis=1) == pytest.approx(1.3)


def test_hidden_road_users_have_no_lidar_points(scenarios: dict[str, Scenario]):
    boxes = [box for scenario in scenarios.values() for tick in range(0, 190, 40) for box in boxes_at(scenario, tick)]
    assert all((box.lidar_points == 0) or box.visibility > 0 for box in boxes)
    assert any(box.visibility == 0 for box in boxes)
    assert any(box.visibility == 1 and box.lidar_points > 20 for box in boxes)


def test_a_lidar_sweep_has_the_number_of_points_of_each_box():
    scenario = simulate_scenario(4, 0, 0, 2.0)
    boxes = [box for box in boxes_at(scenario, 10) if box.lidar_points]
    sweep = lidar_sweep(scenario, 10, boxes)
    assert sweep.dtype == np.float32
    assert sweep.shape == (480 + sum(box.lidar_points for box in boxes), 5)
    assert np.isfinite(sweep).all()
