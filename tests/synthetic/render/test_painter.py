"""The camera and the painter: where things are drawn, and that they look as described."""

import math

import numpy as np
import pytest

from senna.synthetic.render.camera import Camera, box_corners, cut_near
from senna.synthetic.render.painter import paint
from senna.synthetic.render.scene import BODY_COLOURS, SKIES, VEHICLE_KINDS, Road, Scene, TrafficLight, Vehicle
from senna.synthetic.render.vehicles import vehicle_mesh
from senna.synthetic.tiny.road_scenes import front_camera, sample_scene

ROAD = Road(((-15.0, 0.0), (200.0, 0.0)))


def drawn_pixels(*vehicles: Vehicle, camera: Camera, sky: str = "clear") -> np.ndarray:
    """Rows and columns (N, 2) of the pixels that the vehicles change clearly."""
    without = np.asarray(paint(Scene(sky=sky, roads=(ROAD,)), camera)).astype(int)
    scene = Scene(sky=sky, roads=(ROAD,), vehicles=vehicles)
    return np.argwhere(np.abs(np.asarray(paint(scene, camera)) - without).max(axis=2) > 24)


def test_a_point_ahead_lands_in_the_middle_and_one_to_the_left_lands_left_of_it():
    camera = Camera.looking((0, 0, 1.5), field_of_view=90, size=(201, 101))
    pixels, depth = camera.project(np.array([[10, 0, 1.5], [10, 5, 1.5], [10, 0, 2.5], [-3, 0, 1.5]]))
    assert pixels[0] == pytest.approx([100, 50])
    assert pixels[1] == pytest.approx([100 - 100.5 * 0.5, 50])  # focal length: 201 / 2 / tan(45 degrees)
    assert pixels[2] == pytest.approx([100, 50 - 100.5 * 0.1])
    assert depth == pytest.approx([10, 10, 10, -3])
    assert np.isnan(pixels[3]).all()


def test_a_turned_camera_sees_in_its_middle_what_lies_along_its_yaw_and_pitch():
    yaw, pitch = math.radians(110), math.radians(10)
    camera = Camera.looking((4, -2, 1.5), yaw, pitch, size=(200, 100))
    forward = [math.cos(yaw) * math.cos(pitch), math.sin(yaw) * math.cos(pitch), math.sin(pitch)]
    pixels, depth = camera.project(np.array([4, -2, 1.5]) + 7 * np.array(forward))
    assert pixels == pytest.approx([99.5, 49.5])
    assert depth == pytest.approx(7)
    assert camera.rotation @ camera.rotation.T == pytest.approx(np.eye(3))
    assert np.linalg.det(camera.rotation) == pytest.approx(1)


def test_a_scaled_camera_keeps_every_pixel_centre():
    camera = Camera.looking((0, 0, 1.5), size=(50, 40))
    point = np.array([9.0, 1.3, 0.4])
    small, _ = camera.project(point)
    large, _ = camera.scaled(3).project(point)
    assert large == pytest.approx(small * 3 + 1)  # pixel 0 becomes pixels 0, 1, 2, whose middle is 1


def test_a_polygon_that_passes_the_camera_is_cut_where_it_comes_too_near():
    triangle = np.array([[0.0, 0, -1], [1, 0, 3], [-1, 0, 3]])
    cut = cut_near(triangle, near=1.0)
    assert cut[:, 2].min() == pytest.approx(1.0)
    assert sorted(cut[:, 0].round(6).tolist()) == [-1, -0.5, 0.5, 1]
    assert len(cut_near(triangle - [0, 0, 5], near=1.0)) == 0


@pytest.mark.parametrize("kind", VEHICLE_KINDS)
def test_no_vehicle_reaches_out_of_its_box_by_more_than_a_hand(kind: str):
    length, width, height = Vehicle(kind, "red", 0, 0).size
    points = vehicle_mesh(kind, "red").arrays.points
    assert (np.abs(points) <= np.array([length / 2, width / 2, height]) + 0.1).all()
    assert points[:, 2].min() >= -1e-9


@pytest.mark.parametrize("kind", VEHICLE_KINDS)
@pytest.mark.parametrize(("x", "y", "yaw"), [(14.0, 3.5, 0.0), (20.0, -3.5, 2.5)])
def test_the_projected_box_covers_what_is_drawn_and_what_is_drawn_fills_it(kind: str, x: float, y: float, yaw: float):
    camera, vehicle = front_camera(), Vehicle(kind, "orange", x, y, yaw)
    pixels, _ = camera.project(box_corners(vehicle.size, x, y, yaw))
    changed = drawn_pixels(vehicle, camera=camera)[:, ::-1]
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    assert (changed >= low - 2.5).all()
    assert (changed <= high + 2.5).all()
    assert (np.ptp(changed, axis=0) >= 0.6 * (high - low) - 2).all()


def test_a_farther_vehicle_is_smaller_and_higher_up_in_the_picture():
    near = drawn_pixels(Vehicle("car", "red", 10, 0), camera=front_camera())
    far = drawn_pixels(Vehicle("car", "red", 30, 0), camera=front_camera())
    assert len(far) < 0.3 * len(near)
    assert far[:, 0].max() < near[:, 0].max()


def test_a_vehicle_in_the_left_lane_is_drawn_on_the_left():
    camera = front_camera()
    left = drawn_pixels(Vehicle("bus", "blue", 20, 3.5), camera=camera)
    right = drawn_pixels(Vehicle("bus", "blue", 20, -3.5), camera=camera)
    assert left[:, 1].mean() < camera.size[0] / 2 < right[:, 1].mean()


def test_the_nearer_of_two_vehicles_hides_the_farther():
    camera = front_camera()
    both = np.asarray(paint(Scene(vehicles=(Vehicle("bus", "red", 15, 0), Vehicle("car", "blue", 30, 0))), camera))
    swapped = np.asarray(paint(Scene(vehicles=(Vehicle("car", "blue", 30, 0), Vehicle("bus", "red", 15, 0))), camera))
    alone = np.asarray(paint(Scene(vehicles=(Vehicle("bus", "red", 15, 0),)), camera))
    assert (both == swapped).all()
    assert (both == alone).mean() > 0.999


@pytest.mark.parametrize("colour", [c for c in BODY_COLOURS if c not in ("white", "black")])
@pytest.mark.parametrize("sky", SKIES)
def test_a_body_keeps_its_hue_under_every_sky(colour: str, sky: str):
    camera, vehicle = front_camera(), Vehicle("truck", colour, 15, 0)
    scene = Scene(sky=sky, roads=(ROAD,), vehicles=(vehicle,), headlamps=(0, 0, 0))
    pixels, _ = camera.project(box_corners(vehicle.size, 15, 0, 0))
    column, row = pixels.mean(axis=0).astype(int)
    seen = np.median(np.asarray(paint(scene, camera))[row - 8 : row, column - 8 : column + 8].reshape(-1, 3), axis=0)

    def cosine(name: str) -> float:
        own = np.array(BODY_COLOURS[name], dtype=float)
        return float(own @ seen / np.linalg.norm(own) / np.linalg.norm(seen))

    assert max(BODY_COLOURS, key=cosine) == colour


@pytest.mark.parametrize(("state", "channels"), [("red", [0]), ("yellow", [0, 1]), ("green", [1])])
def test_the_lit_lamp_shows_its_colour(state: str, channels: list[int]):
    camera = front_camera()
    scene = Scene(sky="overcast", lights=(TrafficLight(18.0, -6.5, state, reach=6.5),))
    picture = np.asarray(paint(scene, camera)).astype(int)
    other = [c for c in range(2) if c not in channels]
    bright = picture[..., channels].min(axis=2) > 190
    dark = picture[..., other].max(axis=2) < 130 if other else picture[..., 2] < 130
    assert (bright & dark).sum() > 10


def test_the_same_scene_is_painted_the_same_twice_and_night_is_darker_than_day():
    scene = sample_scene(np.random.default_rng(5))
    camera = front_camera(96)
    assert (np.asarray(paint(scene, camera)) == np.asarray(paint(scene, camera))).all()
    brightness = {sky: np.asarray(paint(Scene(sky=sky, roads=(ROAD,)), camera)).mean() for sky in SKIES}
    assert brightness["night"] < 0.4 * brightness["clear"]


def test_a_wide_camera_amid_the_traffic_paints_what_stands_beside_and_behind_it():
    vehicles = (Vehicle("truck", "red", 1, 3.5), Vehicle("van", "blue", -3, -3.5), Vehicle("car", "white", -8, 0))
    for yaw in np.radians([0, 55, 110, 180, -110, -55]):
        camera = Camera.looking((0, 0, 1.5), float(yaw), field_of_view=110, size=(160, 90))
        assert paint(Scene(roads=(ROAD,), vehicles=vehicles), camera).size == (160, 90)
    assert len(drawn_pixels(vehicles[2], camera=Camera.looking((0, 0, 1.5), math.pi, size=(160, 90)))) > 200
