"""The meta-action, the form of a plan: a speed decision and a path decision, with the names that the model was trained on."""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

SPEEDS = ("KEEP", "ACCELERATE", "DECELERATE", "STOP")
PATHS = ("STRAIGHT", "RIGHT_TURN", "RIGHT_CHANGE", "LEFT_TURN", "LEFT_CHANGE")


STEP, FUTURE_STEPS, COMMAND_STEPS = 0.5, 6, 12
"""Seconds between two points of a trajectory; points that a plan covers; points ahead of the navigation command."""


class MetaAction(NamedTuple):
    """A plan. ``str()`` gives the text of an answer: ``KEEP, STRAIGHT``."""

    speed: str
    path: str

    def __str__(self) -> str:
        return f"{self.speed}, {self.path}"


ALL_META_ACTIONS = tuple(MetaAction(speed, path) for speed in SPEEDS for path in PATHS)
"""All twenty combinations."""

KEEP_STRAIGHT = MetaAction("KEEP", "STRAIGHT")

STOP_SPEED = 2.0  # m/s
PEDESTRIAN_STOP_SPEED = 0.5  # m/s; with 2.0, 99.9 % of the pedestrians in nuScenes would count as stopped
_SPEED_CHANGE = 3.0  # m/s, between the first step and the last
_LATERAL, _BEARING = 4.0, 5.0  # metres, degrees
_ACTION = {(action.speed, action.path): action for action in ALL_META_ACTIONS}

_FORM = re.compile(rf"\s*({'|'.join(SPEEDS)})\s*,\s*({'|'.join(PATHS)})\s*\.?\s*", re.IGNORECASE)


def parse_meta_action(text: str) -> MetaAction | None:
    """Return the meta-action in an answer; None if the answer is anything but one meta-action."""
    found = _FORM.fullmatch(text)
    return MetaAction(found[1].upper(), found[2].upper()) if found else None


def label_trajectory(xy: ArrayLike, stop_speed: float = STOP_SPEED) -> MetaAction:
    """Return the meta-action of a trajectory, by the rule of the published converter.

    The speed is STOP if every step is slower than ``stop_speed``, ACCELERATE or DECELERATE if the speed of the last step
    differs from that of the first by 3 m/s or more, else KEEP. The path is STRAIGHT if the last point is at most 4 m
    to the side; beyond that, its bearing decides between a turn, a lane change and STRAIGHT.

    Args:
        xy: (T, 2) future positions in metres, x to the right and y forward, ``STEP`` seconds apart, T >= 2; a third
            column is ignored.
        stop_speed: m/s.

    Raises:
        ValueError: there are fewer than two points, or one is not finite.
    """
    points = np.asarray(xy, dtype=np.float64)
    if points.ndim != 2 or points.shape[0] < 2 or points.shape[1] < 2:
        raise ValueError(f"a trajectory must have the shape (T, 2) with T >= 2, got {points.shape}")
    (action,) = label_trajectories(points[None, :, :2], stop_speed)
    if action is None:
        raise ValueError(f"a trajectory must be finite, got {points.tolist()}")
    return action


def label_trajectories(
    xy: NDArray[np.float64], stop_speed: float | NDArray[np.float64] = STOP_SPEED
) -> list[MetaAction | None]:
    """Return ``label_trajectory`` for each of N trajectories; None for one that is not finite.

    Args:
        xy: (N, T, 2).
        stop_speed: m/s, one value for all or (N,).
    """
    if not len(xy):
        return []
    with np.errstate(invalid="ignore"):  # infinite points get the code -1 below
        steps = np.diff(xy, axis=1)  # (N, T - 1, 2)
        speeds = np.sqrt((steps * steps).sum(axis=-1)) / STEP  # (N, T - 1)
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
    if -_LATERAL < x <= _LATERAL:
        return "STRAIGHT"
    side, sign = ("RIGHT", -1.0) if x > 0 else ("LEFT", 1.0)
    bearing = sign * (math.degrees(math.atan2(y, x)) - 90.0)
    if bearing >= _BEARING:
        return f"{side}_TURN"
    return f"{side}_CHANGE" if bearing > -_BEARING else "STRAIGHT"
