"""The text of a trajectory: six waypoints, one for each half second of the next 3 s, in the ego frame of the record.

``0.01,2.51 0.02,5.02 0.04,7.55 ...``: x to the right and y forward, in metres. With Llama's tokenizer this is 10 tokens a
waypoint, and 12 with brackets and blanks around the numbers. Two decimals keep every meta-action of nuScenes' trajectories,
which one decimal does not, and the step speeds to 0.02 m/s; they cost 12 of about 1,000 tokens of a sample.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from senna.errors import DataError
from senna.meta_actions import FUTURE_STEPS, label_trajectory

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


def follows_plan(text: str, plan: str) -> bool:
    """Return whether an answer is a trajectory for which the rule that labels recorded ones gives ``plan``."""
    xy = parse_trajectory(text)
    return xy is not None and str(label_trajectory(xy)) == plan


def with_plan(record: Mapping[str, Any], plan: str) -> dict[str, Any]:
    """Return the record of a trajectory whose question states another plan, with that plan in its field ``plan``.

    Raises:
        DataError: ``plan_at`` is missing, or the question has no ``plan`` there. The error does not name the record.
    """
    stated, places = record.get("plan"), record.get("plan_at")
    turns = [dict(turn) for turn in record["conversations"]]
    text = turns[0]["value"]
    if not isinstance(stated, str) or not isinstance(places, list) or not _stands_at(text, stated, places):
        raise DataError(
            f"has no 'plan' in its question at 'plan_at' {places!r:.40}, so that the predicted plan cannot be stated there",
            remedy="convert the data again, and do not change the questions of trajectories afterwards",
        )
    for place in sorted(places, reverse=True):
        text = text[:place] + plan + text[place + len(stated) :]
    shift = len(plan) - len(stated)
    turns[0]["value"] = text
    moved = [place + number * shift for number, place in enumerate(sorted(places))]
    return {**record, "conversations": turns, "plan": plan, "plan_at": moved}


def _stands_at(text: str, plan: str, places: list[Any]) -> bool:
    return bool(places) and all(
        isinstance(place, int) and place >= 0 and text.startswith(plan, place) for place in places
    )
