"""Projection of the future ego trajectory onto the road in the front image.

There are two coordinate frames, both in metres. The level lidar frame: x right, y forward, z up from the ground below the
lidar; a record gives the ego trajectory in its x and y. The camera frame: x right, y down, z along the optical axis. N is a
number of points.

Records have no calibration. The cameras here are those of nuScenes' two cars, computed from the rows of CAM_FRONT and
LIDAR_TOP in `calibrated_sensor` of v1.0-mini (https://www.nuscenes.org; scene-0061 for n015, scene-0103 for n008). The
tables give each sensor in the level ego frame, so the tilt of the lidar (1.4 and 2.6 degrees) is removed here; otherwise
the road would be a metre too low at 25 m. Calibrations of other days differ by a few pixels.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

EGO_WIDTH = 1.85  # metres, the width of nuScenes' cars that planners assume
_NEAR = 1.0  # metres in front of the camera; nearer ground is far below the image
_POINTS_PER_STEP = 16  # points of the smooth curve per trajectory step
_STANDS_STILL = 0.5  # metres; a shorter trajectory has no direction

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Camera:
    """A camera above a level road.

    Attributes:
        name: name in captions.
        size: width and height (pixels) of the images that focal and centre refer to.
        focal, centre: focal length and principal point, pixels.
        position: metres to the right of the lidar, ahead of it, and above the ground.
        yaw, pitch, roll: degrees by which the axis points to the right and up, and by which the right side is raised.
    """

    name: str
    size: tuple[int, int]
    focal: float
    centre: tuple[float, float]
    position: tuple[float, float, float]
    yaw: float
    pitch: float
    roll: float

    @property
    def axes(self) -> Points:
        """Return the camera's x, y and z axes as rows, (3, 3), in the level lidar frame."""
        yaw, pitch, roll = (math.radians(angle) for angle in (self.yaw, self.pitch, self.roll))
        ahead = np.array([math.sin(yaw) * math.cos(pitch), math.cos(yaw) * math.cos(pitch), math.sin(pitch)])
        level = np.array([math.cos(yaw), -math.sin(yaw), 0.0])
        up = np.cross(level, ahead)
        right = math.cos(roll) * level + math.sin(roll) * up
        return np.stack([right, np.cross(ahead, right), ahead])

    def sees(self, size: tuple[int, int]) -> bool:
        """Return whether an image of this size has the camera's aspect ratio (scaled, neither cropped nor padded)."""
        return abs(size[0] * self.size[1] / (size[1] * self.size[0]) - 1) < 0.02


N015 = Camera(
    "nuScenes car n015", (1600, 900), 1266.417, (816.267, 491.507), (-0.014, 0.757, 1.511), -0.201, -0.323, 0.046
)
N008 = Camera(
    "nuScenes car n008", (1600, 900), 1252.813, (826.588, 469.985), (-0.005, 0.736, 1.495), -0.605, 0.490, -0.701
)


def camera_of_car(path: str) -> Camera:
    """Return the front camera of n015 for its images (``n015-2018-...``), else that of n008, which the drawn world uses."""
    return N015 if re.search(r"(?:^|[/\\])n015-[^/\\]*$", path) else N008


def project(points: ArrayLike, camera: Camera, size: tuple[int, int]) -> tuple[Points, Points]:
    """Project points of the level lidar frame into an image.

    Args:
        points: (N, 3) metres.
        size: (width, height) of the image; the camera's parameters are scaled to it.

    Returns:
        pixels (N, 2) and depths (N,) in metres along the optical axis. Pixels are undefined where the depth is not positive.
    """
    in_camera = (np.asarray(points, dtype=np.float64) - camera.position) @ camera.axes.T
    depth = in_camera[:, 2]
    safe = np.where(depth > 0, depth, np.nan)
    pixels = camera.focal * in_camera[:, :2] / safe[:, None] + camera.centre
    return pixels * (np.asarray(size) / camera.size), depth


@dataclass(frozen=True)
class Ribbon:
    """The strip of road that a car covers, in pixels.

    Attributes:
        pieces: quadrilaterals (4, 2), from near to far.
        rungs: segments (2, 2) across the strip at every half second in front of the camera.
        end: centre (2,) of the last rung, None where the end is not in front of the camera.
    """

    pieces: Sequence[Points]
    rungs: Sequence[Points]
    end: Points | None


def path_length(trajectory: ArrayLike) -> float:
    """Return the length in metres from the origin through the points (T, 2) of a trajectory."""
    points = _from_origin(trajectory)
    return float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())


def ribbon(trajectory: ArrayLike, camera: Camera, size: tuple[int, int], width: float = EGO_WIDTH) -> Ribbon:
    """Return the strip of road that a trajectory covers, as the camera sees it; empty where the car does not move.

    Args:
        trajectory: (T, 2) metres, x right and y forward of the lidar, 0.5 s apart, without the origin; T may be 0.
        size: (width, height) of the image.
        width: width of the strip in metres.
    """
    points = _from_origin(trajectory)
    if len(points) < 2 or path_length(trajectory) < _STANDS_STILL:
        return Ribbon((), (), None)
    curve = _smooth(points)  # (N, 2)
    ahead = _directions(curve)
    aside = np.stack([ahead[:, 1], -ahead[:, 0]], axis=1) * width / 2
    edges = []
    for ground in (curve - aside, curve + aside):
        pixels, depth = project(np.pad(ground, ((0, 0), (0, 1))), camera, size)
        edges.append((pixels, depth > _NEAR))
    (left, left_seen), (right, right_seen) = edges
    seen = left_seen & right_seen
    pieces = [
        np.stack([left[n], left[n + 1], right[n + 1], right[n]])
        for n in range(len(curve) - 1)
        if seen[n] and seen[n + 1]
    ]
    rungs = [np.stack([left[n], right[n]]) for n in range(_POINTS_PER_STEP, len(curve), _POINTS_PER_STEP) if seen[n]]
    return Ribbon(pieces, rungs, rungs[-1].mean(axis=0) if seen[-1] else None)


def _from_origin(trajectory: ArrayLike) -> Points:
    points = np.asarray(trajectory, dtype=np.float64).reshape(-1, 2)
    return np.concatenate([np.zeros((1, 2)), points])


def _smooth(points: Points) -> Points:
    """Return a Catmull-Rom curve through the points: cubic Hermite pieces with central-difference slopes."""
    slopes = np.gradient(points, axis=0)
    t = np.arange(_POINTS_PER_STEP)[:, None] / _POINTS_PER_STEP
    start, end = 2 * t**3 - 3 * t**2 + 1, 3 * t**2 - 2 * t**3
    leave, arrive = t**3 - 2 * t**2 + t, t**3 - t**2
    pieces = [
        start * points[n] + leave * slopes[n] + end * points[n + 1] + arrive * slopes[n + 1]
        for n in range(len(points) - 1)
    ]
    return np.concatenate([*pieces, points[-1:]])


def _directions(curve: Points) -> Points:
    """Return unit vectors along a curve; where it hardly moves, the previous one, initially straight ahead."""
    known = np.array([0.0, 1.0])
    found = []
    for step in np.gradient(curve, axis=0):
        length = float(np.linalg.norm(step))
        known = step / length if length > 0.02 else known
        found.append(known)
    return np.array(found)
