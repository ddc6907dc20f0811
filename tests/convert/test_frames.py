import json
import math
import shutil
from collections import Counter

import numpy as np
import pytest

from senna.convert.frames import frames_of, load_tables, read_frames
from senna.convert.nuscenes_tables import scenes_of
from senna.convert.questions import load_templates, questions_of, records_of
from senna.errors import DataError, UsageError
from senna.meta_actions import FUTURE_STEPS, label_trajectory
from senna.views import VIEWS, camera_of
from tests.convert.worlds import START, write_world

pytest.importorskip("nuscenes", reason="needs the extra: pip install -c constraints.txt -e '.[nuscenes]'")

MINI = "v1.0-mini"


def ahead(speed):
    return lambda index: (speed * 0.5 * index, 0.0)


@pytest.fixture(scope="module")
def mini(data):
    return list(read_frames(data / "nuscenes_mini10_tables", MINI))


def test_the_known_sample_drives_as_it_is_known_to(mini):
    frame = next(frame for frame in mini if frame.token == "ca9a282c9e77460f8360f564131a8af5")
    assert frame.future[:, 1].round(2).tolist() == [4.63, 9.00, 13.19, 17.58, 21.41, 25.30]
    assert str(frame.plan) == "KEEP, STRAIGHT"
    assert [camera_of(path) for path in frame.images] == list(VIEWS)


def test_the_labels_of_mini_are_the_published_ones(mini):
    whole = [frame for frame in mini if frame.future_valid]
    assert (len(mini), len(whole)) == (404, 344)
    assert all((frame.plan is not None) == frame.future_valid for frame in mini)
    assert Counter(frame.plan.speed for frame in whole) == {"KEEP": 243, "STOP": 92, "DECELERATE": 7, "ACCELERATE": 2}
    assert Counter(frame.plan.path for frame in whole) == {"STRAIGHT": 311, "LEFT_TURN": 20, "RIGHT_TURN": 13}


def test_facts_equal_the_devkits_own_calls(data):
    """Places, futures, speeds and views of every box, computed one by one as the devkit's users do."""
    tables = load_tables(data / "nuscenes_mini3", MINI)
    for frame in list(frames_of(tables, scenes=["scene-0916"]))[::6]:
        sample = tables.get("sample", frame.token)
        _, boxes, _ = tables.get_sample_data(sample["data"]["LIDAR_TOP"])
        rows = [tables.get("sample_annotation", box.token) for box in boxes]
        seen = [(b, r) for b, r in zip(boxes, rows, strict=True) if r["num_lidar_pts"] + r["num_radar_pts"]]
        assert [agent.token for agent in frame.agents] == [box.token for box, _ in seen]
        assert len(seen) > 10
        for agent, (box, row) in zip(frame.agents, seen, strict=True):
            assert (agent.x, agent.y) == pytest.approx(tuple(box.center[:2]), abs=1e-6)
            assert agent.category == box.name
            own = tables.get_box(row["token"])
            for step, place in enumerate(agent.future):
                row = tables.get("sample_annotation", row["next"]) if row and row["next"] else None
                if row is None:
                    assert np.isnan(agent.future[step:]).all()
                    break
                there = own.orientation.inverse.rotate(np.array(row["translation"]) - own.center)
                assert place == pytest.approx([-there[1], there[0]], abs=1e-6)


def test_nobody_whom_no_sensor_met_is_told(data, tmp_path):
    write_world(tmp_path, ahead(8), {"vehicle.car": [(10.0, 0.0)] * 20}, points=0)
    assert not any(frame.agents for frame in read_frames(tmp_path, MINI))


def test_only_what_moves_by_itself_is_dynamic(mini):
    static = {agent.category for frame in mini for agent in frame.agents if agent.group == "static"}
    assert {"movable_object.trafficcone", "movable_object.barrier"} <= static
    assert not any(name.startswith(("vehicle.", "human.", "animal")) for name in static)


# Speeds


def perturbed(track, after):
    """The same way until a key frame, another from there on."""
    return lambda index: track(index) if index <= after else (track(index)[0] + 7.0 * (index - after), 3.0)


@pytest.mark.parametrize("step", [0, 1, 7, 19])
def test_speeds_of_now_do_not_know_the_future(tmp_path, step):
    ego, car = ahead(8), ahead(5)
    told = []
    for name, change in (("a", 99), ("b", step)):
        root = write_world(
            tmp_path / name, perturbed(ego, change), camera_lead=40_000,
            objects={"vehicle.car": [(20 + x, y) for x, y in map(perturbed(car, change), range(20))]},
        )  # fmt: skip
        frame = list(read_frames(root, MINI))[step]
        told.append((frame.speed, frame.agents[0].speed, frame.agents[0].x, frame.agents[0].y))
    assert told[0] == pytest.approx(told[1], nan_ok=True)
    assert told[0][0] == pytest.approx(8, abs=1e-6)
    assert math.isnan(told[0][1]) if step == 0 else told[0][1] == pytest.approx(5)


def test_a_first_frame_whose_cameras_fire_with_the_lidar_has_no_speed_and_says_so(tmp_path):
    frames = list(read_frames(write_world(tmp_path, ahead(8)), MINI))
    assert math.isnan(frames[0].speed)
    assert [frame.speed for frame in frames[1:]] == pytest.approx([8.0] * 19)
    question = questions_of(frames[0], load_templates())[-1]
    assert (question.kind, "speed not yet known" in question.text, "nan" in question.text) == ("plan", True, False)


def test_a_gap_in_the_annotations_leaves_the_speed_over_the_gap_and_no_plan(tmp_path):
    places = [(20 + 2.0 * index, 0.0) for index in range(20)]
    places[8] = None
    for index in (13, 14, 15, 16):
        places[index] = None
    root = write_world(tmp_path, ahead(4), {"vehicle.car": places})
    cars = {index: frame.agents[0] for index, frame in enumerate(read_frames(root, MINI)) if frame.agents}
    assert cars[9].speed == pytest.approx(4)  # 4 m in a second
    assert math.isnan(cars[17].speed)  # unseen for 2.5 s
    assert cars[1].plan is not None
    assert all(cars[index].plan is None for index in range(2, 8))
    assert np.isnan(cars[6].future).all(axis=1).tolist() == [False, True, False, False, False, False]


def can_bus(root, messages, scene="scene-0061"):
    (root / "can_bus").mkdir(parents=True, exist_ok=True)
    (root / "can_bus" / f"{scene}_pose.json").write_text(json.dumps(messages))


def message(seconds, speed):
    return {"utime": START + int(seconds * 1e6), "vel": [speed, 0.0, 0.0]}


@pytest.mark.parametrize("beside", [True, False])
def test_the_speed_is_the_can_bus_last_message_until_now(tmp_path, beside):
    root = write_world(tmp_path / "nuscenes", ahead(8), frames=6)
    folder = root if beside else tmp_path / "elsewhere"
    # It wakes up late, is silent from 1.1 s to 2.3 s, and tells of a stop just after a key frame.
    can_bus(folder, [message(0.05, 3.0), message(0.48, 4.0), message(0.51, 99.0), message(1.0, 5.0), message(2.3, 6.0)])
    speeds = [frame.speed for frame in read_frames(root, MINI, canbus=None if beside else folder)]
    assert speeds == pytest.approx([3.0, 4.0, 5.0, 8.0, 8.0, 6.0])


def test_each_can_bus_file_is_read_once(shared_golden, monkeypatch):
    from senna.convert import can_bus as module

    read, read_bytes = Counter(), module.Path.read_bytes

    def counted(path):
        read[path.name] += 1
        return read_bytes(path)

    monkeypatch.setattr(module.Path, "read_bytes", counted)
    frames = list(read_frames(shared_golden / "synthetic_nuscenes", MINI))
    assert read == {"scene-0061_pose.json": 1, "scene-0553_pose.json": 1}
    assert frames[0].speed == pytest.approx(8.15)  # not the poses' 8.0


def test_broken_can_bus_is_told_by_its_file(tmp_path):
    root = write_world(tmp_path, ahead(8))
    can_bus(root, [{"utime": 1}])
    with pytest.raises(DataError, match=r"scene-0061_pose\.json"):
        list(read_frames(root, MINI))
    with pytest.raises(UsageError, match="no CAN bus messages"):
        read_frames(root, MINI, canbus=root / "maps")


# The way


@pytest.mark.parametrize("heading", [0.0, 2.0])
def test_the_future_is_right_and_forward_of_the_lidar_whatever_the_heading(tmp_path, heading):
    along, left = np.array([np.cos(heading), np.sin(heading)]), np.array([-np.sin(heading), np.cos(heading)])
    root = write_world(tmp_path, lambda index: tuple(3.0 * index * along + 0.5 * index * left), heading=heading)
    frames = list(read_frames(root, MINI))
    assert frames[3].future == pytest.approx(np.array([[-0.5 * step, 3.0 * step] for step in range(1, 7)]), abs=1e-9)
    assert np.isfinite(frames[-1 - FUTURE_STEPS].future).all()
    assert np.isnan(frames[-1].future).all()


def test_where_the_scene_ends_its_last_pose_stands_for_the_command(tmp_path):
    """A left turn ends the scene: 12 m aside until then, though 6 s would need 12 more key frames."""
    way = [(float(min(index, 10)), 1.5 * max(0, index - 10)) for index in range(19)]
    frames = list(read_frames(write_world(tmp_path, lambda index: way[max(0, index)], frames=19), MINI))
    assert [frame.command for frame in frames[8:13]] == ["turn left"] * 4 + ["go straight"]


def test_the_test_split_tells_nothing_that_needs_the_future(tmp_path):
    root = write_world(tmp_path, ahead(8), scene="scene-0077", version="v1.0-test")
    assert scenes_of(root, "v1.0-test") == {"train": [], "val": [], "test": ["scene-0077"]}
    for frame in read_frames(root, "v1.0-test"):
        assert not frame.future_valid
        assert {question.kind for question in questions_of(frame, load_templates())} == {"traffic_light", "description"}


# compat


def test_compat_original_is_the_published_order_command_and_stop(shared_golden):
    ours, theirs = (
        list(read_frames(shared_golden / "synthetic_nuscenes", MINI, compat=compat)) for compat in (None, "original")
    )
    templates = load_templates()
    channels = [path.split("/")[1] for path in records_of(theirs[0], {}, templates)[0]["images"]]
    assert channels == [f"CAM_{name}" for name in "FRONT FRONT_RIGHT FRONT_LEFT BACK BACK_LEFT BACK_RIGHT".split()]
    assert [camera_of(path) for path in records_of(ours[0], {}, templates)[0]["images"]] == list(VIEWS)
    # Axes swapped: forward is taken for "to the left", right for forward.
    for mine, published in zip(ours, theirs, strict=True):
        assert published.images == mine.images
        assert not published.command.endswith("right")
    assert Counter(frame.command for frame in theirs) == {
        "turn left": 35,
        "go straight": 10,
        "go straight and turn left": 4,
    }
    assert Counter(frame.command for frame in ours) == {"go straight": 39, "go straight and turn right": 10}
    walkers = [
        [agent.plan.speed for frame in frames for agent in frame.agents if agent.name == "pedestrian" and agent.plan]
        for frames in (ours, theirs)
    ]
    assert set(walkers[0]) == {"KEEP"}
    assert set(walkers[1]) == {"STOP"}
    with pytest.raises(UsageError, match="original"):
        read_frames(shared_golden / "synthetic_nuscenes", MINI, compat="published")


def test_most_pedestrians_that_move_do_not_stand(mini):
    walkers = [agent for frame in mini for agent in frame.agents if agent.name == "pedestrian" and agent.plan]
    stands = sum(agent.plan.speed == "STOP" for agent in walkers) / len(walkers)
    published = sum(label_trajectory(agent.future).speed == "STOP" for agent in walkers) / len(walkers)
    assert stands < 0.5 < 0.95 < published


# Scenes and splits


def test_the_split_is_nuscenes_own_of_the_version(data):
    assert scenes_of(data / "nuscenes_mini10_tables", MINI) == {
        "train": [f"scene-{number}" for number in "0061 0553 0655 0757 0796 1077 1094 1100".split()],
        "val": ["scene-0103", "scene-0916"],
        "test": [],
    }


def test_mini_scenes_are_split_anew_as_trainval(tmp_path):
    root = write_world(tmp_path, ahead(8), scene="scene-0553", version="v1.0-trainval")
    assert scenes_of(root, "v1.0-trainval") == {"train": [], "val": ["scene-0553"], "test": []}


def test_scenes_in_no_split_are_named(tmp_path):
    with pytest.raises(UsageError, match=r"scene-4242 is in no split of v1\.0-mini"):
        scenes_of(write_world(tmp_path, ahead(8), scene="scene-4242"), MINI)


@pytest.mark.parametrize(
    ("version", "message"), [("v1.0-trainval", "it holds v1.0-mini"), ("v2", "v1.0-trainval, v1.0-mini, v1.0-test")]
)
def test_a_wrong_version_names_the_right_one(tmp_path, version, message):
    root = write_world(tmp_path, ahead(8))
    for call in (scenes_of, read_frames):
        with pytest.raises(UsageError, match=message.replace(".", r"\.")):
            call(root, version)


def test_unknown_scenes_and_a_cut_table_are_told(tmp_path):
    root = write_world(tmp_path, ahead(8))
    with pytest.raises(UsageError, match="scene-0001 is not among"):
        read_frames(root, MINI, scenes=["scene-0061", "scene-0001"])
    rows = json.loads((root / MINI / "sample_data.json").read_text())
    other = shutil.copytree(root, tmp_path / "other")
    (other / MINI / "sample_data.json").write_text(json.dumps([row for row in rows if row["token"] != "CAM_BACK-3"]))
    with pytest.raises(DataError, match=r"scene-0061.*sample-3 has no CAM_BACK"):
        list(read_frames(other, MINI))
    (other / MINI / "sample_data.json").write_text('[{"token"')
    with pytest.raises(DataError, match="is the data set whole"):
        read_frames(other, MINI)


def test_a_light_that_a_table_tells_is_answered_without_a_captioner(tmp_path):
    world = write_world(tmp_path, lambda step: (5.0 * step, 0.0), frames=3)
    table = world / "v1.0-mini" / "traffic_light.json"
    templates = load_templates()

    def lights():
        frames = read_frames(world, "v1.0-mini")
        return [q.answer for frame in frames for q in questions_of(frame, templates) if q.kind == "traffic_light"]

    assert lights() == [None, None, None]  # nuScenes has no such table: whoever looks must say
    states = ["red", "none", "green"]
    table.write_text(json.dumps([{"sample_token": f"sample-{i}", "state": state} for i, state in enumerate(states)]))
    assert lights() == ["Red", "None", "Green"]
    table.write_text(json.dumps([{"sample_token": "sample-0", "state": "blue"}]))
    with pytest.raises(DataError, match=r"traffic_light\.json: state 'blue' is none of red, yellow, green, none"):
        lights()
