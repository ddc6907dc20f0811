"""The renderer: objects are drawn at the right position, size and colour."""

import math

import numpy as np
import pytest

from senna.synthetic.render.camera import Camera, box_corners
from senna.synthetic.render.painter import paint
from senna.synthetic.render.scene import BODY_COLOURS, SKIES, VEHICLE_KINDS, Road, Scene, TrafficLight, Vehicle
from senna.synthetic.tiny.road_scenes import front_camera, sample_scene

ROAD = Road(((-15.0, 0.0), (200.0, 0.0)))


def drawn_pixels(*vehicles: Vehicle, camera: Camera, sky: str = "clear") -> np.ndarray:
    """Return the rows and columns (N, 2) of the pixels that the vehicles change clearly."""
    without = np.asarray(paint(Scene(sky=sky, roads=(ROAD,)), camera)).astype(int)
    scene = Scene(sky=sky, roads=(ROAD,), vehicles=vehicles)
    return np.argwhere(np.abs(np.asarray(paint(scene, camera)) - without).max(axis=2) > 24)


@pytest.mark.parametrize("kind", VEHICLE_KINDS)
@pytest.mark.parametrize(("x", "y", "yaw"), [(14.0, 3.5, 0.0), (20.0, -3.5, 2.5)])
def test_a_vehicle_is_drawn_inside_its_projected_box_and_fills_it(kind: str, x: float, y: float, yaw: float):
    camera, vehicle = front_camera(), Vehicle(kind, "orange", x, y, yaw)
    pixels, _ = camera.project(box_corners(vehicle.size, x, y, yaw))
    changed = drawn_pixels(vehicle, camera=camera)[:, ::-1]
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    assert (changed >= low - 2.5).all()
    assert (changed <= high + 2.5).all()
    assert (np.ptp(changed, axis=0) >= 0.6 * (high - low) - 2).all()


def test_a_farther_vehicle_is_smaller_and_higher_up_in_the_image():
    near = drawn_pixels(Vehicle("car", "red", 10, 0), camera=front_camera())
    far = drawn_pixels(Vehicle("car", "red", 30, 0), camera=front_camera())
    assert len(far) < 0.3 * len(near)
    assert far[:, 0].max() < near[:, 0].max()


def test_a_vehicle_in_the_left_lane_is_drawn_on_the_left():
    camera = front_camera()
    left = drawn_pixels(Vehicle("bus", "blue", 20, 3.5), camera=camera)
    right = drawn_pixels(Vehicle("bus", "blue", 20, -3.5), camera=camera)
    assert left[:, 1].mean() < camera.size[0] / 2 < right[:, 1].mean()


def test_a_near_vehicle_hides_a_far_one_in_any_order_of_the_scene():
    camera = front_camera()
    both = np.asarray(paint(Scene(vehicles=(Vehicle("bus", "red", 15, 0), Vehicle("car", "blue", 30, 0))), camera))
    swapped = np.asarray(paint(Scene(vehicles=(Vehicle("car", "blue", 30, 0), Vehicle("bus", "red", 15, 0))), camera))
    alone = np.asarray(paint(Scene(vehicles=(Vehicle("bus", "red", 15, 0),)), camera))
    assert (both == swapped).all()
    assert (both == alone).mean() > 0.999


@pytest.mark.parametrize("colour", [name for name in BODY_COLOURS if name not in ("white", "black")])
@pytest.mark.parametrize("sky", SKIES)
def test_a_vehicle_keeps_its_hue_under_every_sky(colour: str, sky: str):
    camera, vehicle = front_camera(), Vehicle("truck", colour, 15, 0)
    scene = Scene(sky=sky, roads=(ROAD,), vehicles=(vehicle,), headlamps=(0, 0, 0))
    pixels, _ = camera.project(box_corners(vehicle.size, 15, 0, 0))
    column, row = pixels.mean(axis=0).astype(int)
    median = np.median(np.asarray(paint(scene, camera))[row - 8 : row, column - 8 : column + 8].reshape(-1, 3), axis=0)

    def cosine(name: str) -> float:
        own = np.array(BODY_COLOURS[name], dtype=float)
        return float(own @ median / np.linalg.norm(own) / np.linalg.norm(median))

    assert max(BODY_COLOURS, key=cosine) == colour


@pytest.mark.parametrize(("state", "channels"), [("red", [0]), ("yellow", [0, 1]), ("green", [1])])
def test_a_traffic_light_shows_the_colour_of_its_state(state: str, channels: list[int]):
    camera = front_camera()
    scene = Scene(sky="overcast", lights=(TrafficLight(18.0, -6.5, state, reach=6.5),))
    image = np.asarray(paint(scene, camera)).astype(int)
    other = [channel for channel in range(2) if channel not in channels]
    bright = image[..., channels].min(axis=2) > 190
    dark = image[..., other].max(axis=2) < 130 if other else image[..., 2] < 130
    assert (bright & dark).sum() > 10


def test_rendering_is_deterministic_and_night_is_darker_than_day():
    scene = sample_scene(np.random.default_rng(5))
    camera = front_camera(96)
    assert (np.asarray(paint(scene, camera)) == np.asarray(paint(scene, camera))).all()
    brightness = {sky: np.asarray(paint(Scene(sky=sky, roads=(ROAD,)), camera)).mean() for sky in SKIES}
    assert brightness["night"] < 0.4 * brightness["clear"]


def test_a_camera_amid_traffic_renders_vehicles_beside_and_behind_it():
    vehicles = (Vehicle("truck", "red", 1, 3.5), Vehicle("van", "blue", -3, -3.5), Vehicle("car", "white", -8, 0))
    for yaw in np.radians([0, 55, 110, 180, -110, -55]):
        camera = Camera.looking((0, 0, 1.5), float(yaw), field_of_view=110, size=(160, 90))
        assert paint(Scene(roads=(ROAD,), vehicles=vehicles), camera).size == (160, 90)
    assert len(drawn_pixels(vehicles[2], camera=Camera.looking((0, 0, 1.5), math.pi, size=(160, 90)))) > 200
