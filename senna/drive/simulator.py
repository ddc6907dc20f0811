"""The interface between a driver and the world it drives in. Another simulator is attached by implementing `Simulator`.

World frame: metres, x east, y north, yaw in radians from east to north. The ego vehicle's position is that of its centre.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from PIL import Image

from senna.meta_actions import STEP

TICK = 0.1
"""Seconds between two states of a `Motion`."""

TICKS = round(STEP / TICK)
"""States of a `Motion`: the ends of the ticks of one step of 0.5 s."""

ARRIVED, COLLISION, OFF_ROUTE, TIME_UP = "arrived", "collision", "left the route", "time is up"
"""The reasons why a drive ends."""

RED_LIGHT = "red light"


class EgoState(NamedTuple):
    """The state of the ego vehicle: position, direction, speed in m/s and acceleration in m/s^2 along its direction."""

    x: float
    y: float
    yaw: float
    speed: float
    acceleration: float = 0.0


class Motion(NamedTuple):
    """The motion of the ego vehicle in the next step.

    A simulator may put the vehicle at these states, as the town does, or let a vehicle with physics track them.

    Attributes:
        states: the states at the ends of the next ``TICKS`` ticks.
    """

    states: tuple[EgoState, ...]


@dataclass(frozen=True)
class Observation:
    """Everything that a driver gets to know.

    Attributes:
        time: seconds since the start.
        ego: the state of the ego vehicle.
        command: the navigation command, one of ``senna.navigation.COMMANDS``.
        images: draws the images of the six cameras, view of ``senna.views.VIEWS`` -> RGB. It is a function, because drawing
            costs more than everything else and some drivers are blind. It must be called before the next step.
    """

    time: float
    ego: EgoState
    command: str
    images: Callable[[], Mapping[str, Image.Image]]

    @property
    def speed(self) -> float:
        """The speed of the ego vehicle in m/s."""
        return self.ego.speed


class Event(NamedTuple):
    """An infraction.

    Attributes:
        kind: COLLISION or RED_LIGHT.
        time: seconds since the start.
        what: the kind of the other road user, or the place.
        at_fault: False for a collision that the ego vehicle did not cause.
    """

    kind: str
    time: float
    what: str
    at_fault: bool = True


@dataclass(frozen=True)
class StepResult:
    """The result of a step.

    Attributes:
        events: the infractions of this step.
        off_road: the share of the step's ticks in which a corner of the ego vehicle was off the road.
        progress: the share of the route that has been driven, 0 to 1; it never falls.
        end: why the drive is over; None while it goes on.
    """

    events: tuple[Event, ...]
    off_road: float
    progress: float
    end: str | None


class Simulator(Protocol):
    """A world in steps of 0.5 s. The same scenario and the same motions give the same observations."""

    def reset(self, scenario: int) -> Observation:
        """Go to the start of a scenario and return what is observed there."""
        ...

    def observe(self) -> Observation:
        """Return what is observed now."""
        ...

    def step(self, motion: Motion) -> StepResult:
        """Move the ego vehicle and everybody else by 0.5 s."""
        ...
