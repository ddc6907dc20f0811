"""From a predicted trajectory to motion: pure pursuit (Coulter 1992, CMU-RI-TR-92-01) with a kinematic bicycle."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from senna.drive.simulator import TICK, TICKS, EgoState, Motion
from senna.meta_actions import STEP
from senna.synthetic.world.sensors import LIDAR, REAR_AXLE

LOOKAHEAD, SHORTEST, LONGEST = 0.8, 3.5, 12.0  # seconds, metres, metres: how far ahead the point is that is steered for
TIGHTEST = 5.0  # metres: the smallest radius of a turn, of the rear axle
BRAKING, ACCELERATING = -6.0, 3.0  # m/s^2
EMERGENCY = -3.0  # m/s^2, where there is no trajectory to follow


class TrajectoryFollower:
    """The ego vehicle, steered along predicted waypoints until the next prediction 0.5 s later."""

    def start(self, ego: EgoState) -> None:
        """Begin at a state of the ego vehicle."""
        self.yaw, self.speed = ego.yaw, ego.speed
        self.rear = np.array([ego.x, ego.y]) - REAR_AXLE * self._forward

    @property
    def _forward(self) -> NDArray[np.float64]:
        return np.array([math.cos(self.yaw), math.sin(self.yaw)])

    def __call__(self, trajectory: NDArray[np.float64] | None, steps: int = 1) -> Motion:
        """Return the motion of the next step, or of several.

        Args:
            trajectory: (6, 2) waypoints of the lidar in steps of 0.5 s, x to the right and y forward, as in records; None for
                an answer that is no trajectory: the vehicle then brakes in its direction.
            steps: 1 to 6 steps of 0.5 s; the result has ``TICKS`` states for each.
        """
        if trajectory is None:
            return Motion(tuple(self._tick(EMERGENCY, None) for _ in range(steps * TICKS)))
        forward = self._forward
        origin = self.rear + LIDAR.translation[0] * forward
        right = np.array([forward[1], -forward[0]])
        path = np.concatenate([origin[None], origin + trajectory @ np.stack([right, forward])])  # (7, 2)
        lengths = np.linalg.norm(np.diff(path, axis=0), axis=1)
        states: list[EgoState] = []
        for step in range(steps):
            wanted = float(lengths[step : step + 2].mean()) / STEP  # m/s at the end of this step
            acceleration = min(max((wanted - self.speed) / STEP, BRAKING), ACCELERATING)
            states += [self._tick(acceleration, path) for _ in range(TICKS)]
        return Motion(tuple(states))

    def _tick(self, acceleration: float, path: NDArray[np.float64] | None) -> EgoState:
        before = self.speed
        self.speed = max(0.0, before + acceleration * TICK)
        moved = (before + self.speed) / 2 * TICK
        bend = 0.0 if path is None else self._curvature(path)
        self.rear = self.rear + moved * self._forward
        self.yaw += moved * bend
        x, y = (self.rear + REAR_AXLE * self._forward).tolist()
        return EgoState(x, y, self.yaw, self.speed, (self.speed - before) / TICK)

    def _curvature(self, path: NDArray[np.float64]) -> float:
        """Return the curvature of the circle through the rear axle and the point on the path that is steered for."""
        reach = min(max(LOOKAHEAD * self.speed, SHORTEST), LONGEST)
        offset = _point_at(path, self.rear, reach) - self.rear
        left = offset[1] * math.cos(self.yaw) - offset[0] * math.sin(self.yaw)
        return min(max(2 * left / max(float(offset @ offset), 1.0), -1 / TIGHTEST), 1 / TIGHTEST)


def _point_at(path: NDArray[np.float64], centre: NDArray[np.float64], reach: float) -> NDArray[np.float64]:
    """Return the point of a path, (7, 2), at a distance from `centre`; beyond its end it goes straight on."""
    steps = np.diff(path, axis=0)
    lengths = np.linalg.norm(steps, axis=1)
    moving = np.flatnonzero(lengths > 0.05)
    last = steps[moving[-1]] / lengths[moving[-1]] if len(moving) else None
    if last is None:
        return path[0] + (path[0] - centre) / max(float(np.linalg.norm(path[0] - centre)), 1e-6) * reach
    points = np.concatenate([path, path[-1:] + 2 * LONGEST * last])
    fractions = np.linspace(0, 1, 20)[:, None]
    dense = np.concatenate([start + fractions * (end - start) for start, end in pairwise(points)])
    distances = np.linalg.norm(dense - centre, axis=1)
    nearest = int(distances.argmin())  # what lies before it has been passed
    far = np.flatnonzero(distances[nearest:] >= reach)
    return dense[nearest + far[0]] if len(far) else points[-1]
