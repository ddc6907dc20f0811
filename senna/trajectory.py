"""The text of a trajectory: six waypoints, one for each half second of the next 3 s, in the ego frame of the record.

``0.01,2.51 0.02,5.02 0.04,7.55 ...``: x to the right and y forward, in metres. With Llama's tokenizer this is 10 tokens a
waypoint, and 12 with brackets and blanks around the numbers. Two decimals keep every meta-action of nuScenes' trajectories,
which one decimal does not, and the step speeds to 0.02 m/s; they cost 12 of about 1,000 tokens of a sample.
"""

import re

import numpy as np
from numpy.typing import ArrayLike, NDArray

from senna.meta_actions import FUTURE_STEPS

DECIMALS = 2
"""Decimals of a coordinate: the resolution is 1 cm."""

_NUMBER = rf"-?[0-9]{{1,6}}(?:\.[0-9]{{1,{DECIMALS}}})?"
_WAYPOINT = re.compile(rf"({_NUMBER}),({_NUMBER})")
_FORM = re.compile(rf"\s*{_WAYPOINT.pattern}(?: {_WAYPOINT.pattern}){{{FUTURE_STEPS - 1}}}\s*")


def format_trajectory(xy: ArrayLike) -> str:
    """Return the text of a trajectory.

    Args:
        xy: (6, 2) positions in metres, x to the right and y forward, ``STEP`` seconds apart; the origin, where the ego
            vehicle is now, is not one of them.

    Raises:
        ValueError: the shape is another one, or a coordinate is not finite or 1,000 km or more.
    """
    points = np.asarray(xy, dtype=np.float64)
    if points.shape != (FUTURE_STEPS, 2):
        raise ValueError(f"a trajectory must have the shape ({FUTURE_STEPS}, 2), got {points.shape}")
    if not (np.abs(points) < 999_999).all():  # NaN too
        raise ValueError(f"a trajectory must be finite and below 1,000 km, got {points.tolist()}")
    points = points.round(DECIMALS) + 0.0  # no "-0.00"
    return " ".join(f"{x:.{DECIMALS}f},{y:.{DECIMALS}f}" for x, y in points.tolist())


def parse_trajectory(text: str) -> NDArray[np.float64] | None:
    """Return the trajectory in an answer, (6, 2); None if the answer is anything but six waypoints.

    Blanks and line breaks around them are allowed. A number has at most two decimals, and neither a sign + nor an exponent.
    """
    if not _FORM.fullmatch(text):
        return None
    return np.array([[float(x), float(y)] for x, y in _WAYPOINT.findall(text)]) + 0.0
