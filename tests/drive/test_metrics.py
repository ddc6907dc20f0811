"""Figures of hand-made traces, and the summary of several drivers."""

import math

import pytest

from senna.drive.loop import Trace
from senna.drive.metrics import figures, summarize
from senna.drive.simulator import COLLISION, RED_LIGHT, EgoState, Event


def trace(speeds, events=(), off_road=None, progress=1.0, decisions=("KEEP", "KEEP")) -> Trace:
    """Return a straight drive with a speed for every tick."""
    steps = [{"decision": decision, "expert": "KEEP"} for decision in decisions]
    states = [EgoState(0.0, 0.0, 0.0, speed) for speed in speeds]
    return Trace(states, steps, list(events), [0.0] * len(steps) if off_road is None else off_road, progress, "arrived")


STEADY = [8.0] * 11


@pytest.mark.parametrize(
    ("events", "off_road", "progress", "score"),
    [
        ((), [0.0, 0.0], 1.0, 1.0),
        ((), [0.0, 0.0], 0.4, 0.4),
        ((), [0.2, 0.0], 0.5, 0.45),
        ((Event(RED_LIGHT, 1.0, ""),), None, 1.0, 0.5),
        ((Event(RED_LIGHT, 1.0, ""), Event(RED_LIGHT, 9.0, "")), None, 1.0, 0.25),
        ((Event(COLLISION, 1.0, "car"),), None, 0.6, 0.3),
        ((Event(COLLISION, 1.0, "pedestrian"),), None, 0.6, 0.24),
        ((Event(COLLISION, 1.0, "bicycle"), Event(RED_LIGHT, 1.0, "")), None, 1.0, 0.2),
        ((Event(COLLISION, 1.0, "car", at_fault=False),), None, 0.6, 0.6),
    ],
)
def test_the_driving_score_is_completion_times_the_factors(events, off_road, progress, score):
    assert figures(trace(STEADY, events, off_road, progress))["score"] == pytest.approx(score)


def test_agreement_and_time_count_steps():
    found = figures(trace(STEADY, decisions=("KEEP", "STOP")))
    assert (found["agreement"], found["seconds"]) == (0.5, 1.0)


def test_braking_beyond_the_limit_makes_a_step_uncomfortable():
    braking = [8.0] * 6 + [8.0 - 0.5 * tick for tick in range(1, 6)]  # 5 m/s^2 in the second step
    found = figures(trace(braking))
    assert found["max braking"] == pytest.approx(5.0)
    assert found["max jerk"] == pytest.approx(10.0)  # from 0 to -5 m/s^2 in 0.5 s
    assert found["uncomfortable"] == 0.5
    gentle = figures(trace([8.0] * 6 + [8.0 - 0.2 * tick for tick in range(1, 6)]))
    assert (gentle["max braking"], gentle["uncomfortable"]) == (pytest.approx(2.0), 0.0)


def test_lateral_acceleration_is_speed_times_yaw_rate_also_across_the_direction_west():
    yaws = [math.pi - 0.25 + 0.05 * tick for tick in range(11)]
    states = [EgoState(0, 0, yaw if yaw <= math.pi else yaw - 2 * math.pi, 10.0) for yaw in yaws]
    found = figures(Trace(states, [{"decision": "KEEP", "expert": "KEEP"}] * 2, off_road=[0, 0], progress=1.0))
    assert found["max lateral"] == pytest.approx(5.0)
    assert found["uncomfortable"] == 1.0


def drives_of(scores) -> dict:
    found = figures(trace(STEADY))
    return {number: {"figures": {**found, "score": score}} for number, score in enumerate(scores)}


def test_the_lead_of_the_first_driver_is_paired_by_scenario():
    scores = [0.2, 0.9, 0.4, 0.7]
    summary = summarize({"model": drives_of(scores), "keep": drives_of([score - 0.1 for score in scores])})
    lead = summary["leads"]["keep"]
    assert (lead["low"], lead["value"], lead["high"]) == pytest.approx((0.1, 0.1, 0.1))
    model = summary["drivers"]["model"]["score"]
    assert model["value"] == pytest.approx(0.55)
    assert model["low"] < 0.45 < 0.65 < model["high"]
