"""The six cameras and the lidar of the ego vehicle, with their poses and intrinsics.

The calibration is that of the nuScenes car n008 (the `calibrated_sensor` table for scene-0103 of v1.0-mini,
https://www.nuscenes.org), so that rendered images have the geometry of real ones.

Frames, as in nuScenes: the ego frame has x forward, y left, z up and its origin on the ground below the rear axle; camera
axes are x right, y down, z forward. Metres, radians and pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from senna.errors import UsageError
from senna.synthetic.render.camera import Camera

IMAGE_SIZE = (1600, 900)
EGO_SIZE = (4.08, 1.73, 1.56)  # length, width, height in metres
REAR_AXLE = 1.3  # metres from the centre of the car back to the origin of the ego frame


@dataclass(frozen=True)
class Sensor:
    """The calibration of a sensor.

    Attributes:
        channel: the name in nuScenes, for example ``CAM_FRONT``.
        translation: position in the ego frame, in metres.
        rotation: quaternion (w, x, y, z) from the sensor's axes to the ego frame.
        focal: focal length in pixels; 0 for a lidar.
        centre: principal point (column, row) in pixels.
    """

    channel: str
    translation: tuple[float, float, float]
    rotation: tuple[float, float, float, float]
    focal: float = 0.0
    centre: tuple[float, float] = (0.0, 0.0)

    @property
    def is_camera(self) -> bool:
        """True for a camera, False for a lidar."""
        return self.focal > 0

    def intrinsic(self, width: int = IMAGE_SIZE[0]) -> list[list[float]]:
        """Return the 3 x 3 camera matrix for images of a width, in the form of the nuScenes tables; [] for a lidar."""
        return camera_at(self, 0.0, 0.0, 0.0, width).intrinsic.tolist() if self.is_camera else []


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
    """Return the rotation matrix (3, 3) of a quaternion (w, x, y, z), which need not have unit length."""
    w, x, y, z = np.asarray(quaternion) / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def yaw_quaternion(yaw: float) -> list[float]:
    """Return the quaternion [w, x, y, z] of a rotation by `yaw` radians about the z axis."""
    return [math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)]


def yaw_matrix(yaw: float) -> np.ndarray:
    """Return the matrix (3, 3) of a rotation by `yaw` radians about the z axis."""
    return rotation_matrix(tuple(yaw_quaternion(yaw)))


def image_size(width: int) -> tuple[int, int]:
    """Return the width and height of images with the aspect ratio of nuScenes.

    Raises:
        UsageError: the height would be no whole number, or the images are larger than those of nuScenes.
    """
    if not (160 <= width <= IMAGE_SIZE[0] and width % 16 == 0):
        raise UsageError(
            f"--image-width {width} is no multiple of 16 from 160 to {IMAGE_SIZE[0]}", remedy="use 1600, 800 or 640"
        )
    return width, width * IMAGE_SIZE[1] // IMAGE_SIZE[0]


def camera_at(sensor: Sensor, x: float, y: float, yaw: float, width: int = IMAGE_SIZE[0]) -> Camera:
    """Return the camera of `sensor` for an ego frame at (x, y) with heading `yaw`, with images of a `width`.

    For the lidar, the result serves only to transform points: it has a pose and no intrinsic matrix.
    """
    ego_to_world = yaw_matrix(yaw)
    position = np.array([x, y, 0.0]) + ego_to_world @ np.array(sensor.translation)
    intrinsic = np.array(
        [[sensor.focal, 0.0, sensor.centre[0]], [0.0, sensor.focal, sensor.centre[1]], [0.0, 0.0, 1.0]]
    )
    camera = Camera(position, ego_to_world @ rotation_matrix(sensor.rotation), intrinsic, IMAGE_SIZE)
    return camera if width == IMAGE_SIZE[0] else camera.scaled(width / IMAGE_SIZE[0])
