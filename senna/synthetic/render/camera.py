"""A pinhole camera, and functions that move points between an object's frame, the world and the camera.

Frames are right-handed and in metres. World and objects: x forward, y left, z up. Camera: x right, y down, z forward.
Images: columns to the right and rows down, in pixels; pixel (0, 0) has its centre at (0, 0).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

NEAR = 0.2  # metres: depth of the near plane, in front of which nothing is drawn


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera.

    Attributes:
        position: (3,) in the world.
        rotation: (3, 3) from camera axes to world axes.
        intrinsic: (3, 3) in pixels.
        size: width and height in pixels.
    """

    position: np.ndarray
    rotation: np.ndarray
    intrinsic: np.ndarray
    size: tuple[int, int]

    @classmethod
    def looking(
        cls,
        position: tuple[float, float, float],
        yaw: float = 0.0,
        pitch: float = 0.0,
        field_of_view: float = 60.0,
        size: tuple[int, int] = (224, 224),
    ) -> Camera:
        """Return a camera without roll.

        Args:
            yaw: radians to the left.
            pitch: radians upwards.
            field_of_view: horizontal, in degrees.
        """
        focal = size[0] / 2 / math.tan(math.radians(field_of_view) / 2)
        intrinsic = np.array([[focal, 0, (size[0] - 1) / 2], [0, focal, (size[1] - 1) / 2], [0, 0, 1]])
        sin_yaw, cos_yaw, sin_pitch, cos_pitch = math.sin(yaw), math.cos(yaw), math.sin(pitch), math.cos(pitch)
        right = np.array([sin_yaw, -cos_yaw, 0.0])
        forward = np.array([cos_yaw * cos_pitch, sin_yaw * cos_pitch, sin_pitch])
        rotation = np.stack([right, np.cross(forward, right), forward], axis=1)
        return cls(np.array(position, dtype=float), rotation, intrinsic, size)

    @property
    def forward(self) -> np.ndarray:
        """The viewing direction in the world, a unit vector (3,)."""
        return self.rotation[:, 2]

    @property
    def focal(self) -> float:
        """The vertical focal length in pixels."""
        return float(self.intrinsic[1, 1])

    def scaled(self, factor: float) -> Camera:
        """Return the same view in an image `factor` times as large. Each pixel area keeps its centre."""
        shift = np.array([[factor, 0, (factor - 1) / 2], [0, factor, (factor - 1) / 2], [0, 0, 1]])
        size = (round(self.size[0] * factor), round(self.size[1] * factor))
        return Camera(self.position, self.rotation, shift @ self.intrinsic, size)

    def padded(self, side: int) -> Camera:
        """Return the same view in the centre of a square image with sides of `side` pixels."""
        right, down = ((side - length) // 2 for length in self.size)
        shift = np.array([[1, 0, right], [0, 1, down], [0, 0, 1]])
        return Camera(self.position, self.rotation, shift @ self.intrinsic, (side, side))

    def to_camera(self, points: np.ndarray) -> np.ndarray:
        """Transform world points (..., 3) to camera axes (..., 3)."""
        return (points - self.position) @ self.rotation

    def to_pixels(self, points: np.ndarray) -> np.ndarray:
        """Project points (..., 3) in camera axes, with positive depth, to pixels (..., 2)."""
        return points[..., :2] / points[..., 2:] * self.intrinsic[[0, 1], [0, 1]] + self.intrinsic[:2, 2]

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Project world points (..., 3).

        Returns:
            pixels (..., 2), NaN where the depth is not positive, and depths (...) in metres.
        """
        in_camera = self.to_camera(np.asarray(points, dtype=float))
        depth = in_camera[..., 2]
        visible = np.where((depth > 0)[..., None], in_camera, np.nan)
        return self.to_pixels(visible), depth

    def may_show(self, centres: np.ndarray, radius: float) -> np.ndarray:
        """Return for spheres around `centres` (N, 3) whether they reach between the left and right image edge: (N,)."""
        in_camera = self.to_camera(np.asarray(centres, dtype=float))
        edges = (np.array([0.0, self.size[0]]) - self.intrinsic[0, 2]) / self.intrinsic[0, 0]
        slack = radius * np.sqrt(1 + edges**2)
        right, depth = in_camera[:, 0], in_camera[:, 2]
        return (right > edges[0] * depth - slack[0]) & (right < edges[1] * depth + slack[1])


def clip_near(points: np.ndarray, near: float = NEAR) -> np.ndarray:
    """Clip a polygon (N, 3) in camera axes at the depth `near`. Returns the polygon (M, 3) behind it; M may be 0."""
    kept: list[list[float]] = []
    corners = points.tolist()  # a polygon is so small that plain numbers are faster than arrays
    for start, end in zip(corners, corners[1:] + corners[:1], strict=True):
        if start[2] >= near:
            kept.append(start)
        if (start[2] >= near) != (end[2] >= near):
            fraction = (near - start[2]) / (end[2] - start[2])
            kept.append([a + fraction * (b - a) for a, b in zip(start, end, strict=True)])
    return np.array(kept).reshape(-1, 3)


def object_to_world(points: np.ndarray, x: float, y: float, yaw: float, scale: float = 1.0) -> np.ndarray:
    """Transform points (N, 3) of an object that stands at (x, y), has heading `yaw` and is scaled, to the world (N, 3)."""
    cos_yaw, sin_yaw = math.cos(yaw), math.sin(yaw)
    rotation = np.array([[cos_yaw, sin_yaw, 0], [-sin_yaw, cos_yaw, 0], [0, 0, 1]])
    return points @ rotation * scale + np.array([x, y, 0.0])


def box_corners(size: tuple[float, float, float], x: float, y: float, yaw: float) -> np.ndarray:
    """Return the corners (8, 3) of a box with (length, width, height) that stands on the ground, centred at (x, y)."""
    length, width, height = size
    signs = np.array([[i, j, k] for i in (-0.5, 0.5) for j in (-0.5, 0.5) for k in (0.0, 1.0)])
    return object_to_world(signs * [length, width, height], x, y, yaw)
