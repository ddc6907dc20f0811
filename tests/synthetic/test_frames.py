"""Six-view frames: what is drawn, what is asked about it, and the plan that follows from it."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from senna.errors import UsageError
from senna.meta_actions import MetaAction, parse_meta_action
from senna.records import image_paths, open_records
from senna.synthetic import Scene, TrafficLight, Vehicle, write_frames
from senna.synthetic.command import main
from senna.synthetic.frames import around_sentence, camera_of, draw_frame, frame_records, sample_frame
from senna.synthetic.painter import paint
from senna.synthetic.plans import DECISIONS, decide, decision_of, sample_trajectory
from senna.synthetic.sampling import LANES, place_word
from senna.views import VIEWS, image_block

STOP, SLOW, CHANGE = (
    MetaAction(*a) for a in (("STOP", "STRAIGHT"), ("DECELERATE", "STRAIGHT"), ("KEEP", "LEFT_CHANGE"))
)
FASTER, KEEP = MetaAction("ACCELERATE", "STRAIGHT"), MetaAction("KEEP", "STRAIGHT")
NAMES = ["CAM_FRONT", "CAM_FRONT_LEFT", "CAM_FRONT_RIGHT", "CAM_BACK_LEFT", "CAM_BACK_RIGHT", "CAM_BACK"]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_frames(tmp_path_factory.mktemp("driving") / "frames", count=3, seed=5)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [sample_frame(0, index)[0] for index in range(150)]


def answers(scene: Scene) -> dict[str, str]:
    records = frame_records(scene, 0, 0, np.random.default_rng(0))
    return {record["id"].rsplit("-", 1)[1]: record["conversations"][1]["value"] for record in records}


@pytest.mark.parametrize(
    ("light", "ahead", "left_is_taken", "action"),
    [
        *((("red", ahead, taken, STOP)) for ahead in (None, "near", "far") for taken in (True, False)),
        *((("yellow", ahead, taken, SLOW)) for ahead in (None, "near", "far") for taken in (True, False)),
        *(((light, "near", True, STOP)) for light in ("green", None)),
        *(((light, "near", False, CHANGE)) for light in ("green", None)),
        *(((light, "far", taken, SLOW)) for light in ("green", None) for taken in (True, False)),
        *((("green", None, taken, FASTER)) for taken in (True, False)),
        *(((None, None, taken, KEEP)) for taken in (True, False)),
    ],
)
def test_lights_come_before_vehicles_and_a_vehicle_before_the_open_road(light, ahead, left_is_taken, action):
    assert decide(light, ahead, left_is_taken).action == action


@pytest.mark.parametrize(
    ("other", "action"),
    [
        (None, CHANGE),
        (Vehicle("car", "red", 0.5, LANES["left"]), STOP),
        (Vehicle("car", "red", -12.5, LANES["left"]), STOP),
        (Vehicle("car", "red", 12.5, LANES["left"]), STOP),
        (Vehicle("car", "red", -22.0, LANES["left"]), CHANGE),
        (Vehicle("car", "red", 22.0, LANES["left"]), CHANGE),
        (Vehicle("car", "red", 0.5, LANES["right"]), CHANGE),
        (Vehicle("car", "red", -12.5, LANES["middle"]), CHANGE),
    ],
)
def test_a_near_vehicle_ahead_is_overtaken_where_the_left_lane_is_free_on_all_sides(other, action):
    ahead = Vehicle("bus", "blue", 16.0, LANES["middle"])
    assert decision_of(Scene(vehicles=(ahead, *((other,) if other else ())))).action == action


def test_every_decision_is_about_as_frequent(scenes: list[Scene]):
    found = [decision_of(scene) for scene in scenes]
    assert set(found) == set(DECISIONS)
    assert all(0.4 < found.count(decision) * len(DECISIONS) / len(found) < 1.8 for decision in DECISIONS)


@pytest.mark.parametrize("decision", DECISIONS, ids=lambda d: str(d.action))
def test_a_trajectory_is_labelled_with_its_plan(decision):
    """By design.md's rule, written out here: speeds from steps of 0.5 s, the path from the end point."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        points = sample_trajectory(decision.action, rng)
        assert len(points) == 6
        speeds = [math.dist(a, b) / 0.5 for a, b in itertools.pairwise([[0.0, 0.0], *points])]
        change = speeds[-1] - speeds[0]
        speed = "ACCELERATE" if change >= 3 else "DECELERATE" if change <= -3 else "KEEP"
        x, y = points[-1]
        bearing = math.degrees(math.atan2(y, x)) - 90
        path = (
            "STRAIGHT" if abs(x) < 4 else f"{'LEFT' if x < 0 else 'RIGHT'}_{'CHANGE' if abs(bearing) < 5 else 'TURN'}"
        )
        assert MetaAction("STOP" if max(speeds) < 2 else speed, path) == decision.action


def test_records_have_the_published_form_and_open(drawn: Path):
    records = list(open_records(drawn))
    assert len({record["id"] for record in records}) == len(records) == 15
    for index, frame in enumerate(records[i : i + 5] for i in range(0, 15, 5)):
        assert [r["kind"] for r in frame] == ["traffic_light", "description", "description", "explanation", "plan"]
        for record in frame:
            assert record["token"] == frame[0]["token"] == f"frame-5-{index:05d}"
            assert record["image"] == record["images"][0]
            assert {"prev", "next", "scene_token"} < set(record)
            assert record["fut_valid_flag"] is True
            assert np.shape(record["ego_fut_trajs"]) == (6, 2)
            question = record["conversations"][0]["value"]
            assert question.startswith(image_block())
            assert question.count("<image>") == 6
        plan = frame[-1]["conversations"][1]["value"]
        assert plan == f"{parse_meta_action(plan)}\n"


def test_the_six_images_are_those_of_their_views_in_the_order_of_the_prompt(drawn: Path):
    scene, _ = sample_frame(5, 1)
    (record,) = (r for r in open_records(drawn) if r["id"] == "frame-5-00001-plan")
    assert [Path(path).stem for path in image_paths(record)] == NAMES
    for view, path in zip(VIEWS, image_paths(record), strict=True):
        with Image.open(drawn.parent / "images" / path) as picture:
            expected = np.asarray(paint(scene, camera_of(view)), dtype=int)
            assert np.abs(np.asarray(picture, dtype=int) - expected).mean() < 4, view  # JPEG's loss
    assert not [p.name for p in (drawn.parent / "images").rglob("*.jpg") if p.stem not in NAMES]


@pytest.mark.parametrize(
    ("place", "seen_in"),
    [
        ((14.0, 0.0), {"front"}),
        ((-14.0, 0.0), {"back"}),
        ((0.0, 3.5), {"front left", "back left"}),
        ((0.0, -3.5), {"front right", "back right"}),
    ],
)
def test_a_vehicle_shows_in_the_views_of_its_side_only(place, seen_in):
    empty, one = Scene(), Scene(vehicles=(Vehicle("car", "red", *place),))
    differ = {
        view
        for view in VIEWS
        if np.abs(
            np.asarray(paint(empty, camera_of(view, 64)), int) - np.asarray(paint(one, camera_of(view, 64)), int)
        ).any()
    }
    assert differ == seen_in


def test_left_of_the_ego_is_left_in_front_and_right_in_the_mirror():
    assert camera_of("front").project(np.array([20.0, 3.5, 1.0]))[0][0] < 112
    assert camera_of("back").project(np.array([-20.0, 3.5, 1.0]))[0][0] > 112


def test_answers_follow_from_the_scene():
    vehicles = (
        Vehicle("truck", "yellow", 25.0, LANES["middle"]),
        Vehicle("car", "orange", 0.5, LANES["left"]),
        Vehicle("bus", "blue", -16.0, LANES["right"]),
    )
    said = answers(Scene("night", vehicles=vehicles, lights=(TrafficLight(18, -6.9, "green", reach=10.4),)))
    assert said["light"] == "Green"
    assert "yellow truck is far away straight ahead" in said["ahead"].lower().replace("a yellow", "yellow")
    assert "orange" not in said["ahead"].lower()
    assert "blue" not in said["ahead"].lower()
    assert (
        said["around"] == "An orange car is on the left, no vehicle is on the right and a blue bus is close by behind."
    )
    assert said["plan"] == "DECELERATE, STRAIGHT\n"
    assert said["reason"] == "Because the vehicle ahead is far away."
    assert answers(Scene())["light"] == "None"
    assert around_sentence(Scene()) == "No vehicle is on the left, no vehicle is on the right and no vehicle is behind."


def test_sampled_vehicles_stand_apart_and_one_at_most_in_each_place_beside_and_behind(scenes: list[Scene]):
    for scene in scenes:
        places = [place_word(v) for v in scene.vehicles]
        assert all(places.count(place) <= 1 for place in ("left", "right", "behind"))
        for a, b in itertools.combinations(scene.vehicles, 2):
            apart = abs(a.x - b.x) - (a.size[0] + b.size[0]) / 2
            assert apart > 0 or abs(a.y - b.y) > 2.8
    assert {place_word(v) for scene in scenes for v in scene.vehicles} == {"ahead", "left", "right", "behind"}


def test_the_same_seed_draws_the_same_bytes_and_another_seed_others(drawn: Path, tmp_path: Path):
    images = drawn.parent / "images"
    records = draw_frame(tmp_path, 5, 2)
    assert records == list(open_records(drawn))[10:]
    for path in records[0]["images"]:
        assert (tmp_path / path).read_bytes() == (images / path).read_bytes()
    assert sample_frame(6, 2)[0] != sample_frame(5, 2)[0]


def test_complete_frames_are_reused_and_foreign_folders_refused(drawn: Path, tmp_path: Path):
    before = drawn.stat().st_mtime_ns
    assert write_frames(drawn.parent, count=3, seed=5) == drawn
    assert drawn.stat().st_mtime_ns == before
    assert json.loads((drawn.parent / "complete.json").read_text())["count"] == 3
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(UsageError, match="something else"):
        write_frames(tmp_path, count=1)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("flags", [[], ["--stage2", "--frames", "0"], ["--stage1", "--pictures", "0"]])
def test_wrong_use_of_the_command_is_told_before_anything_is_made(flags: list[str], tmp_path: Path):
    with pytest.raises(UsageError):
        main(["--out", str(tmp_path / "out"), *flags])
    assert not (tmp_path / "out").exists()
