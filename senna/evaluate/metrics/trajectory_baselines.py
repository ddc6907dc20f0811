"""Trajectories without images: constant velocity, constant velocity and yaw rate, and a linear model on the ego status.

In nuScenes' open loop, the ego status alone does about as well as planners with cameras (Li et al., "Is Ego Status All You
Need for Open-Loop End-to-End Autonomous Driving?", arXiv 2312.03031), so a model's figures say little without these.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from senna.futures import PAST_STEPS, Futures
from senna.meta_actions import FUTURE_STEPS, STEP
from senna.navigation import COMMANDS

CONSTANT_VELOCITY, CONSTANT_TURN, EGO_STATUS = (
    "constant velocity",
    "constant velocity and yaw rate",
    "ego status and navigation command",
)
_RIDGE = 1.0  # penalty of the squared weights of standardized features

Array = NDArray[np.float64]


class EgoStates(NamedTuple):
    """Facts about N ego vehicles at the time of the frame.

    Where the past is not known, it is that of a vehicle which has driven straight ahead at its present speed.
    """

    speeds: Array  # (N,) m/s; 0 where unknown
    commands: Array  # (N, 5) one-hot; zeros where unknown
    past: Array  # (N, 2, 3) poses 0.5 and 1 s ago: x, y, heading in degrees


def ego_states(
    speeds: Sequence[float | None], commands: Sequence[str | None], surroundings: Sequence[Futures | None]
) -> EgoStates:
    """Return the states of N ego vehicles from the fields of their records and from their futures."""
    known = np.array([0.0 if speed is None else speed for speed in speeds], dtype=np.float64)
    past = np.zeros((len(known), PAST_STEPS, 3))
    past[:, :, 1] = -known[:, None] * STEP * np.arange(1, PAST_STEPS + 1)
    for index, futures in enumerate(surroundings):
        if futures is not None and np.isfinite(futures.past).all():
            past[index, : len(futures.past)] = futures.past
            if len(futures.past) == 1:
                past[index, 1] = 2 * futures.past[0]
    one_hot = [[float(command == name) for name in COMMANDS] for command in commands]
    return EgoStates(known, np.array(one_hot).reshape(len(known), len(COMMANDS)), past)


def constant_velocity(states: EgoStates) -> Array:
    """Return (N, 6, 2): straight ahead at the present speed."""
    return constant_turn(states, np.zeros(len(states.speeds)))


def constant_turn(states: EgoStates, yaw_rates: Array | None = None) -> Array:
    """Return (N, 6, 2): at the present speed on a circle.

    Args:
        yaw_rates: (N,) radians per second, positive to the left; default: the turn of the last half second.
    """
    if yaw_rates is None:
        yaw_rates = -np.radians(states.past[:, 0, 2]) / STEP
    angle = yaw_rates[:, None] * STEP * np.arange(1, FUTURE_STEPS + 1)  # (N, 6)
    chord = states.speeds[:, None] * STEP * np.arange(1, FUTURE_STEPS + 1) * np.sinc(angle / 2 / np.pi)
    return np.stack([-chord * np.sin(angle / 2), chord * np.cos(angle / 2)], axis=-1)


class EgoStatusModel:
    """Ridge regression from the ego status and the navigation command to the six waypoints.

    Its features are the speed and its square, the two past poses, and the command, alone and times speed and yaw.
    """

    def __init__(self, states: EgoStates, xy: Array) -> None:
        """Fit the model on N >= 1 states and their recorded trajectories, (N, 6, 2)."""
        features = _features(states)
        self._mean, spread = features.mean(axis=0), features.std(axis=0)
        self._scale = np.where(spread > 1e-9, spread, np.inf)  # a constant feature says nothing
        self._offset = xy.reshape(len(xy), -1).mean(axis=0)
        x = (features - self._mean) / self._scale
        penalty = _RIDGE * np.eye(x.shape[1])
        self._weights = np.linalg.solve(x.T @ x + penalty, x.T @ (xy.reshape(len(xy), -1) - self._offset))

    def predict(self, states: EgoStates) -> Array:
        """Return (N, 6, 2)."""
        x = (_features(states) - self._mean) / self._scale
        return (x @ self._weights + self._offset).reshape(-1, FUTURE_STEPS, 2)


def _features(states: EgoStates) -> Array:
    """Return (N, F)."""
    speed, turn = states.speeds[:, None], states.past[:, :1, 2]
    single = [speed, speed**2, states.past.reshape(len(states.past), -1), states.commands]
    return np.concatenate([*single, states.commands * speed, states.commands * turn, speed * turn], axis=1)
