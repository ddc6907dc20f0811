"""The town as a simulator: it is the drawn world, the same each time, and what a driver gets to know is what records say."""

import json

import numpy as np
import pytest
from PIL import Image

from senna.convert.command import main as convert
from senna.drive import drivers as d
from senna.drive.loop import drive
from senna.drive.simulator import COLLISION, RED_LIGHT, EgoState, Motion
from senna.drive.town import SEEDS, TownSimulator
from senna.drive.work import labels
from senna.meta_actions import COMMAND_STEPS, KEEP_STRAIGHT
from senna.records import record_kind
from senna.synthetic import write_world
from senna.synthetic.world.scenarios import find_scenario
from senna.synthetic.world.write import SECONDS
from senna.templates import load_templates
from senna.views import VIEWS, camera_of


def keep(simulator: TownSimulator) -> d.Decider:
    return d.Decider(simulator, lambda _: d.Plan(KEEP_STRAIGHT))


def test_the_same_seed_gives_the_same_drive():
    traces = [drive(simulator, 1, keep(simulator)) for simulator in (TownSimulator(5, 3.0), TownSimulator(5, 3.0))]
    assert traces[0] == traces[1]
    other = TownSimulator(6, 3.0)
    assert drive(other, 1, keep(other)).states != traces[0].states


def test_the_images_are_those_of_the_drawn_world(tmp_path):
    """A scene is drawn with the seed of a scenario, and its files are compared with what the driver sees."""
    write_world(tmp_path / "world", 1, seed=SEEDS + 3, mini=True, frames=2)
    simulator = TownSimulator(3)
    simulator.reset(0)
    simulator.step(simulator.expert().motion)
    seen = simulator.observe().images()
    assert tuple(seen) == VIEWS
    for view in VIEWS:
        folder = tmp_path / "world" / "samples" / f"CAM_{view.upper().replace(' ', '_')}"
        path = sorted(folder.glob("*.jpg"))[1]
        assert camera_of(path.name) == view
        assert np.array_equal(np.array(Image.open(path)), np.array(seen[view])), view


def test_a_driver_is_asked_what_the_records_of_the_same_scene_ask(drawn_world, tmp_path):
    """The expert drives the first scene of seed 0; command, speed, text and meta-action equal those of its records."""
    assert convert(["--nuscenes", str(drawn_world), "--version", "v1.0-mini", "--out", str(tmp_path)]) == 0
    records = [json.loads(line) for line in (tmp_path / "senna_nusc_train.jsonl").read_text().splitlines()]
    plans = [record for record in records if record_kind(record) == "plan"]
    simulator, templates = TownSimulator(-SEEDS), load_templates()
    observation = simulator.reset(0)
    compared = 24 - COMMAND_STEPS  # the command of later records ends with the scene
    for record in plans[:compared]:
        turns = record["conversations"]
        assert d.question(observation, templates) == turns[0]["value"]
        assert (observation.command, round(observation.speed, 1)) == (record["command"], record["speed"])
        expert = simulator.expert()
        assert f"{expert.decision}\n" == turns[1]["value"]
        assert expert.trajectory[:6] == pytest.approx(np.array(record["ego_fut_trajs"]), abs=0.02)
        simulator.step(expert.motion)
        observation = simulator.observe()


@pytest.mark.slow
@pytest.mark.parametrize("scenario", [1, 4])
def test_the_expert_drives_the_drawn_scene_to_its_end_without_a_collision(scenario):
    simulator = TownSimulator(0)
    recorded, _ = find_scenario(SEEDS, scenario, SECONDS)
    states = []
    trace = drive(simulator, scenario, d.Expert(simulator), lambda *_: states.append(simulator.states))
    assert (trace.end, trace.progress, trace.events, sum(trace.off_road)) == ("arrived", 1.0, [], 0.0)
    for step, found in enumerate(states):
        assert np.array_equal(found, recorded.tracks.states[5 * step], equal_nan=True)


@pytest.mark.slow
@pytest.mark.parametrize(("scenario", "follow"), [(2, d.TRAJECTORY), (0, d.META_ACTION)])
def test_the_expert_s_plans_carried_out_like_those_of_a_model_reach_the_end(scenario, follow):
    simulator = TownSimulator(0)
    trace = drive(simulator, scenario, d.Decider(simulator, lambda _: labels(simulator), follow))
    assert (trace.end, trace.events, sum(trace.off_road)) == ("arrived", [], 0.0)


def test_keep_straight_passes_a_red_light_at_which_the_expert_waits():
    simulator = TownSimulator(0, 8.0)
    trace = drive(simulator, 0, keep(simulator))
    assert simulator.start.maneuver == "wait"
    assert [event.kind for event in trace.events] == [RED_LIGHT]
    assert {step["command"] for step in trace.steps} == {"go straight"}
    expert = drive(simulator, 0, d.Expert(simulator))
    assert expert.events == []
    assert expert.progress < trace.progress


def test_others_see_the_car_and_brake_for_it():
    """The car stops at once; a vehicle behind it, put there for this, stays behind."""
    simulator = TownSimulator(0)
    simulator.reset(1)
    ego, other = simulator.drivers[0], simulator.drivers[1]
    other.route, other.along, other.speed, other.desired = ego.route, ego.along + 1.0, 10.0, 10.0
    ahead = ego.route.at(ego.along + 45.0)
    for _ in range(16):
        result = simulator.step(Motion((EgoState(*ahead, 0.0),) * 5))
        assert result.events == ()
    assert other.speed < 0.5
    assert other.along + 3 < ego.along


def test_a_collision_and_the_end_of_the_route_end_a_drive():
    simulator = TownSimulator(0)
    simulator.reset(1)
    x, y, yaw = simulator.drivers[1].position
    result = simulator.step(Motion((EgoState(x, y, yaw, 8.0),) * 5))
    assert result.end == COLLISION
    assert [(event.kind, event.what) for event in result.events] == [(COLLISION, simulator.drivers[1].mover.kind)]
    assert json.loads(json.dumps(result.events))[0][:3] == [COLLISION, 0.1, simulator.drivers[1].mover.kind]
    simulator.reset(2)
    start = EgoState(*simulator.ego.position, 5.0)
    aside = EgoState(start.x + 25 * np.sin(start.yaw), start.y - 25 * np.cos(start.yaw), start.yaw, 5.0)
    result = simulator.step(Motion((aside,) * 5))
    assert (result.end, result.off_road, result.progress) == ("left the route", 1.0, 0.0)
