"""The rules that a drive is checked against: collisions, red lights, and the area in which one may drive. Pure functions.

Frame and units are those of `senna.drive.simulator`; the town is that of `senna.synthetic.world.town`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from senna.drive.simulator import EgoState
from senna.synthetic.world.town import (
    DIRECTIONS,
    KERB_RADIUS,
    NODES,
    ROAD_HALF_WIDTH,
    STOP_LINE_DISTANCE,
    Signals,
    node_at,
)

STANDING = 0.5  # m/s: a vehicle that is slower is not at fault where others hit it
_NODES = np.array([node_at(node) for node in NODES])  # (4, 2)
_LINES = np.unique(_NODES)  # coordinates of the centre lines of the roads


def corners(x: float, y: float, yaw: float, length: float, width: float) -> NDArray[np.float64]:
    """Return the corners (4, 2) of a box on the ground, in order around it."""
    forward, left = np.array([math.cos(yaw), math.sin(yaw)]), np.array([-math.sin(yaw), math.cos(yaw)])
    signs = ((1, 1), (-1, 1), (-1, -1), (1, -1))
    return np.array([[x, y] + a * length / 2 * forward + b * width / 2 * left for a, b in signs])


def overlap(first: ArrayLike, second: ArrayLike) -> bool:
    """Return whether two rectangles, the corners (4, 2) of each, overlap (separating axis theorem). Touching is no overlap."""
    boxes = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    for box in boxes:
        for edge in (box[1] - box[0], box[2] - box[1]):
            axis = np.array([-edge[1], edge[0]])
            one, other = (points @ axis for points in boxes)
            if one.max() <= other.min() or other.max() <= one.min():
                return False
    return True


def is_at_fault(ego: EgoState, other: tuple[float, float], length: float) -> bool:
    """Return whether the ego vehicle caused a collision: it moved, and the centre of the other is not behind its rear end.

    Args:
        length: of the ego vehicle, in metres.
    """
    ahead = (other[0] - ego.x) * math.cos(ego.yaw) + (other[1] - ego.y) * math.sin(ego.yaw)
    return bool(ego.speed >= STANDING and ahead > -length / 2)


def passes_red_light(before: EgoState, after: EgoState, length: float, signals: Signals, time: float) -> bool:
    """Return whether the front of the ego vehicle crosses a stop line, in the direction of its lanes, while its light is red.

    Args:
        before, after: the ego vehicle at the beginning and at the end of a tick.
        length: of the ego vehicle, in metres.
        time: the end of the tick, in seconds.
    """
    heading = round(after.yaw / (math.pi / 2)) % 4
    forward, right = DIRECTIONS[heading], DIRECTIONS[heading - 1]
    fronts = [
        np.array([ego.x + length / 2 * math.cos(ego.yaw), ego.y + length / 2 * math.sin(ego.yaw)])
        for ego in (before, after)
    ]
    for node in NODES:
        line = node_at(node) - STOP_LINE_DISTANCE * forward
        behind, beyond = ((front - line) @ forward for front in fronts)
        is_on_lanes = 0 < (fronts[1] - line) @ right < ROAD_HALF_WIDTH
        if behind < 0 <= beyond and is_on_lanes:
            return signals.state(node, heading, time) == "red"
    return False


def is_drivable(points: ArrayLike) -> NDArray[np.bool_]:
    """Return for points (N, 2) whether they are on asphalt: a road, or a rounded corner of an intersection: (N,)."""
    points = np.asarray(points, dtype=float)
    from_lines = np.abs(points[:, :, None] - _LINES).min(axis=2)  # (N, 2)
    is_on_road = (from_lines < ROAD_HALF_WIDTH).any(axis=1)
    offsets = np.abs(points[:, None] - _NODES) - (ROAD_HALF_WIDTH + KERB_RADIUS)  # (N, 4, 2), from the arcs' centres
    is_in_corner = (offsets < 0).all(axis=2) & (np.hypot(offsets[..., 0], offsets[..., 1]) > KERB_RADIUS)
    return is_on_road | is_in_corner.any(axis=1)
