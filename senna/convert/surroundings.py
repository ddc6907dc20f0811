"""Compute the futures of a scene's key frames (``senna.futures``), in the coordinate system of each frame.

Letters: S key frames of a scene, A annotations, I instances, K road users around a frame.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from senna.convert.geometry import Array
from senna.futures import PAST_STEPS, Futures
from senna.meta_actions import FUTURE_STEPS


class RoadUsers(NamedTuple):
    """The annotations of a scene's road users."""

    names: list[str]  # A words
    sample: NDArray[np.int64]  # (A,) index of the key frame
    instance: NDArray[np.int64]  # (A,) number of the object
    positions: Array  # (A, 3) global
    directions: Array  # (A, 2) global, of length 1
    sizes: Array  # (A, 2) length and width


def futures_of_scene(tokens: Sequence[str], origins: Array, to_global: Array, users: RoadUsers) -> list[Futures]:
    """Return the futures of S key frames.

    A road user counts at a step where it is annotated in that key frame, with or without lidar points: a hidden one is in the
    way too.

    Args:
        origins: (S, 3) of the lidar, global.
        to_global: (S, 3, 3) rotations from lidar to global.
    """
    rows = np.full((int(users.instance.max(initial=-1)) + 1, len(tokens) + FUTURE_STEPS), -1)
    rows[users.instance, users.sample] = np.arange(len(users.instance))
    found = []
    for step, token in enumerate(tokens):
        later = rows[:, step + 1 : step + 1 + FUTURE_STEPS]
        later = later[(later >= 0).any(axis=1)]  # (K, 6)
        positions, directions = users.positions[later], np.pad(users.directions[later], ((0, 0), (0, 0), (0, 1)))
        poses = _poses_in(origins[step], to_global[step], positions, directions)
        poses[later < 0] = np.nan
        first = later[np.arange(len(later)), (later >= 0).argmax(axis=1)]  # (K,)
        ego = np.full((FUTURE_STEPS, 3), np.nan)
        ahead = slice(step + 1, step + 1 + FUTURE_STEPS)
        driven = _poses_in(origins[step], to_global[step], origins[ahead], to_global[ahead, :, 1])
        ego[: len(driven)] = driven
        behind = slice(max(step - PAST_STEPS, 0), step)
        past = _poses_in(origins[step], to_global[step], origins[behind], to_global[behind, :, 1])[::-1]
        names = tuple(str(users.names[index]) for index in first.tolist())
        found.append(Futures(token, ego, past, names, users.sizes[first], poses))
    return found


def _poses_in(origin: Array, to_global: Array, positions: Array, directions: Array) -> Array:
    """Return (..., 3), x, y and heading in a frame, from global positions and directions, (..., 3) each."""
    local, ahead = (positions - origin) @ to_global[:, :2], directions @ to_global[:, :2]
    return np.concatenate([local, np.degrees(np.arctan2(-ahead[..., :1], ahead[..., 1:]))], axis=-1)
