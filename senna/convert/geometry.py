"""Vectorized geometry of nuScenes poses. N counts poses; quaternions are (w, x, y, z), as in nuScenes."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def rotations(quaternions: ArrayLike) -> Array:
    """Return the (N, 3, 3) rotation matrices of (N, 4) quaternions, which need not have length 1."""
    q = np.asarray(quaternions, dtype=np.float64).reshape(-1, 4)
    w, x, y, z = (q / np.linalg.norm(q, axis=1, keepdims=True)).T
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return np.stack(rows, axis=1).reshape(-1, 3, 3)


def headings(quaternions: ArrayLike) -> Array:
    """Return the horizontal directions (N, 2), of length 1, of the x axis rotated by (N, 4) quaternions."""
    q = np.asarray(quaternions, dtype=np.float64).reshape(-1, 4)
    w, x, y, z = q.T
    ahead = np.stack([w * w + x * x - y * y - z * z, 2 * (x * y + w * z)], axis=1)
    return ahead / np.maximum(np.linalg.norm(ahead, axis=1, keepdims=True), 1e-12)


def into_frames(points: Array, origins: Array, to_global: Array) -> Array:
    """Transform global points into local coordinate systems.

    Args:
        points: (N, T, 3) global points.
        origins: (N, 3) origins of the local coordinate systems.
        to_global: (N, 3, 3) rotations from local to global.

    Returns:
        (N, T, 2) local x and y.
    """
    return np.matmul(points - origins[:, None], to_global[:, :, :2])


def into_own_frames(points: Array, origins: Array, directions: Array) -> Array:
    """Transform points in the plane into the coordinate systems of objects: x right, y forward.

    Args:
        points: (N, T, 2) global points.
        origins: (N, 2) positions of the objects.
        directions: (N, 2) headings of the objects, of length 1.

    Returns:
        (N, T, 2) local x and y.
    """
    offsets = points - origins[:, None]  # (N, T, 2)
    c, s = directions[:, None, 0], directions[:, None, 1]
    return np.stack([s * offsets[..., 0] - c * offsets[..., 1], c * offsets[..., 0] + s * offsets[..., 1]], axis=-1)
