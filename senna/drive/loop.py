"""The loop: observe, choose, step, until the drive is over; and its trace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from senna.drive.drivers import Choice
from senna.drive.simulator import EgoState, Event, Observation
from senna.drive.town import Expert, TownSimulator


@dataclass
class Trace:
    """Everything that happened in a drive, in the form of the JSON file that is written.

    Attributes:
        states: the ego vehicle at the start and after each tick of 0.1 s.
        steps: for each step of 0.5 s: time, speed, command, decision, the expert's meta-action in the same state, and
            probabilities and trajectory if there are any.
        off_road: for each step, the share of its ticks off the road.
        progress: the share of the route that was driven.
        end: why the drive ended.
    """

    states: list[EgoState]
    steps: list[dict[str, Any]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    off_road: list[float] = field(default_factory=list)
    progress: float = 0.0
    end: str = ""


class Drives(Protocol):
    """A driver."""

    def start(self, observation: Observation) -> None:
        """Begin a drive."""
        ...

    def __call__(self, observation: Observation) -> Choice:
        """Choose the motion of the next step."""
        ...


Watch = Callable[[Observation, Choice, Expert, Trace], None]
"""Called before each step, for example to draw it."""


def drive(simulator: TownSimulator, scenario: int, driver: Drives, watch: Watch | None = None) -> Trace:
    """Drive a scenario to its end and return the trace."""
    observation = simulator.reset(scenario)
    trace = Trace([observation.ego])
    driver.start(observation)
    while not trace.end:
        choice, expert = driver(observation), simulator.expert()
        trace.steps.append(
            {
                "time": observation.time,
                "speed": round(observation.speed, 3),
                "command": observation.command,
                "decision": str(choice.decision),
                "expert": str(expert.decision),
                **({} if choice.trajectory is None else {"trajectory": choice.trajectory.round(3).tolist()}),
                **({"probabilities": [round(p, 6) for p in choice.probabilities]} if choice.probabilities else {}),
            }
        )
        if watch is not None:
            watch(observation, choice, expert, trace)
        result = simulator.step(choice.motion)
        trace.states += choice.motion.states
        trace.events += result.events
        trace.off_road.append(result.off_road)
        trace.progress, trace.end = result.progress, result.end or ""
        observation = simulator.observe()
    return trace
