"""The meta-action, what a plan comes down to: one SPEED of four and one PATH of five, under the names that weights expect."""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

SPEEDS = ("KEEP", "ACCELERATE", "DECELERATE", "STOP")
PATHS = ("STRAIGHT", "RIGHT_TURN", "RIGHT_CHANGE", "LEFT_TURN", "LEFT_CHANGE")


class MetaAction(NamedTuple):
    """A plan. ``str()`` is how an answer writes it: ``KEEP, STRAIGHT``."""

    speed: str
    path: str

    def __str__(self) -> str:
        return f"{self.speed}, {self.path}"


ALL_META_ACTIONS = tuple(MetaAction(speed, path) for speed in SPEEDS for path in PATHS)
"""All twenty."""

STOP_SPEED = 2.0  # m/s
PEDESTRIAN_STOP_SPEED = 0.5  # m/s; at 2.0, a brisk walk, 99.9 % of nuScenes' pedestrians would stand
_STEP = 0.5  # seconds from a point to the next
_SPEED_CHANGE = 3.0  # m/s, from the first step to the last
_ASIDE, _BEARING = 4.0, 5.0  # metres, degrees
_ACTION = {(action.speed, action.path): action for action in ALL_META_ACTIONS}

_FORM = re.compile(rf"\s*({'|'.join(SPEEDS)})\s*,\s*({'|'.join(PATHS)})\s*\.?\s*", re.IGNORECASE)


def parse_meta_action(text: str) -> MetaAction | None:
    """The meta-action that an answer is; None where it is anything else, one that names two speeds for example."""
    found = _FORM.fullmatch(text)
    return MetaAction(found[1].upper(), found[2].upper()) if found else None


def label_trajectory(xy: ArrayLike, stop_speed: float = STOP_SPEED) -> MetaAction:
    """The meta-action that a drive comes down to, by the published rule (design: "nuScenes -> facts -> QA").

    Args:
        xy: (T, 2) positions to come in metres, x right and y forward of where the drive begins, 0.5 s apart, T >= 2; a
            third column is left aside.
        stop_speed: m/s; a drive all of whose steps are slower is a STOP.

    Raises:
        ValueError: fewer than two points, or a point that is not finite.
    """
    points = np.asarray(xy, dtype=np.float64)
    if points.ndim != 2 or points.shape[0] < 2 or points.shape[1] < 2:
        raise ValueError(f"a trajectory is (T, 2) with T of 2 or more, got {points.shape}")
    (action,) = label_trajectories(points[None, :, :2], stop_speed)
    if action is None:
        raise ValueError(f"a trajectory must be finite, got {points.tolist()}")
    return action


def label_trajectories(
    xy: NDArray[np.float64], stop_speed: float | NDArray[np.float64] = STOP_SPEED
) -> list[MetaAction | None]:
    """``label_trajectory`` of many, (N, T, 2), with a stop speed for all or each, (N,); None for what is not finite."""
    if not len(xy):
        return []
    with np.errstate(invalid="ignore"):  # of infinite points, which are told below
        steps = np.diff(xy, axis=1)  # (N, T - 1, 2)
        speeds = np.sqrt((steps * steps).sum(axis=-1)) / _STEP  # (N, T - 1)
        change = speeds[:, -1] - speeds[:, 0]
    codes = np.select(
        [~np.isfinite(xy).all(axis=(1, 2)), speeds.max(axis=1) < stop_speed, change >= _SPEED_CHANGE,
         change <= -_SPEED_CHANGE],
        [-1, SPEEDS.index("STOP"), SPEEDS.index("ACCELERATE"), SPEEDS.index("DECELERATE")],
        SPEEDS.index("KEEP"),
    )  # fmt: skip
    ends: Sequence[tuple[float, float]] = xy[:, -1].tolist()
    return [
        None if code < 0 else _ACTION[SPEEDS[code], _path_to(x, y)]
        for code, (x, y) in zip(codes.tolist(), ends, strict=True)
    ]


def _path_to(x: float, y: float) -> str:
    if -_ASIDE < x <= _ASIDE:
        return "STRAIGHT"
    side, outwards = ("RIGHT", -1.0) if x > 0 else ("LEFT", 1.0)
    bearing = outwards * (math.degrees(math.atan2(y, x)) - 90.0)
    if bearing >= _BEARING:
        return f"{side}_TURN"
    return f"{side}_CHANGE" if bearing > -_BEARING else "STRAIGHT"


STEP, FUTURE_STEPS, COMMAND_STEPS = 0.5, 6, 12  # seconds, steps, steps
