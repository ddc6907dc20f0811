"""Collisions of a trajectory with the annotated boxes of other road users, by the separating axis theorem.

The ego vehicle is the box of nuScenes' planning papers (ST-P3, UniAD, VAD): 4.084 x 1.85 m, its centre 0.5 m ahead of the
lidar, the origin of the ego frame. Unlike there, it is turned into the direction of motion. Letters: N trajectories, K road
users, T = 6 steps. Headings are in degrees, counterclockwise from straight ahead (y).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from senna.futures import Futures
from senna.meta_actions import FUTURE_STEPS

EGO_SIZE = (4.084, 1.85)
"""Length and width of the ego vehicle in metres."""

CENTRE_AHEAD = 0.5
"""Metres from the lidar to the centre of the ego vehicle's box."""

_STANDING = 0.25  # metres; a shorter step has no direction, and the heading stays

Array = NDArray[np.float64]


def boxes_overlap(
    centres_a: Array, headings_a: Array, sizes_a: Array, centres_b: Array, headings_b: Array, sizes_b: Array
) -> NDArray[np.bool_]:
    """Return whether pairs of oriented boxes overlap; touching counts. NaN overlaps nothing.

    Two convex shapes are apart if and only if their projections on a normal of one of their sides are (separating axis
    theorem); a box has two such normals.

    Args:
        centres_a, centres_b: (..., 2) metres.
        headings_a, headings_b: (...,) degrees.
        sizes_a, sizes_b: (..., 2) length and width.
    """
    axes_a, axes_b = _axes(headings_a), _axes(headings_b)  # (..., 2 axes, 2)
    offset = np.asarray(centres_b) - np.asarray(centres_a)
    overlap = np.ones(np.broadcast_shapes(offset.shape[:-1], np.shape(headings_a), np.shape(headings_b)), dtype=bool)
    for axis in (axes_a[..., 0, :], axes_a[..., 1, :], axes_b[..., 0, :], axes_b[..., 1, :]):
        distance = np.abs((offset * axis).sum(axis=-1))
        reach = _half_extent(axes_a, np.asarray(sizes_a), axis) + _half_extent(axes_b, np.asarray(sizes_b), axis)
        overlap &= distance <= reach  # False for NaN
    return overlap


def _axes(headings: Array) -> Array:
    """Return the unit vectors along the length and the width of boxes, (..., 2, 2)."""
    angle = np.radians(headings)
    along = np.stack([-np.sin(angle), np.cos(angle)], axis=-1)
    across = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    return np.stack([along, across], axis=-2)


def _half_extent(axes: Array, sizes: Array, axis: Array) -> Array:
    """Return half the length of a box's projection on an axis."""
    return (np.abs((axes * axis[..., None, :]).sum(axis=-1)) * sizes / 2).sum(axis=-1)


def motion_headings(xy: Array) -> Array:
    """Return the headings (N, T) of trajectories (N, T, 2) that begin at the origin: the direction of each step.

    Where a step is shorter than 0.25 m, the vehicle keeps its heading; at first it is straight ahead.
    """
    steps = np.diff(xy, axis=1, prepend=0.0)  # (N, T, 2)
    found = np.degrees(np.arctan2(-steps[..., 0], steps[..., 1]))
    is_moving = np.hypot(steps[..., 0], steps[..., 1]) >= _STANDING
    headings, now = np.empty(found.shape), np.zeros(len(xy))
    for step in range(xy.shape[1]):
        now = np.where(is_moving[:, step], found[:, step], now)
        headings[:, step] = now
    return headings


def collisions(xy: Array, headings: Array, surroundings: Sequence[Futures | None]) -> Array:
    """Return at which steps the ego vehicle collides, (N, T): 1 or 0; NaN without futures or for an unknown position.

    Args:
        xy: (N, T, 2) positions of the lidar in the ego frame of each record.
        headings: (N, T).
        surroundings: the recorded futures of each frame.
    """
    angle = np.radians(headings)
    centres = xy + CENTRE_AHEAD * np.stack([-np.sin(angle), np.cos(angle)], axis=-1)
    hits = np.full((len(xy), FUTURE_STEPS), np.nan)
    for index, futures in enumerate(surroundings):
        if futures is None:
            continue
        others = futures.poses  # (K, T, 3)
        found = boxes_overlap(
            centres[index], headings[index], np.array(EGO_SIZE), others[..., :2], others[..., 2], futures.sizes[:, None]
        )  # (K, T)
        hits[index] = np.where(np.isfinite(centres[index]).all(axis=1), found.any(axis=0), np.nan)
    return hits
