import json
import math
import shutil
from collections import Counter

import numpy as np
import pytest

from senna.convert import can_bus as can_bus_module
from senna.convert.frames import Source, load_tables, read_frames
from senna.convert.nuscenes_tables import scenes_of
from senna.convert.questions import questions_of, records_of
from senna.errors import DataError, UsageError
from senna.meta_actions import FUTURE_STEPS, label_trajectory
from senna.templates import load_templates
from senna.views import VIEWS, camera_of
from tests.convert.worlds import START, write_world
from tests.helpers.devkit import check_against_devkit

pytest.importorskip("nuscenes", reason="needs the extra: pip install -c constraints.txt -e '.[nuscenes]'")

MINI = "v1.0-mini"


def ahead(speed):
    return lambda index: (speed * 0.5 * index, 0.0)


@pytest.fixture(scope="module")
def frames(drawn_world):
    return list(read_frames(drawn_world, MINI))


def test_plans_are_the_published_labels_of_complete_futures(frames):
    complete = [frame for frame in frames if frame.future_valid]
    assert (len(frames), len(complete)) == (48, 2 * (24 - FUTURE_STEPS))
    assert all((frame.plan is not None) == frame.future_valid for frame in frames)
    assert all(frame.plan == label_trajectory(frame.future) for frame in complete)
    assert len({frame.plan.speed for frame in complete}) > 2
    assert all([camera_of(path) for path in frame.images] == list(VIEWS) for frame in frames)


def test_facts_equal_the_devkits_own_calls(drawn_world):
    """Positions, futures and categories of every box, computed one by one with calls of the devkit."""
    tables = load_tables(drawn_world, MINI)
    frames = list(Source(tables).frames())[::6]
    assert sum(check_against_devkit(tables, frame) for frame in frames) > 30


def test_objects_without_lidar_and_radar_points_are_left_out(tmp_path):
    write_world(tmp_path, ahead(8), {"vehicle.car": [(10.0, 0.0)] * 20}, points=0)
    assert not any(frame.agents for frame in read_frames(tmp_path, MINI))


def test_only_objects_that_cannot_move_by_themselves_are_static(tmp_path):
    names = [*("movable_object.trafficcone", "movable_object.barrier", "static_object.bicycle_rack"),
             *("vehicle.car", "human.pedestrian.adult", "animal")]  # fmt: skip
    root = write_world(tmp_path, ahead(0), {name: [(10.0, 0.0)] * 3 for name in names}, frames=3)
    static = {agent.category for frame in read_frames(root, MINI) for agent in frame.agents if agent.group == "static"}
    assert static == set(names[:3])


# Speeds


def perturbed(track, after):
    """Return a track that is the same up to a key frame and different from there on."""
    return lambda index: track(index) if index <= after else (track(index)[0] + 7.0 * (index - after), 3.0)


@pytest.mark.parametrize("step", [0, 1, 7, 19])
def test_current_speeds_do_not_depend_on_the_future(tmp_path, step):
    ego, car = ahead(8), ahead(5)
    found = []
    for name, change in (("a", 99), ("b", step)):
        root = write_world(
            tmp_path / name, perturbed(ego, change), camera_lead=40_000,
            objects={"vehicle.car": [(20 + x, y) for x, y in map(perturbed(car, change), range(20))]},
        )  # fmt: skip
        frame = list(read_frames(root, MINI))[step]
        found.append((frame.speed, frame.agents[0].speed, frame.agents[0].x, frame.agents[0].y))
    assert found[0] == pytest.approx(found[1], nan_ok=True)
    assert found[0][0] == pytest.approx(8, abs=1e-6)
    assert math.isnan(found[0][1]) if step == 0 else found[0][1] == pytest.approx(5)


def test_first_frame_without_camera_lead_has_no_speed_and_its_question_says_so(tmp_path):
    frames = list(read_frames(write_world(tmp_path, ahead(8)), MINI))
    assert math.isnan(frames[0].speed)
    assert [frame.speed for frame in frames[1:]] == pytest.approx([8.0] * 19)
    question = next(q for q in questions_of(frames[0], load_templates()) if q.kind == "plan")
    assert (question.kind, "speed not yet known" in question.text, "nan" in question.text) == ("plan", True, False)
    assert question.speed is None


def test_gap_in_the_annotations_bridges_the_speed_and_removes_plans(tmp_path):
    positions = [(20 + 2.0 * index, 0.0) for index in range(20)]
    positions[8] = None
    for index in (13, 14, 15, 16):
        positions[index] = None
    root = write_world(tmp_path, ahead(4), {"vehicle.car": positions})
    cars = {index: frame.agents[0] for index, frame in enumerate(read_frames(root, MINI)) if frame.agents}
    assert cars[9].speed == pytest.approx(4)  # 4 m in a second
    assert math.isnan(cars[17].speed)  # not annotated for 2.5 s
    assert cars[1].plan is not None
    assert all(cars[index].plan is None for index in range(2, 8))
    assert np.isnan(cars[6].future).all(axis=1).tolist() == [False, True, False, False, False, False]


def can_bus(root, messages, scene="scene-0061"):
    (root / "can_bus").mkdir(parents=True, exist_ok=True)
    (root / "can_bus" / f"{scene}_pose.json").write_text(json.dumps(messages))


def message(seconds, speed):
    return {"utime": START + int(seconds * 1e6), "vel": [speed, 0.0, 0.0]}


@pytest.mark.parametrize("in_data_folder", [True, False])
def test_speed_is_that_of_the_last_can_bus_message(tmp_path, in_data_folder):
    root = write_world(tmp_path / "nuscenes", ahead(8), frames=6)
    folder = root if in_data_folder else tmp_path / "elsewhere"
    # The messages begin late, have a gap from 1.1 s to 2.3 s, and report 99 m/s just after a key frame.
    can_bus(folder, [message(0.05, 3.0), message(0.48, 4.0), message(0.51, 99.0), message(1.0, 5.0), message(2.3, 6.0)])
    speeds = [frame.speed for frame in read_frames(root, MINI, canbus=None if in_data_folder else folder)]
    assert speeds == pytest.approx([3.0, 4.0, 5.0, 8.0, 8.0, 6.0])


def test_each_can_bus_file_is_read_once(drawn_world, monkeypatch):
    read, read_bytes = Counter(), can_bus_module.Path.read_bytes

    def counted(path):
        read[path.name] += 1
        return read_bytes(path)

    monkeypatch.setattr(can_bus_module.Path, "read_bytes", counted)
    list(read_frames(drawn_world, MINI))
    assert {name: count for name, count in read.items() if name.endswith("_pose.json")} == {
        "scene-0061_pose.json": 1, "scene-0103_pose.json": 1,
    }  # fmt: skip


def test_broken_can_bus_file_is_named(tmp_path):
    root = write_world(tmp_path, ahead(8))
    can_bus(root, [{"utime": 1}])
    with pytest.raises(DataError) as error:
        list(read_frames(root, MINI))
    assert error.value.file.name == "scene-0061_pose.json"
    with pytest.raises(UsageError, match="no CAN bus messages"):
        read_frames(root, MINI, canbus=root / "maps")


# The ego vehicle's future


@pytest.mark.parametrize("heading", [0.0, 2.0])
def test_future_is_relative_to_the_lidar_for_any_heading(tmp_path, heading):
    along, left = np.array([np.cos(heading), np.sin(heading)]), np.array([-np.sin(heading), np.cos(heading)])
    root = write_world(tmp_path, lambda index: tuple(3.0 * index * along + 0.5 * index * left), heading=heading)
    frames = list(read_frames(root, MINI))
    assert frames[3].future == pytest.approx(np.array([[-0.5 * step, 3.0 * step] for step in range(1, 7)]), abs=1e-9)
    assert np.isfinite(frames[-1 - FUTURE_STEPS].future).all()
    assert np.isnan(frames[-1].future).all()


def test_command_uses_the_last_pose_where_the_scene_ends_before_6_s(tmp_path):
    """The scene ends with a left turn, 12 m to the side, fewer than 12 key frames after frame 8."""
    path = [(float(min(index, 10)), 1.5 * max(0, index - 10)) for index in range(19)]
    frames = list(read_frames(write_world(tmp_path, lambda index: path[max(0, index)], frames=19), MINI))
    assert [frame.command for frame in frames[8:13]] == ["turn left"] * 4 + ["go straight"]


def test_test_split_has_no_facts_and_questions_that_need_the_future(tmp_path):
    root = write_world(tmp_path, ahead(8), scene="scene-0077", version="v1.0-test")
    assert scenes_of(root, "v1.0-test") == {"train": [], "val": [], "test": ["scene-0077"]}
    for frame in read_frames(root, "v1.0-test"):
        assert not frame.future_valid
        assert {question.kind for question in questions_of(frame, load_templates())} == {"traffic_light", "description"}


# compat


def test_compat_original_gives_the_published_order_command_and_stop_speed(tmp_path):
    walker = {"human.pedestrian.adult": [(100.0 + 0.5 * index, 3.0) for index in range(20)]}  # 1 m/s
    root = write_world(tmp_path, ahead(8), walker)
    ours, published = (list(read_frames(root, MINI, compat=compat)) for compat in (None, "original"))
    templates = load_templates()
    ours_images, published_images = (
        records_of(frames[0], questions_of(frames[0], templates), {})[0]["images"] for frames in (ours, published)
    )
    channels = [path.split("/")[1] for path in published_images]
    assert channels == [f"CAM_{name}" for name in "FRONT FRONT_RIGHT FRONT_LEFT BACK BACK_LEFT BACK_RIGHT".split()]
    assert [camera_of(path) for path in ours_images] == list(VIEWS)
    assert [frame.images for frame in published] == [frame.images for frame in ours]
    # The published command swaps the axes: it takes forward for "to the left" and right for "forward".
    assert (ours[0].command, published[0].command) == ("go straight", "turn left")
    assert (ours[0].agents[0].plan.speed, published[0].agents[0].plan.speed) == ("KEEP", "STOP")
    with pytest.raises(UsageError, match="original"):
        read_frames(root, MINI, compat="published")


# Scenes and splits


def test_splits_are_the_official_ones_of_the_version(tmp_path, drawn_world):
    assert scenes_of(drawn_world, MINI) == {"train": ["scene-0061"], "val": ["scene-0103"], "test": []}
    root = write_world(tmp_path, ahead(8), scene="scene-0553", version="v1.0-trainval")  # of mini_train in v1.0-mini
    assert scenes_of(root, "v1.0-trainval") == {"train": [], "val": ["scene-0553"], "test": []}


def test_scenes_in_no_split_are_named(tmp_path):
    with pytest.raises(UsageError, match=r"scene-4242 is in no split of v1\.0-mini"):
        scenes_of(write_world(tmp_path, ahead(8), scene="scene-4242"), MINI)


@pytest.mark.parametrize(
    ("version", "message"), [("v1.0-trainval", "has v1.0-mini"), ("v2", "v1.0-trainval, v1.0-mini, v1.0-test")]
)
def test_wrong_version_names_the_right_one(tmp_path, version, message):
    root = write_world(tmp_path, ahead(8))
    for call in (scenes_of, read_frames):
        with pytest.raises(UsageError, match=message.replace(".", r"\.")):
            call(root, version)


def test_tables_and_maps_that_are_not_needed_may_be_missing_or_damaged(tmp_path):
    complete = write_world(tmp_path / "complete", ahead(8), {"vehicle.car": [(20.0, 3.0)] * 20})
    expected = [str(frame) for frame in read_frames(complete, MINI)]
    root = shutil.copytree(complete, tmp_path / "other")
    tables = root / MINI
    rows = json.loads((tables / "category.json").read_text())
    (tables / "category.json").write_text(json.dumps([{"token": row["token"], "name": row["name"]} for row in rows]))
    (tables / "lidarseg.json").write_text(json.dumps([{"token": "a", "filename": "lidarseg/a.bin"}]))
    (tables / "panoptic.json").write_text("[]")
    (tables / "image_annotations.json").write_text("{")
    (tables / "attribute.json").write_text("{")
    for name in ("visibility", "map", "log"):
        (tables / f"{name}.json").unlink()
    shutil.rmtree(root / "maps")
    assert [str(frame) for frame in read_frames(root, MINI)] == expected
    (tables / "ego_pose.json").unlink()
    with pytest.raises(DataError, match=r"ego_pose\.json"):
        read_frames(root, MINI)


@pytest.mark.parametrize("given", ["v1.0-mini", "samples/CAM_FRONT", ".."])
def test_a_wrong_folder_names_the_folder_of_the_data_set(tmp_path, given):
    root = write_world(tmp_path / "nuscenes", ahead(8))
    (root / "samples" / "CAM_FRONT").mkdir(parents=True)
    for version in (MINI, "v1.0-trainval"):
        with pytest.raises(UsageError) as error:
            scenes_of(root / given, version)
        assert f"--nuscenes {root} --version {MINI}" in (error.value.remedy or "")


def test_without_a_data_set_nearby_the_wanted_folder_is_described(tmp_path):
    for folder in (tmp_path, tmp_path / "gone"):
        with pytest.raises(UsageError) as error:
            scenes_of(folder, MINI)
        assert "samples/" in (error.value.remedy or "")


def test_unknown_scenes_and_truncated_tables_are_reported(tmp_path):
    root = write_world(tmp_path, ahead(8))
    with pytest.raises(UsageError, match="scene-0001 is not among"):
        read_frames(root, MINI, scenes=["scene-0061", "scene-0001"])
    rows = json.loads((root / MINI / "sample_data.json").read_text())
    other = shutil.copytree(root, tmp_path / "other")
    (other / MINI / "sample_data.json").write_text(json.dumps([row for row in rows if row["token"] != "CAM_BACK-3"]))
    with pytest.raises(DataError, match=r"scene-0061.*sample-3 has no CAM_BACK"):
        list(read_frames(other, MINI))
    (other / MINI / "sample_data.json").write_text('[{"token"')
    with pytest.raises(DataError) as error:
        read_frames(other, MINI)
    assert error.value.file == other / MINI
    assert "complete" in error.value.remedy


def test_traffic_light_table_answers_without_a_captioner(tmp_path):
    world = write_world(tmp_path, lambda step: (5.0 * step, 0.0), frames=3)
    table = world / "v1.0-mini" / "traffic_light.json"
    templates = load_templates()

    def lights():
        frames = read_frames(world, "v1.0-mini")
        return [q.answer for frame in frames for q in questions_of(frame, templates) if q.kind == "traffic_light"]

    assert lights() == [None, None, None]  # nuScenes has no such table: a captioner must answer
    states = ["red", "none", "green"]
    table.write_text(json.dumps([{"sample_token": f"sample-{i}", "state": state} for i, state in enumerate(states)]))
    assert lights() == ["Red", "None", "Green"]
    table.write_text(json.dumps([{"sample_token": "sample-0", "state": "blue"}]))
    with pytest.raises(DataError, match="'blue'") as error:
        lights()
    assert error.value.file == table
    assert "red, yellow, green, none" in error.value.remedy
