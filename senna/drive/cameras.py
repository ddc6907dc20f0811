"""The cameras of another simulator as Senna's six views.

A camera gets its view from ``--cameras``, else from its name where that is a name of nuScenes (``CAM_FRONT_LEFT``) or AlpaSim
(``camera_cross_left_120fov``), else from its direction: that of the camera of the same view in nuScenes, on which models are
trained. The direction of every camera is checked, so that a wrong calibration is noticed before the drive.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from senna.errors import UsageError
from senna.synthetic.world.sensors import CAMERAS, rotation_matrix
from senna.views import VIEWS, camera_of

ALPASIM = {
    "camera_front_wide_120fov": "front",
    "camera_cross_left_120fov": "front left",
    "camera_cross_right_120fov": "front right",
    "camera_rear_left_70fov": "back left",
    "camera_rear_right_70fov": "back right",
    "camera_rear_tele_30fov": "back",
    "camera_front_tele_30fov": None,  # 30 degrees wide: it shows too little for any view
}
"""The cameras of the vehicles that AlpaSim's scenes were recorded with, and their views."""

NEAR = 35.0  # degrees: a camera without a known name belongs to a view whose direction is at most so far from its own
FAR = 60.0  # degrees: a camera that is so far from the direction of the view of its name is wrong
ALIKE = (
    10.0  # degrees: a camera is taken for a view if no other that is left over is nearer, or farther by less than this
)


class Camera(NamedTuple):
    """A camera: its name, and the direction of its optical axis in degrees, from ahead to the left; NaN if it is vertical."""

    name: str
    direction: float


def direction_of(axis: Sequence[float]) -> float:
    """Return the direction of an axis in the vehicle's frame, x forward and y left, in degrees; NaN if it is vertical."""
    x, y, z = axis
    return math.degrees(math.atan2(y, x)) if math.hypot(x, y) > 0.1 * abs(z) else math.nan


DIRECTIONS = {
    str(camera_of(camera.channel)): direction_of(rotation_matrix(camera.rotation)[:, 2].tolist()) for camera in CAMERAS
}
"""View -> direction of its camera in nuScenes, in degrees."""


def parse_cameras(words: str | None) -> dict[str, str]:
    """Return view -> name of ``--cameras``, for example ``front=cam0,back left=cam3``. Raises UsageError."""
    chosen: dict[str, str] = {}
    for word in (words or "").split(","):
        view, equals, name = (part.strip() for part in word.partition("="))
        view = view.lower().replace("_", " ").replace("-", " ")
        if not word.strip():
            continue
        if not equals or not name or view not in VIEWS:
            raise UsageError(
                f"--cameras: {word.strip()!r} does not name a view and a camera",
                remedy=f"write VIEW=CAMERA,VIEW=CAMERA with the views {', '.join(VIEWS)}",
            )
        if view in chosen or name in chosen.values():
            raise UsageError(
                f"--cameras: {word.strip()!r} names a view or a camera again",
                remedy="give each view a camera of its own",
            )
        chosen[view] = name
    return chosen


def assign_views(cameras: Sequence[Camera], chosen: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return view -> name of its camera, in the order of ``VIEWS``.

    Args:
        cameras: the cameras of the simulator; those that no view needs are left out.
        chosen: the result of `parse_cameras`, which has priority. The directions of these cameras are not checked.

    Raises:
        UsageError: a view has no camera, or several; or a camera looks in another direction than its name says.
    """
    found = dict(chosen or {})
    by_name = {camera.name: camera for camera in cameras}
    for view, name in found.items():
        if name not in by_name:
            raise UsageError(
                f"--cameras {view}={name}: the simulator has no camera {name!r}; it has {_list(cameras)}",
                remedy="correct --cameras, or add the camera to the simulator",
            )
    left = [camera for camera in cameras if camera.name not in found.values()]
    for camera in left:
        view = _view_of_name(camera.name)
        if view is None or view in found:
            continue
        if not _apart(camera.direction, view) < FAR:
            raise UsageError(
                f"camera {camera.name!r} looks {_words(camera)}, and its name says {view}, {DIRECTIONS[view]:.0f} degrees",
                remedy="correct its calibration (AlpaSim and CARLA state it differently: --simulator), or choose a camera "
                f"with --cameras '{view}=NAME'",
            )
        found[view] = camera.name
    unnamed = [camera for camera in left if _view_of_name(camera.name) is None and camera.name.lower() not in ALPASIM]
    found |= _nearest([view for view in VIEWS if view not in found], unnamed, cameras)
    return {view: found[view] for view in VIEWS}


def _view_of_name(name: str) -> str | None:
    return ALPASIM.get(name.lower()) or camera_of(name.upper())


def _nearest(views: Sequence[str], free: Sequence[Camera], cameras: Sequence[Camera]) -> dict[str, str]:
    """Return view -> name of the camera that looks in its direction: the assignment with the smallest angles."""
    from scipy.optimize import linear_sum_assignment

    angles = np.array([[_apart(camera.direction, view) for camera in free] for view in views])
    angles = angles.reshape(len(views), len(free))  # where one of them is empty
    costs = np.where(angles < NEAR, angles, 1e3) ** 2  # NaN is not near
    nearest: dict[int, int] = dict(zip(*(index.tolist() for index in linear_sum_assignment(costs)), strict=True))
    spare = [index for index in range(len(free)) if index not in nearest.values()]
    for row, view in enumerate(views):
        index = nearest.get(row)
        if index is None or not angles[row, index] < NEAR:
            raise UsageError(
                f"no camera for the {view} view ({DIRECTIONS[view]:.0f} degrees from ahead to the left); the simulator has "
                f"{_list(cameras) or 'no camera'}",
                remedy=f"add a camera in that direction to the simulator, or choose one with --cameras '{view}=NAME'",
            )
        limit = min(angles[row, index] + ALIKE, NEAR)
        if rivals := [free[other].name for other in spare if angles[row, other] < limit]:
            raise UsageError(
                f"{free[index].name!r} and {rivals[0]!r} both look in the direction of the {view} view",
                remedy=f"choose one with --cameras '{view}=NAME'",
            )
    return {views[row]: free[index].name for row, index in nearest.items()}


def _apart(direction: float, view: str) -> float:
    """Return the angle between a direction and that of a view, in degrees; NaN for a vertical camera."""
    return abs(math.remainder(direction - DIRECTIONS[view], 360.0))


def _words(camera: Camera) -> str:
    return "up or down" if math.isnan(camera.direction) else f"in the direction {camera.direction:.0f} degrees"


def _list(cameras: Sequence[Camera]) -> str:
    return ", ".join(f"{camera.name!r} ({_words(camera)})" for camera in cameras)
