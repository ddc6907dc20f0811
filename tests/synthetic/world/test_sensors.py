"""The sensors: cameras point in the directions of nuScenes."""

import math

import numpy as np

from senna.synthetic.world.sensors import CAMERAS, camera_at, rotation_matrix

YAWS = {  # degrees to the left of the ego's heading
    "CAM_FRONT": 0,
    "CAM_FRONT_LEFT": 55,
    "CAM_FRONT_RIGHT": -55,
    "CAM_BACK": 180,
    "CAM_BACK_LEFT": 108,
    "CAM_BACK_RIGHT": -110,
}


def test_cameras_point_in_the_directions_of_nuscenes_cameras():
    assert {sensor.channel for sensor in CAMERAS} == set(YAWS)
    for sensor in CAMERAS:
        camera = camera_at(sensor, 10.0, 20.0, 0.3)
        yaw = math.degrees(math.atan2(camera.forward[1], camera.forward[0]) - 0.3)
        assert math.cos(math.radians(yaw - YAWS[sensor.channel])) > math.cos(math.radians(3))
        assert abs(camera.forward[2]) < 0.03
        rotation = rotation_matrix(sensor.rotation)
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
