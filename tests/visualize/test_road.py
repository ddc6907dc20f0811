"""Projection of road points into the image; points behind the camera are not drawn."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from senna.synthetic.world.sensors import CAMERAS, LIDAR, rotation_matrix
from senna.visualize.road import N008, N015, Camera, camera_of_car, path_length, project, ribbon

LEVEL = Camera("level", (1600, 900), 1000.0, (800.0, 450.0), (0.0, 0.7, 1.5), 0.0, 0.0, 0.0)
STRAIGHT = [[0.0, 4.0 * step] for step in range(1, 7)]  # 8 m/s


def test_a_point_of_the_road_is_projected_to_its_pixel():
    # 10 m ahead, with a focal length of 1000 pixels: 1.5 m down are 150 pixels, 1 m to the side are 100.
    pixels, depth = project([[0.0, 10.7, 0.0], [1.0, 10.7, 0.0], [-2.0, 20.7, 1.5]], LEVEL, (1600, 900))
    assert depth == pytest.approx([10.0, 10.0, 20.0])
    assert pixels.tolist() == pytest.approx(np.array([[800, 600], [900, 600], [700, 450]]))


def test_projection_scales_with_the_image():
    half, _ = project([[1.0, 10.7, 0.0]], LEVEL, (800, 450))
    assert half.tolist() == [[450.0, 300.0]]


@pytest.mark.parametrize(
    ("turned", "point", "pixel"),
    [
        ({"yaw": 45.0}, [0.0, 10.7, 1.5], (-200, 450)),  # looks to the right: what is ahead is 45 degrees to its left
        ({"pitch": 45.0}, [0.0, 10.7, 1.5], (800, 1450)),  # looks up: what is ahead is below
        ({"roll": 90.0}, [1.0, 10.7, 1.5], (800, 550)),  # its right side is up: what is to the right is below
    ],
)
def test_a_rotated_camera_rotates_the_image(turned, point, pixel):
    pixels, _ = project([point], replace(LEVEL, **turned), (1600, 900))
    assert pixels[0].tolist() == pytest.approx(pixel)


def test_nothing_behind_the_camera_is_drawn():
    back = ribbon([[0.0, -2.0 * step] for step in range(1, 7)], LEVEL, (1600, 900))
    assert not back.pieces
    assert not back.rungs
    assert back.end is None
    around = ribbon([[0, 6], [3, 9], [6, 9], [8, 6], [8, 0], [8, -6]], LEVEL, (1600, 900))
    assert around.pieces
    assert around.end is None  # the turn ends behind
    corners = np.concatenate(around.pieces)
    assert np.isfinite(corners).all()
    assert corners[:, 1].min() > 450  # the road is below the horizon; what is behind would be above it


def test_the_strip_is_as_wide_as_the_car_and_as_long_as_the_trajectory():
    strip = ribbon(STRAIGHT, LEVEL, (1600, 900), width=2.0)
    # Half seconds are 4 m apart, so 3.3, 7.3, ... 23.3 m in front of the camera.
    for rung, depth in zip(strip.rungs, (3.3, 7.3, 11.3, 15.3, 19.3, 23.3), strict=True):
        assert rung.tolist() == pytest.approx(
            np.array([[800 - 1000 / depth, 450 + 1500 / depth], [800 + 1000 / depth, 450 + 1500 / depth]])
        )
    assert strip.end.tolist() == pytest.approx([800, 450 + 1500 / 23.3])
    ends = strip.pieces[-1]  # left near, left far, right far, right near
    assert ends[1].tolist() == pytest.approx(strip.rungs[-1][0].tolist())
    assert ends[2].tolist() == pytest.approx(strip.rungs[-1][1].tolist())


def test_a_trajectory_to_the_right_bends_to_the_right():
    turn = [[20 * (1 - math.cos(a)), 20 * math.sin(a)] for a in np.linspace(0, math.pi / 3, 7)[1:]]
    middles = [rung.mean(axis=0)[0] for rung in ribbon(turn, LEVEL, (1600, 900)).rungs]
    assert middles == sorted(middles)
    assert middles[-1] > 1000


@pytest.mark.parametrize("trajectory", [[], [[0.0, 0.0]] * 6, [[0.05, 0.02], [0.0, 0.04], [0.05, 0.0]]])
def test_a_stationary_car_has_no_path(trajectory):
    assert not ribbon(trajectory, LEVEL, (1600, 900)).pieces


def test_the_length_of_a_path_begins_at_the_car():
    assert path_length([[0.0, 3.0], [4.0, 3.0]]) == pytest.approx(7.0)
    assert path_length([]) == 0.0


def test_the_file_name_identifies_the_car():
    assert camera_of_car("samples/CAM_FRONT/n015-2018-08-03-15-00-36+0800__CAM_FRONT__1.jpg") is N015
    assert camera_of_car("samples/CAM_FRONT/n008-2018-09-18-13-10-39-0400__CAM_FRONT__1.jpg") is N008
    assert camera_of_car("n015-drive/CAM_FRONT/scene-0061__CAM_FRONT__1.jpg") is N008


def seen_through(camera, lidar, points):
    """Return pixels of points of the level frame, through the transforms of a `calibrated_sensor` table."""
    ahead = rotation_matrix(tuple(lidar["rotation"]))[:2, 1]
    ahead = ahead / np.linalg.norm(ahead)
    right = np.array([ahead[1], -ahead[0]])
    ego = np.zeros((len(points), 3))
    ego[:, :2] = lidar["translation"][:2] + points[:, :1] * right + points[:, 1:2] * ahead
    ego[:, 2] = points[:, 2]
    seen = (ego - camera["translation"]) @ rotation_matrix(tuple(camera["rotation"]))
    projected = seen @ np.array(camera["camera_intrinsic"]).T
    return projected[:, :2] / projected[:, 2:]


GROUND = np.array([[x, y, 0.0] for x in (-6.0, -1.0, 0.0, 1.0, 6.0) for y in (6.0, 12.0, 25.0, 50.0)])


def test_the_drawn_world_uses_the_same_camera():
    front = {
        "translation": CAMERAS[0].translation, "rotation": CAMERAS[0].rotation, "camera_intrinsic": CAMERAS[0].intrinsic()
    }  # fmt: skip
    expected = seen_through(front, {"translation": LIDAR.translation, "rotation": LIDAR.rotation}, GROUND)
    pixels, _ = project(GROUND, camera_of_car("scene-0001__CAM_FRONT__1.jpg"), (1600, 900))
    assert np.abs(pixels - expected).max() < 1.0


def test_the_constants_equal_those_of_the_nuscenes_tables(data):
    tables = data / "nuscenes_mini3" / "v1.0-mini"
    read = {
        name: json.loads((tables / f"{name}.json").read_text())
        for name in ("scene", "sample", "sample_data", "sensor", "calibrated_sensor")
    }
    channel = {row["token"]: row["channel"] for row in read["sensor"]}
    calibrated = {row["token"]: row for row in read["calibrated_sensor"]}
    for scene, camera in (("scene-0061", N015), ("scene-0103", N008)):
        [token] = [row["token"] for row in read["scene"] if row["name"] == scene]
        samples = {row["token"] for row in read["sample"] if row["scene_token"] == token}
        used = {row["calibrated_sensor_token"] for row in read["sample_data"] if row["sample_token"] in samples}
        sensors = {channel[calibrated[sensor]["sensor_token"]]: calibrated[sensor] for sensor in used}
        pixels, _ = project(GROUND, camera, (1600, 900))
        expected = seen_through(sensors["CAM_FRONT"], sensors["LIDAR_TOP"], GROUND)
        assert np.abs(pixels - expected).max() < 1.0, scene
