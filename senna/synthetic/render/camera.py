"""A pinhole camera in a right-handed world (metres; x forward, y left, z up), and cutting polygons at its near plane."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

NEAR = 0.2  # metres: what is closer to the image plane is cut away


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera as nuScenes describes it: camera axes are x right, y down, z forward.

    `position` (3,) metres in the world, `rotation` (3, 3) camera axes to world axes, `intrinsic` (3, 3) pixels,
    `size` (width, height) pixels.
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
        """A level camera. `yaw` (to the left) and `pitch` (upwards) in radians, horizontal `field_of_view` in degrees."""
        focal = size[0] / 2 / math.tan(math.radians(field_of_view) / 2)
        intrinsic = np.array([[focal, 0, (size[0] - 1) / 2], [0, focal, (size[1] - 1) / 2], [0, 0, 1]])
        sin_yaw, cos_yaw, sin_pitch, cos_pitch = math.sin(yaw), math.cos(yaw), math.sin(pitch), math.cos(pitch)
        right = np.array([sin_yaw, -cos_yaw, 0.0])
        forward = np.array([cos_yaw * cos_pitch, sin_yaw * cos_pitch, sin_pitch])
        rotation = np.stack([right, np.cross(forward, right), forward], axis=1)
        return cls(np.array(position, dtype=float), rotation, intrinsic, size)

    @property
    def forward(self) -> np.ndarray:
        """The unit vector (3,) that the camera looks along, in the world."""
        return self.rotation[:, 2]

    @property
    def focal(self) -> float:
        """The focal length in pixels (of the vertical axis)."""
        return float(self.intrinsic[1, 1])

    def scaled(self, factor: float) -> Camera:
        """The same view on a picture `factor` times as large; pixel centres stay where they were."""
        shift = np.array([[factor, 0, (factor - 1) / 2], [0, factor, (factor - 1) / 2], [0, 0, 1]])
        size = (round(self.size[0] * factor), round(self.size[1] * factor))
        return Camera(self.position, self.rotation, shift @ self.intrinsic, size)

    def padded(self, side: int) -> Camera:
        """The same view in the middle of a square picture with sides of `side` pixels."""
        right, down = ((side - length) // 2 for length in self.size)
        shift = np.array([[1, 0, right], [0, 1, down], [0, 0, 1]])
        return Camera(self.position, self.rotation, shift @ self.intrinsic, (side, side))

    def to_camera(self, points: np.ndarray) -> np.ndarray:
        """World points (..., 3) in the camera's axes (..., 3)."""
        return (points - self.position) @ self.rotation

    def to_pixels(self, points: np.ndarray) -> np.ndarray:
        """Points in camera axes with positive depth (..., 3) to pixels (..., 2)."""
        return points[..., :2] / points[..., 2:] * self.intrinsic[[0, 1], [0, 1]] + self.intrinsic[:2, 2]

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """World points (..., 3) to pixels (..., 2) and depths (...) in metres.

        Where the depth is not positive the point lies behind the camera and its pixel is NaN.
        """
        in_camera = self.to_camera(np.asarray(points, dtype=float))
        depth = in_camera[..., 2]
        visible = np.where((depth > 0)[..., None], in_camera, np.nan)
        return self.to_pixels(visible), depth

    def may_show(self, centres: np.ndarray, radius: float) -> np.ndarray:
        """Whether things of at most `radius` metres around `centres` (N, 3) can lie between its left and right edge: (N,)."""
        in_camera = self.to_camera(np.asarray(centres, dtype=float))
        edges = (np.array([0.0, self.size[0]]) - self.intrinsic[0, 2]) / self.intrinsic[0, 0]
        slack = radius * np.sqrt(1 + edges**2)
        right, depth = in_camera[:, 0], in_camera[:, 2]
        return (right > edges[0] * depth - slack[0]) & (right < edges[1] * depth + slack[1])


def cut_near(points: np.ndarray, near: float = NEAR) -> np.ndarray:
    """The part of a polygon (N, 3), in camera axes, that lies at a depth of `near` or more: (M, 3), M may be 0."""
    kept: list[np.ndarray] = []
    for start, end in zip(points, np.roll(points, -1, axis=0), strict=True):
        if start[2] >= near:
            kept.append(start)
        if (start[2] >= near) != (end[2] >= near):
            share = (near - start[2]) / (end[2] - start[2])
            kept.append(start + share * (end - start))
    return np.array(kept).reshape(-1, 3)


def planar(points: np.ndarray, x: float, y: float, yaw: float, scale: float = 1.0) -> np.ndarray:
    """Points (N, 3) of a thing's own frame, scaled, turned by `yaw` radians to the left and moved to (x, y)."""
    cos_yaw, sin_yaw = math.cos(yaw), math.sin(yaw)
    turn = np.array([[cos_yaw, sin_yaw, 0], [-sin_yaw, cos_yaw, 0], [0, 0, 1]])
    return points @ turn * scale + np.array([x, y, 0.0])


def box_corners(size: tuple[float, float, float], x: float, y: float, yaw: float) -> np.ndarray:
    """The eight corners (8, 3) of a box of length, width and height that stands on the ground around (x, y)."""
    length, width, height = size
    signs = np.array([[i, j, k] for i in (-0.5, 0.5) for j in (-0.5, 0.5) for k in (0.0, 1.0)])
    return planar(signs * [length, width, height], x, y, yaw)
