"""Poses of nuScenes, many at once. N counts poses; quaternions are (w, x, y, z), as nuScenes has them."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def rotations(quaternions: ArrayLike) -> Array:
    """(N, 4) quaternions of any length but 0 -> (N, 3, 3) matrices that turn a column vector."""
    q = np.asarray(quaternions, dtype=np.float64).reshape(-1, 4)
    w, x, y, z = (q / np.linalg.norm(q, axis=1, keepdims=True)).T
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return np.stack(rows, axis=1).reshape(-1, 3, 3)


def headings(quaternions: ArrayLike) -> Array:
    """(N, 4) quaternions -> (N, 2) the horizontal direction that the turned x axis points in, of length 1."""
    q = np.asarray(quaternions, dtype=np.float64).reshape(-1, 4)
    w, x, y, z = q.T
    ahead = np.stack([w * w + x * x - y * y - z * z, 2 * (x * y + w * z)], axis=1)
    return ahead / np.maximum(np.linalg.norm(ahead, axis=1, keepdims=True), 1e-12)


def into_frames(points: Array, origins: Array, turns: Array) -> Array:
    """(N, T, 3) global points -> (N, T, 2) x and y in the frames at (N, 3) origins, (N, 3, 3) turns to global."""
    return np.matmul(points - origins[:, None], turns[:, :, :2])


def into_own_frames(points: Array, origins: Array, directions: Array) -> Array:
    """(N, T, 2) points in the plane -> x right and y forward of whoever is at (N, 2) origins, facing (N, 2) directions."""
    away = points - origins[:, None]  # (N, T, 2)
    c, s = directions[:, None, 0], directions[:, None, 1]
    return np.stack([s * away[..., 0] - c * away[..., 1], c * away[..., 0] + s * away[..., 1]], axis=-1)
