"""Open-loop metrics of trajectories, ``trajectory`` of metrics.json, in both conventions of nuScenes' planning papers.

- ``at``: the value at 1, 2 and 3 s, as UniAD reports it. ``mean``: the mean of all steps up to that time, as ST-P3 and VAD do.
- L2: the distance from the recorded position, in metres. ADE is the mean of the six distances, FDE the last of them.
- Collisions: the share of trajectories whose box (``collisions``) overlaps that of another road user. A step at which the
  recorded drive itself overlaps one is not counted as a collision, as in these works; its frame stays in the denominator.
- Consistency: does the rule that labels recorded trajectories give the plan back that the question stated?

An answer that is no trajectory has no distance: it is left out there and counted in ``invalid``. It is never consistent.
Letters: N trajectories, T = 6 steps.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from senna.evaluate.metrics import trajectory_baselines as known
from senna.evaluate.metrics.bootstrap import Scenes, mean_interval
from senna.evaluate.metrics.collisions import collisions, motion_headings
from senna.evaluate.metrics.meta_actions import decide
from senna.evaluate.metrics.plan_prompt import situation_of
from senna.evaluate.predictions import RECORDED
from senna.futures import Futures
from senna.kinds import TRAJECTORY
from senna.meta_actions import FUTURE_STEPS, STEP, label_trajectories, parse_meta_action
from senna.trajectory import parse_trajectory

SECONDS = (1, 2, 3)
Row = Mapping[str, Any]
"""A prediction, or a training record {"truth", "question", "token", "command"?, "speed"?}."""

Array = NDArray[np.float64]


class Recorded(NamedTuple):
    """The recorded side of N trajectories."""

    xy: Array  # (N, 6, 2)
    states: known.EgoStates
    surroundings: list[Futures | None]


def recorded(rows: Sequence[Row], futures: Mapping[str, Futures]) -> tuple[list[Row], Recorded]:
    """Return the rows whose ground truth is a trajectory, and what is recorded of them."""
    pairs = [(row, xy) for row in rows if (xy := parse_trajectory(row["truth"])) is not None]
    usable = [row for row, _ in pairs]
    surroundings = [futures.get(row["token"]) for row in usable]
    situations = [situation_of(row, row["question"]) for row in usable]
    speeds = [row.get("speed", s.speed) for row, s in zip(usable, situations, strict=True)]  # also without a command
    states = known.ego_states(speeds, [s.command for s in situations], surroundings)
    xy = np.array([xy for _, xy in pairs]).reshape(len(pairs), FUTURE_STEPS, 2)
    return usable, Recorded(xy, states, surroundings)


def trajectory_metrics(
    predictions: Sequence[Row],
    futures: Mapping[str, Futures],
    blackout: Sequence[Row] | None = None,
    train: Sequence[Row] = (),
    train_futures: Mapping[str, Futures] | None = None,
    train_name: str = "the training records",
    decision: str = "",
) -> dict[str, Any] | None:
    """Return ``trajectory`` of metrics.json; None without a predicted trajectory whose ground truth can be read.

    Args:
        predictions: `senna.evaluate.predictions.Prediction` without ``error``.
        futures: token -> what is recorded around the frame; collisions need it.
        blackout: predictions of the same records with black images.
        train: the trajectories on which the ego status model is fitted; default: the evaluated ones.
        decision: the rule of the plans that the questions state, one of ``senna.decision.DECISIONS``; "" if not known.
    """
    answered = [row for row in predictions if row["kind"] == TRAJECTORY and "text" in row]
    rows, truth = recorded(answered, futures)
    if not rows:
        return None
    scenes = Scenes([row["scene"] for row in rows])
    fitted, on = recorded(train, train_futures or {})
    is_on_itself = not fitted
    on = truth if is_on_itself else on
    compared = {
        known.CONSTANT_VELOCITY: known.constant_velocity(truth.states),
        known.CONSTANT_TURN: known.constant_turn(truth.states),
        known.EGO_STATUS: known.EgoStatusModel(on.states, on.xy).predict(truth.states),
    }
    if blackout is not None:
        black = {row["index"]: row for row in blackout}
        compared["all images black"] = _parsed([black.get(row["index"], {}) for row in rows])
    scorer = _Scorer(truth, scenes)
    predicted = _parsed(rows)
    found = {name: scorer.score(xy) for name, xy in compared.items()}
    black_images = found.pop("all images black", None)
    own = "the evaluated records themselves (favours the baselines)"
    return {
        "records": len(rows),
        "scenes": scenes.count,
        "unreadable_truths": len(answered) - len(rows),
        "decision": decision,
        "recorded_plans": sum(row.get("plan_source") == RECORDED for row in rows),
        "without_futures": sum(futures is None for futures in truth.surroundings),
        "invalid": float(np.isnan(predicted).any(axis=(1, 2)).mean()),
        **scorer.score(predicted),
        "consistency": _consistency(rows, predicted, scenes),
        "drawn_again": float(np.mean([row.get("tries", 1) > 1 for row in rows])),
        "baselines": found,
        "baselines_fitted_on": own if is_on_itself else f"{train_name}, {len(fitted)} trajectories",
        "blackout": black_images,
        "recorded_collisions": scorer.recorded_collisions(),
        "gains": {name: scorer.gain(predicted, xy) for name, xy in compared.items()},
    }


def trajectory_gain(pairs: Sequence[tuple[Row, Row]], futures: Mapping[str, Futures]) -> dict[str, Any] | None:
    """Return l2, collisions, ade, fde and consistency of trajectories minus those of others, with intervals by scene.

    A record counts for a figure if both of its trajectories have that figure.

    Args:
        pairs: (other, mine) predictions of the same record with the same ground truth.
        futures: token -> what is recorded around the frame; collisions are None without them.

    Returns:
        None without a pair whose ground truth is a trajectory.
    """
    usable = [pair for pair in pairs if parse_trajectory(pair[0]["truth"]) is not None]
    if not usable:
        return None
    others, mine = [pair[0] for pair in usable], [pair[1] for pair in usable]
    _, truth = recorded(others, futures)
    scenes = Scenes([row["scene"] for row in others])
    scorer = _Scorer(truth, scenes)
    found = scorer.difference(_parsed(mine), _parsed(others))
    return {**found, "consistency": mean_interval(scenes, _consistent(mine) - _consistent(others))}


def _consistent(rows: Sequence[Row]) -> Array:
    """Return (N,): 1 where the label of a trajectory is the stated plan, 0 where it is not, NaN without a plan."""
    plans = [parse_meta_action(str(row.get("plan") or "")) for row in rows]
    labels = label_trajectories(_parsed(rows))
    return np.array(
        [np.nan if plan is None else plan == label for plan, label in zip(plans, labels, strict=True)], float
    )


def _parsed(rows: Sequence[Row]) -> Array:
    """Return the predicted trajectories, (N, 6, 2); NaN for an answer that is none."""
    nothing = np.full((FUTURE_STEPS, 2), np.nan)
    found = [parse_trajectory(row.get("text") or "") for row in rows]
    return np.array([nothing if xy is None else xy for xy in found]).reshape(len(rows), FUTURE_STEPS, 2)


def distances(xy: Array, truth: Array) -> Array:
    """Return the L2 distances (N, T) of two trajectories, (N, T, 2)."""
    return np.hypot(xy[..., 0] - truth[..., 0], xy[..., 1] - truth[..., 1])


class _Scorer:
    """Computes the figures of trajectories of the same records."""

    def __init__(self, truth: Recorded, scenes: Scenes) -> None:
        self._truth, self._scenes = truth, scenes
        headings = motion_headings(truth.xy)
        for row, futures in zip(headings, truth.surroundings, strict=True):
            if futures is not None and np.isfinite(futures.ego).all():
                row[:] = futures.ego[:, 2]
        self._own_hits = collisions(truth.xy, headings, truth.surroundings)

    def score(self, xy: Array) -> dict[str, Any]:
        """Return l2, collisions (None without futures), ade and fde of trajectories, (N, 6, 2)."""
        return self._figures(*self._values(xy))

    def difference(self, xy: Array, other: Array) -> dict[str, Any]:
        """Return the figures of `score` of ``xy`` minus those of ``other``, paired."""
        mine, theirs = self._values(xy), self._values(other)
        return self._figures(mine[0] - theirs[0], mine[1] - theirs[1])

    def _values(self, xy: Array) -> tuple[Array, Array]:
        """Return the distances and the collisions (N, T) of trajectories; NaN where they are not known."""
        hits = collisions(xy, motion_headings(xy), self._truth.surroundings)
        return distances(xy, self._truth.xy), np.where(self._own_hits == 1, np.where(np.isnan(hits), np.nan, 0.0), hits)

    def _figures(self, errors: Array, hits: Array) -> dict[str, Any]:
        return {
            "l2": self._by_time(errors),
            "collisions": None if np.isnan(hits).all() else self._by_time(hits),
            "ade": mean_interval(self._scenes, errors.mean(axis=1)),
            "fde": mean_interval(self._scenes, errors[:, -1]),
        }

    def gain(self, xy: Array, other: Array) -> dict[str, float | None]:
        """Return the L2 at 3 s of ``xy`` minus that of ``other``, paired, over the records where both are known."""
        last = distances(xy, self._truth.xy)[:, -1] - distances(other, self._truth.xy)[:, -1]
        return mean_interval(self._scenes, last)

    def recorded_collisions(self) -> float | None:
        """Return the share of the recorded trajectories that overlap a box at any step; None without futures."""
        known_rows = ~np.isnan(self._own_hits).any(axis=1)
        return float(self._own_hits[known_rows].any(axis=1).mean()) if known_rows.any() else None

    def _by_time(self, values: Array) -> dict[str, dict[str, Any]]:
        """Return the figures of values per step, (N, T), at 1, 2 and 3 s."""
        steps = {second: round(second / STEP) for second in SECONDS}
        at = {str(second): values[:, count - 1] for second, count in steps.items()}
        mean = {str(second): values[:, :count].mean(axis=1) for second, count in steps.items()}
        return {
            name: {second: mean_interval(self._scenes, column) for second, column in columns.items()}
            for name, columns in (("at", at), ("mean", mean))
        }


def _consistency(rows: Sequence[Row], predicted: Array, scenes: Scenes) -> dict[str, Any] | None:
    """Return the decisions D of the labels of predicted trajectories against the stated plans; None without plans."""
    plans = [parse_meta_action(str(row.get("plan") or "")) for row in rows]
    chosen = [index for index, plan in enumerate(plans) if plan is not None]
    if not chosen:
        return None
    labels = label_trajectories(predicted[chosen])
    stated = [plan for plan in plans if plan is not None]
    return decide(stated, labels, scenes.select(chosen)).as_json()
