"""The driving world on disk: a nuScenes data set that nuscenes-devkit loads, determined by its seed."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from senna.errors import UsageError
from senna.synthetic import scene_names, write_world
from senna.synthetic.command import main
from senna.synthetic.render.camera import box_corners
from senna.synthetic.render.painter import paint
from senna.synthetic.world.scenarios import simulate_scenario
from senna.synthetic.world.sensors import CAMERAS, camera_at
from senna.synthetic.world.snapshot import ego_pose, scene_at
from senna.synthetic.world.write import MINI_SCENES

TABLES = (
    *("attribute", "calibrated_sensor", "category", "ego_pose", "instance", "log", "map"),
    *("sample", "sample_annotation", "sample_data", "scene", "sensor", "visibility"),
)
FRAMES = 5


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world") / "nuscenes", 2, seed=4, mini=True, frames=FRAMES)


def read_table(world: Path, table: str) -> dict[str, dict]:
    return {row["token"]: row for row in json.loads((world / "v1.0-mini" / f"{table}.json").read_text())}


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_tokens_refer_to_rows_and_linked_lists_are_consistent(world: Path):
    tables = {table: read_table(world, table) for table in TABLES}
    links = {
        "sample": {"scene_token": "scene", "prev": "sample", "next": "sample"},
        "scene": {"log_token": "log", "first_sample_token": "sample", "last_sample_token": "sample"},
        "sample_data": {"sample_token": "sample", "ego_pose_token": "ego_pose", "prev": "sample_data"}
        | {"calibrated_sensor_token": "calibrated_sensor", "next": "sample_data"},
        "instance": {"category_token": "category", "first_annotation_token": "sample_annotation"},
        "sample_annotation": {"sample_token": "sample", "instance_token": "instance", "visibility_token": "visibility"}
        | {"prev": "sample_annotation", "next": "sample_annotation"},
        "calibrated_sensor": {"sensor_token": "sensor"},
    }
    for table, fields in links.items():
        for row in tables[table].values():
            for name, target in fields.items():
                assert row[name] in tables[target] or (name in ("prev", "next") and row[name] == "")
    for table in ("sample", "sample_data", "sample_annotation"):
        for token, row in tables[table].items():
            assert not row["next"] or tables[table][row["next"]]["prev"] == token
    for instance in tables["instance"].values():
        token, count = instance["first_annotation_token"], 0
        while token:
            last, token, count = token, tables["sample_annotation"][token]["next"], count + 1
        assert (last, count) == (instance["last_annotation_token"], instance["nbr_annotations"])
    assert set(next(iter(tables["map"].values()))["log_tokens"]) == set(tables["log"])
    assert len(tables["sample"]) == 2 * FRAMES
    assert len(tables["sample_data"]) == 7 * 2 * FRAMES


def test_every_sensor_file_exists_and_every_image_has_the_nuscenes_size_and_contrast(world: Path):
    for row in read_table(world, "sample_data").values():
        path = world / row["filename"]
        assert path.is_file()
        if row["fileformat"] == "jpg":
            with Image.open(path) as image:
                assert image.size == (row["width"], row["height"]) == (1600, 900)
                assert np.asarray(image.reduce(10), dtype=float).std() > 5


def test_a_world_of_smaller_images_has_the_same_scenes_and_a_calibration_that_fits(world: Path, tmp_path: Path):
    small = write_world(tmp_path / "small", 1, seed=4, mini=True, frames=2, image_width=800)
    full, half = (read_table(root, "calibrated_sensor") for root in (world, small))
    for token, row in half.items():
        if row["camera_intrinsic"]:  # a point at the corner between four pixels stays there: (u + 0.5) / 2 - 0.5
            shift, before = np.array([[0, 0, 0.5]] * 2), np.array(full[token]["camera_intrinsic"])[:2]
            np.testing.assert_allclose(np.array(row["camera_intrinsic"])[:2], (before + shift) / 2 - shift)
    larger_images = read_table(world, "sample_data")
    for token, row in read_table(small, "sample_data").items():
        assert larger_images[token]["filename"] == row["filename"]
        if row["fileformat"] == "jpg":
            with Image.open(small / row["filename"]) as image, Image.open(world / row["filename"]) as larger:
                assert image.size == (row["width"], row["height"]) == (800, 450)
                difference = np.asarray(image, float) - np.asarray(larger.reduce(2), float)
                assert np.abs(difference).mean() < 6
    assert {t: r["translation"] for t, r in read_table(small, "sample_annotation").items()}.items() <= {
        t: r["translation"] for t, r in read_table(world, "sample_annotation").items()
    }.items()


@pytest.mark.parametrize("width", [0, 100, 801, 3200])
def test_a_width_that_gives_no_whole_height_or_larger_images_than_nuscenes_is_refused(width: int, tmp_path: Path):
    with pytest.raises(UsageError, match=rf"--image-width {width} is no multiple of 16 from 160 to 1600"):
        write_world(tmp_path, 1, image_width=width)
    assert not any(tmp_path.iterdir())


def test_a_vehicle_is_drawn_inside_its_projected_box():
    """Removing a near vehicle from the scene changes the image inside its box only."""
    scenario = simulate_scenario(4, 5, 0, 4.0)  # two slow vehicles side by side ahead
    scene, camera = scene_at(scenario, 40), camera_at(CAMERAS[0], *ego_pose(scenario, 40))
    vehicle = min(scene.vehicles, key=lambda v: np.hypot(v.x - camera.position[0], v.y - camera.position[1]))
    without = replace(scene, vehicles=tuple(v for v in scene.vehicles if v != vehicle))
    difference = np.asarray(paint(scene, camera, 1), int) - np.asarray(paint(without, camera, 1), int)
    differs = np.abs(difference).max(axis=2) > 8
    pixels, depth = camera.project(box_corners(vehicle.size, vehicle.x, vehicle.y, vehicle.yaw))
    assert (depth > 0).all()
    (left, top), (right, bottom) = pixels.min(axis=0), pixels.max(axis=0)
    down, across = np.nonzero(differs)
    assert len(down) > 0.3 * (right - left) * (bottom - top)
    inside = (across > left - 8) & (across < right + 8) & (down > top - 8) & (down < bottom + 8)
    assert inside.mean() > 0.85  # the shadow and the glow of brake lamps extend beyond the box


def test_the_devkit_loads_tables_map_can_bus_and_splits(world: Path):
    nuscenes = pytest.importorskip("nuscenes.nuscenes", reason="nuscenes-devkit is not installed")
    from nuscenes.can_bus.can_bus_api import NuScenesCanBus
    from nuscenes.utils.splits import create_splits_scenes

    tables = nuscenes.NuScenes("v1.0-mini", str(world), verbose=False)
    known = {name for names in create_splits_scenes().values() for name in names}
    assert [scene["name"] for scene in tables.scene] == list(MINI_SCENES[:2])
    assert {scene["name"] for scene in tables.scene} <= known
    _, boxes, _ = tables.get_sample_data(tables.sample[0]["data"]["LIDAR_TOP"])
    assert len(boxes) == len(tables.sample[0]["anns"])
    poses = [tables.get("ego_pose", s["data"]["LIDAR_TOP"]) for s in tables.sample]
    east, north = np.array([pose["translation"][:2] for pose in poses]).T
    assert tables.map[0]["mask"].is_on_mask(east, north).all()
    for scene in tables.scene:
        messages = NuScenesCanBus(str(world)).get_messages(scene["name"], "pose")
        start = tables.get("sample", scene["first_sample_token"])["timestamp"]
        assert abs(messages[0]["utime"] - start) < 25_000
        last = next(pose for pose in reversed(poses) if pose["timestamp"] <= messages[-1]["utime"] + 25_000)
        nearest = min(messages, key=lambda message: abs(message["utime"] - last["timestamp"]))
        np.testing.assert_allclose(nearest["pos"], last["translation"], atol=0.2)


def test_a_seed_gives_the_same_bytes_and_a_complete_folder_is_left_unchanged(world: Path, tmp_path: Path):
    again = write_world(tmp_path / "again", 2, seed=4, mini=True, frames=FRAMES)
    assert digests(again) == digests(world)
    before = (again / "v1.0-mini" / "scene.json").stat().st_mtime_ns
    write_world(again, 2, seed=4, mini=True, frames=FRAMES)
    assert (again / "v1.0-mini" / "scene.json").stat().st_mtime_ns == before


def test_scene_names_are_those_of_nuscenes_with_every_fifth_in_val():
    splits = pytest.importorskip("nuscenes.utils.splits", reason="nuscenes-devkit is not installed")
    names = scene_names(25, mini=False)
    assert len(set(names)) == 25
    assert set(names) <= set(splits.train) | set(splits.val)
    assert sum(name in splits.val for name in names) == 5
    assert set(MINI_SCENES) == set(splits.mini_train) | set(splits.mini_val)
    assert len(set(MINI_SCENES[:5]) & set(splits.mini_val)) == 1
    everything = scene_names(len(splits.train) + len(splits.val) - 21, mini=False)
    assert not {f"scene-0{number}" for number in (161, 170, 312)} & set(everything)


@pytest.mark.parametrize(("scenes", "mini"), [(11, True), (0, True), (851, False), (0, False)])
def test_an_impossible_number_of_scenes_is_refused_before_anything_is_written(scenes, mini, tmp_path: Path):
    if not mini:
        pytest.importorskip("nuscenes", reason="nuscenes-devkit is not installed")
    with pytest.raises(UsageError) as error:
        main(["--out", str(tmp_path / "w"), "--scenes", str(scenes), *(["--mini"] if mini else [])])
    assert str(scenes) in error.value.message
    assert "between 1 and" in error.value.remedy
    assert not any(tmp_path.iterdir())
