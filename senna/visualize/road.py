"""The drive to come as the front camera would see it painted on the road.

Two frames of reference, both in metres. The lidar's, level: x right, y forward, z up from the ground below the lidar; in
its x and y a record gives the ego trajectory. The camera's: x right, y down, z along its axis. N counts points.

Records carry no calibration. The cameras here are those of nuScenes' two cars, computed from the rows of CAM_FRONT and
LIDAR_TOP in `calibrated_sensor` of v1.0-mini (https://www.nuscenes.org; scene-0061 for n015, scene-0103 for n008). The
tables give each sensor in the ego frame, which is level, so the tilt of the lidar (1.4 and 2.6 degrees) is taken out here:
with it in, the road would sink by a metre at 25 m. Calibrations of other days differ by a few pixels.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

EGO_WIDTH = 1.85  # metres, of nuScenes' cars, as planners on it take it
STEP = 0.5  # seconds from a point of a trajectory to the next
_NEAR = 1.0  # metres before the camera; nearer ground is far below the picture
_FINE = 16  # points that stand for a step of the trajectory
_STANDS = 0.5  # metres; a shorter drive has no direction

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Camera:
    """A camera above a level road.

    Attributes:
        name: how a caption calls it.
        size: width and height in pixels of the picture that focal and centre are for.
        focal, centre: pixels.
        position: metres right of the lidar, ahead of it, and above the ground.
        yaw, pitch, roll: degrees that its axis points to the right, upwards, and that its right side is raised.
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
        """(3, 3): the camera's x, y and z axes, a row each, in the level frame."""
        yaw, pitch, roll = (math.radians(angle) for angle in (self.yaw, self.pitch, self.roll))
        ahead = np.array([math.sin(yaw) * math.cos(pitch), math.cos(yaw) * math.cos(pitch), math.sin(pitch)])
        level = np.array([math.cos(yaw), -math.sin(yaw), 0.0])
        up = np.cross(level, ahead)
        right = math.cos(roll) * level + math.sin(roll) * up
        return np.stack([right, np.cross(ahead, right), ahead])

    def sees(self, size: tuple[int, int]) -> bool:
        """Whether a picture of this size can be its own: scaled, but neither cut nor padded."""
        return abs(size[0] * self.size[1] / (size[1] * self.size[0]) - 1) < 0.02


N015 = Camera(
    "nuScenes car n015", (1600, 900), 1266.417, (816.267, 491.507), (-0.014, 0.757, 1.511), -0.201, -0.323, 0.046
)
N008 = Camera(
    "nuScenes car n008", (1600, 900), 1252.813, (826.588, 469.985), (-0.005, 0.736, 1.495), -0.605, 0.490, -0.701
)


def camera_of_car(path: str) -> Camera:
    """The front camera of n015 for an image of its (``n015-2018-...``), else that of n008, whose the driving world has."""
    return N015 if re.search(r"(?:^|[/\\])n015-[^/\\]*$", path) else N008


def project(points: ArrayLike, camera: Camera, size: tuple[int, int]) -> tuple[Points, Points]:
    """Where points of the level frame are in a picture.

    Args:
        points: (N, 3).
        size: of the picture, (width, height); the camera's numbers are scaled to it.

    Returns:
        pixels (N, 2), and depths (N,): metres along the camera's axis. Pixels mean nothing where the depth is not positive.
    """
    seen = (np.asarray(points, dtype=np.float64) - camera.position) @ camera.axes.T
    depth = seen[:, 2]
    safe = np.where(depth > 0, depth, np.nan)
    pixels = camera.focal * seen[:, :2] / safe[:, None] + camera.centre
    return pixels * (np.asarray(size) / camera.size), depth


@dataclass(frozen=True)
class Ribbon:
    """The strip of road that a car will cover, in pixels.

    Attributes:
        pieces: quadrilaterals (4, 2), from near to far.
        rungs: the strip's edges (2, 2) at every half second that is before the camera.
        end: the middle (2,) of the last of them, None where that is not before the camera.
    """

    pieces: Sequence[Points]
    rungs: Sequence[Points]
    end: Points | None


def path_length(trajectory: ArrayLike) -> float:
    """Metres from the origin through the points (T, 2) of a trajectory."""
    points = _from_origin(trajectory)
    return float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())


def ribbon(trajectory: ArrayLike, camera: Camera, size: tuple[int, int], width: float = EGO_WIDTH) -> Ribbon:
    """What a trajectory covers of the road, as the camera sees it; nothing where the car stands.

    Args:
        trajectory: (T, 2) metres, x right and y forward of the lidar, 0.5 s apart, without the origin; T may be 0.
        size: of the picture, (width, height).
        width: of the strip, metres.
    """
    points = _from_origin(trajectory)
    if len(points) < 2 or path_length(trajectory) < _STANDS:
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
    rungs = [np.stack([left[n], right[n]]) for n in range(_FINE, len(curve), _FINE) if seen[n]]
    return Ribbon(pieces, rungs, rungs[-1].mean(axis=0) if seen[-1] else None)


def _from_origin(trajectory: ArrayLike) -> Points:
    points = np.asarray(trajectory, dtype=np.float64).reshape(-1, 2)
    return np.concatenate([np.zeros((1, 2)), points])


def _smooth(points: Points) -> Points:
    """A curve through the points: cubic Hermite pieces whose slopes are those from neighbour to neighbour (Catmull-Rom)."""
    slopes = np.gradient(points, axis=0)
    t = np.arange(_FINE)[:, None] / _FINE
    start, end = 2 * t**3 - 3 * t**2 + 1, 3 * t**2 - 2 * t**3
    leave, arrive = t**3 - 2 * t**2 + t, t**3 - t**2
    pieces = [
        start * points[n] + leave * slopes[n] + end * points[n + 1] + arrive * slopes[n + 1]
        for n in range(len(points) - 1)
    ]
    return np.concatenate([*pieces, points[-1:]])


def _directions(curve: Points) -> Points:
    """Unit vectors along a curve; where it hardly moves, the last that was known, which at first is straight ahead."""
    known = np.array([0.0, 1.0])
    found = []
    for step in np.gradient(curve, axis=0):
        length = float(np.linalg.norm(step))
        known = step / length if length > 0.02 else known
        found.append(known)
    return np.array(found)
