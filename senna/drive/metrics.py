"""Figures of a drive, from its trace, and of several drives of a driver, with intervals over scenarios.

The driving score is in the spirit of CARLA's leaderboard (https://leaderboard.carla.org/): route completion times a factor
for each infraction. The factors are our own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from senna.drive.loop import Trace
from senna.drive.simulator import COLLISION, RED_LIGHT, TICK, TICKS, EgoState
from senna.evaluate.metrics.bootstrap import Interval, Scenes, mean_interval
from senna.meta_actions import STEP

VULNERABLE = ("pedestrian", "bicycle")
VULNERABLE_FACTOR, VEHICLE_FACTOR, RED_LIGHT_FACTOR = 0.4, 0.5, 0.5
"""The factors of the score for an infraction: a collision at fault with a pedestrian or cyclist, or with a vehicle; a red
light passed. The share of time off the road is subtracted from 1 and is a factor, too."""

LONGITUDINAL, LATERAL, JERK = (-4.05, 2.40), 4.89, 4.13
"""Comfort limits in m/s^2 and m/s^3: those of nuPlan's metrics (https://github.com/motional/nuplan-devkit)."""

MEANS = (
    "score", "completion", "collisions", "collisions not at fault", "red lights", "off road", "uncomfortable", "seconds",
    "agreement",
)  # fmt: skip
"""The figures of a drive whose mean and interval is reported."""


def figures(trace: Trace) -> dict[str, float]:
    """Return the figures of a drive.

    Returns:
        ``score`` and ``completion`` (0 to 1), counts of ``collisions`` at fault, ``collisions not at fault`` and ``red
        lights``, the shares of time ``off road`` and ``uncomfortable``, ``max acceleration``, ``max braking``, ``max lateral``
        (m/s^2), ``max jerk`` (m/s^3), ``seconds``, and ``agreement``: the share of decisions that are the expert's in the same
        state.
    """
    collisions = [event for event in trace.events if event.kind == COLLISION]
    faults = [event for event in collisions if event.at_fault]
    red_lights = sum(event.kind == RED_LIGHT for event in trace.events)
    off_road = float(np.mean(trace.off_road)) if trace.off_road else 0.0
    factor = math.prod(VULNERABLE_FACTOR if event.what in VULNERABLE else VEHICLE_FACTOR for event in faults)
    factor *= RED_LIGHT_FACTOR**red_lights * (1 - off_road)
    agreement = [step["decision"] == step["expert"] for step in trace.steps]
    return {
        "score": trace.progress * factor,
        "completion": trace.progress,
        "collisions": len(faults),
        "collisions not at fault": len(collisions) - len(faults),
        "red lights": red_lights,
        "off road": off_road,
        **comfort(trace.states),
        "seconds": len(trace.steps) * STEP,
        "agreement": float(np.mean(agreement)) if agreement else 0.0,
    }


def comfort(states: Sequence[EgoState]) -> dict[str, float]:
    """Return the figures of comfort of states every 0.1 s.

    The longitudinal acceleration is that of each tick; the lateral one is speed times yaw rate; the jerk is the change of the
    mean acceleration from one step of 0.5 s to the next, because the drivers of the town change theirs abruptly. A step is
    uncomfortable if one of the three exceeds its limit.
    """
    rows: NDArray[np.float64] = np.array(states, dtype=float)  # (T, 5)
    names = ("max acceleration", "max braking", "max lateral", "max jerk", "uncomfortable")
    if len(rows) <= TICKS:
        return dict.fromkeys(names, 0.0)
    forward = np.diff(rows[:, 3]) / TICK  # (T - 1,)
    turned = (np.diff(rows[:, 2]) + math.pi) % (2 * math.pi) - math.pi
    lateral = np.abs(rows[1:, 3] * turned / TICK)
    means = np.diff(rows[::TICKS, 3]) / STEP  # (S,) of whole steps
    jerk = np.abs(np.diff(means, prepend=means[:1])) / STEP
    steps = len(means)
    by_step = [values[: steps * TICKS].reshape(steps, TICKS) for values in (forward, lateral)]
    bad = (by_step[0] < LONGITUDINAL[0]).any(1) | (by_step[0] > LONGITUDINAL[1]).any(1)
    bad |= (by_step[1] > LATERAL).any(1) | (jerk > JERK)
    worst = (forward.max(), -forward.min(), lateral.max(), jerk.max())
    return dict(zip(names, [*(max(float(value), 0.0) + 0.0 for value in worst), float(bad.mean())], strict=True))


def summarize(drives: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> dict[str, Any]:
    """Return the figures of drivers.

    Args:
        drives: driver -> scenario -> the content of the drive's file; every driver has the same scenarios.

    Returns:
        ``drivers``: driver -> figure -> interval of the mean over scenarios, and the largest acceleration, braking, lateral
        acceleration and jerk; ``leads``: driver -> interval of the score of the first driver minus that of this one, paired by
        scenario.
    """
    numbers = sorted(next(iter(drives.values())))
    scenes = Scenes([f"{number:04d}" for number in numbers])
    columns: dict[str, dict[str, NDArray[np.float64]]] = {}
    for driver, found in drives.items():
        rows = [found[number]["figures"] for number in numbers]
        columns[driver] = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    first = next(iter(columns))
    result: dict[str, Any] = {"scenarios": len(numbers), "drivers": {}, "leads": {}}
    for driver, values in columns.items():
        means: dict[str, Interval | float] = {name: mean_interval(scenes, values[name]) for name in MEANS}
        largest = {name: float(column.max()) for name, column in values.items() if name.startswith("max")}
        result["drivers"][driver] = means | largest
        if driver != first:
            result["leads"][driver] = mean_interval(scenes, columns[first]["score"] - values["score"])
    return result
