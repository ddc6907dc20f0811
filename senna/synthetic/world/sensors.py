"""The ego vehicle's sensors: where they sit and how they look.

The numbers are the calibration of one of nuScenes' cars (n008, as in the `calibrated_sensor` table for scene-0103 of
v1.0-mini, https://www.nuscenes.org), so that pictures of the driving world have the geometry of real ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from senna.synthetic.render.camera import Camera

IMAGE_SIZE = (1600, 900)
EGO_SIZE = (4.08, 1.73, 1.56)  # length, width, height in metres
REAR_AXLE = 1.3  # metres from the car's middle back to the origin of nuScenes' ego frame


@dataclass(frozen=True)
class Sensor:
    """A sensor in the ego frame (x forward, y left, z up; origin on the ground below the rear axle).

    `rotation` is the quaternion (w, x, y, z) from its axes to the ego's; `focal` and `centre` are in pixels, 0 for a lidar.
    """

    channel: str
    translation: tuple[float, float, float]
    rotation: tuple[float, float, float, float]
    focal: float = 0.0
    centre: tuple[float, float] = (0.0, 0.0)

    @property
    def is_camera(self) -> bool:
        """Whether it gives pictures."""
        return self.focal > 0

    @property
    def intrinsic(self) -> list[list[float]]:
        """The 3 x 3 camera matrix as nuScenes' tables hold it, empty for a lidar."""
        if not self.is_camera:
            return []
        return [[self.focal, 0.0, self.centre[0]], [0.0, self.focal, self.centre[1]], [0.0, 0.0, 1.0]]


LIDAR = Sensor("LIDAR_TOP", (0.985793, 0.0, 1.84019), (0.706749, -0.015301, 0.017397, -0.707085))
CAMERAS = (
    Sensor(
        "CAM_FRONT",
        (1.722006, 0.004755, 1.494913),
        (0.507724, -0.497339, 0.498372, -0.496483),
        1252.813,
        (826.588, 469.985),
    ),
    Sensor(
        "CAM_FRONT_RIGHT",
        (1.580826, -0.499079, 1.517494),
        (0.203352, -0.191463, 0.678571, -0.679361),
        1256.749,
        (817.789, 451.954),
    ),
    Sensor(
        "CAM_FRONT_LEFT",
        (1.575256, 0.500519, 1.506960),
        (0.681209, -0.668751, 0.210170, -0.211082),
        1257.863,
        (827.241, 450.915),
    ),
    Sensor(
        "CAM_BACK",
        (0.055246, 0.010788, 1.567943),
        (0.506800, -0.497757, -0.498785, 0.496594),
        796.891,
        (857.777, 476.885),
    ),
    Sensor(
        "CAM_BACK_LEFT",
        (1.048520, 0.483058, 1.562102),
        (0.704862, -0.690731, -0.112091, 0.116173),
        1254.986,
        (829.577, 467.168),
    ),
    Sensor(
        "CAM_BACK_RIGHT",
        (1.059452, -0.467203, 1.550509),
        (0.138192, -0.137967, -0.689333, 0.697630),
        1249.963,
        (825.377, 462.548),
    ),
)
SENSORS = (LIDAR, *CAMERAS)


def rotation_matrix(quaternion: tuple[float, float, float, float]) -> np.ndarray:
    """The rotation (3, 3) of a quaternion (w, x, y, z), normalised first."""
    w, x, y, z = np.asarray(quaternion) / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def yaw_quaternion(yaw: float) -> list[float]:
    """The quaternion [w, x, y, z] of a turn by `yaw` radians to the left on level ground."""
    return [math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)]


def yaw_matrix(yaw: float) -> np.ndarray:
    """The rotation (3, 3) of a turn by `yaw` radians to the left."""
    return rotation_matrix(tuple(yaw_quaternion(yaw)))


def camera_at(sensor: Sensor, x: float, y: float, yaw: float) -> Camera:
    """The view of `sensor` from an ego frame at (x, y) that points along `yaw`; of a lidar only its axes mean anything."""
    turn = yaw_matrix(yaw)
    position = np.array([x, y, 0.0]) + turn @ np.array(sensor.translation)
    return Camera(position, turn @ rotation_matrix(sensor.rotation), np.array(sensor.intrinsic), IMAGE_SIZE)
