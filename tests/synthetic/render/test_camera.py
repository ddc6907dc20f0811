"""The camera: projection, scaling and clipping."""

import math

import numpy as np
import pytest

from senna.synthetic.render.camera import Camera, clip_near


def test_points_project_to_the_pixels_of_a_pinhole_camera():
    camera = Camera.looking((0, 0, 1.5), field_of_view=90, size=(201, 101))
    pixels, depth = camera.project(np.array([[10, 0, 1.5], [10, 5, 1.5], [10, 0, 2.5], [-3, 0, 1.5]]))
    assert pixels[0] == pytest.approx([100, 50])
    assert pixels[1] == pytest.approx([100 - 100.5 * 0.5, 50])  # focal length: 201 / 2 / tan(45 degrees)
    assert pixels[2] == pytest.approx([100, 50 - 100.5 * 0.1])
    assert depth == pytest.approx([10, 10, 10, -3])
    assert np.isnan(pixels[3]).all()


def test_the_image_centre_shows_the_direction_of_yaw_and_pitch():
    yaw, pitch = math.radians(110), math.radians(10)
    camera = Camera.looking((4, -2, 1.5), yaw, pitch, size=(200, 100))
    forward = [math.cos(yaw) * math.cos(pitch), math.sin(yaw) * math.cos(pitch), math.sin(pitch)]
    pixels, depth = camera.project(np.array([4, -2, 1.5]) + 7 * np.array(forward))
    assert pixels == pytest.approx([99.5, 49.5])
    assert depth == pytest.approx(7)
    assert camera.rotation @ camera.rotation.T == pytest.approx(np.eye(3))
    assert np.linalg.det(camera.rotation) == pytest.approx(1)


def test_scaling_keeps_the_centre_of_every_pixel():
    camera = Camera.looking((0, 0, 1.5), size=(50, 40))
    point = np.array([9.0, 1.3, 0.4])
    small, _ = camera.project(point)
    large, _ = camera.scaled(3).project(point)
    assert large == pytest.approx(small * 3 + 1)  # pixel 0 becomes pixels 0, 1 and 2, whose centre is 1


def test_a_polygon_is_clipped_at_the_near_plane():
    triangle = np.array([[0.0, 0, -1], [1, 0, 3], [-1, 0, 3]])
    clipped = clip_near(triangle, near=1.0)
    assert clipped[:, 2].min() == pytest.approx(1.0)
    assert sorted(clipped[:, 0].round(6).tolist()) == [-1, -0.5, 0.5, 1]
    assert len(clip_near(triangle - [0, 0, 5], near=1.0)) == 0
