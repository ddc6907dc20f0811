"""The initial states of a scenario: where the ego vehicle starts and which vehicles and signals make its maneuver happen.

Frame and units are those of `senna.synthetic.world.town`. All randomness comes from the given generator, and the order of
its calls determines what a seed gives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from senna.synthetic.render.scene import BODY_COLOURS
from senna.synthetic.world.sensors import EGO_SIZE
from senna.synthetic.world.town import (
    DIRECTIONS,
    EXTENT,
    LANE_OFFSETS,
    NODES,
    PERIOD,
    Route,
    Signals,
    make_route,
    node_at,
)
from senna.synthetic.world.traffic import Driver, Mover

VEHICLES = (
    "car",
    "car",
    "car",
    "car",
    "van",
    "van",
    "truck",
    "bus",
    "motorcycle",
)  # drawn evenly: four ninths are cars
SLOW_VEHICLES = ("truck", "bus", "van", "motorcycle")


@dataclass
class InitialState:
    """The part of a scenario that its maneuver determines. Other traffic is added later.

    Attributes:
        drivers: the ego vehicle, then the vehicles that the maneuver needs.
        node, heading: the intersection ahead of the ego vehicle, and the ego vehicle's heading.
        speed_limit: m/s.
        clearance: metres around the ego's route ahead in which no other vehicle starts. It is larger where the
            neighbouring lane must be free too.
    """

    drivers: list[Driver]
    signals: Signals
    node: tuple[int, int]
    heading: int
    speed_limit: float
    clearance: float = 3.4


def random_vehicle(rng: np.random.Generator, kinds: tuple[str, ...] = VEHICLES) -> Mover:
    """Return a vehicle of a random kind and colour."""
    return Mover(kinds[rng.integers(len(kinds))], str(rng.choice(list(BODY_COLOURS))))


def _intersection(
    rng: np.random.Generator, turns: tuple[str, ...], offset: float, before: float
) -> tuple[tuple[int, int], int, Route]:
    """Return a random intersection, a heading, and the ego's route through it, which is long enough for a scene."""
    while True:
        node, heading = NODES[rng.integers(4)], int(rng.integers(4))
        start = node_at(node) - before * DIRECTIONS[heading]
        if not ((start > 5) & (start < EXTENT - 5)).all():
            continue
        route = make_route(node, heading, before, offset, turns)
        if route.length > 330:
            return node, heading, route


def _random_signals(rng: np.random.Generator, node: tuple[int, int], heading: int, green_at: float) -> Signals:
    """Return random signals, except that one light turns green at a given time.

    In half of the cases pedestrians cross just before that light turns green.
    """
    first_headings = tuple(int(first) for first in rng.integers(4, size=4))
    offsets = tuple(float(offset) for offset in rng.uniform(0, PERIOD, 4))
    index = NODES.index(node)
    if rng.random() < 0.5:
        first_headings = (*first_headings[:index], heading, *first_headings[index + 1 :])
    offset = Signals(offsets, first_headings).offset_for(node, heading, green_at)
    return Signals((*offsets[:index], offset, *offsets[index + 1 :]), first_headings)


def _ego(route: Route, along: float, speed: float, desired: float, overtakes: bool = False) -> Driver:
    return Driver(Mover("ego"), route, along, speed, desired, overtakes)


def _at_light(
    rng: np.random.Generator, green_at: float, before: float, queue: int = 0, standing: bool = False
) -> InitialState:
    """Return an ego that approaches a traffic light, or stands at it, behind `queue` other vehicles."""
    limit = float(rng.uniform(10, 15))
    offset = LANE_OFFSETS[rng.integers(2)]
    node, heading, route = _intersection(rng, (), offset, before)
    signals = _random_signals(rng, node, heading, green_at)
    others, nose = [], route.stops[0].along - 0.8
    for _ in range(queue):
        mover = random_vehicle(rng)
        centre = nose - mover.size[0] / 2
        others.append(Driver(mover, route, centre, 0.0, limit * float(rng.uniform(0.85, 1))))
        nose = centre - mover.size[0] / 2 - float(rng.uniform(2.5, 3.2))
    along = nose - EGO_SIZE[0] / 2 if standing else 0.0
    ego = _ego(route, along, 0.0 if standing else limit, limit)
    return InitialState([ego, *others], signals, node, heading, limit)


def _wait(rng: np.random.Generator) -> InitialState:
    return _at_light(rng, float(rng.uniform(9.5, 13)), float(rng.uniform(75, 125)))


def _queue(rng: np.random.Generator) -> InitialState:
    return _at_light(rng, float(rng.uniform(9, 12)), float(rng.uniform(95, 130)), queue=int(rng.integers(1, 3)))


def _depart(rng: np.random.Generator) -> InitialState:
    return _at_light(rng, float(rng.uniform(3, 7)), float(rng.uniform(45, 60)), int(rng.integers(2)), standing=True)


def _go(rng: np.random.Generator) -> InitialState:
    """Return an ego that accelerates from a low speed through a traffic light that is green all the time."""
    state = _at_light(rng, float(rng.uniform(-1, 1)), float(rng.uniform(50, 75)))
    state.drivers[0].speed *= float(rng.uniform(0.1, 0.3))
    return state


def _turn(rng: np.random.Generator, side: str) -> InitialState:
    """Return an ego that turns at a traffic light, which is red at first in half of the cases."""
    limit, before = float(rng.uniform(9, 13)), float(rng.uniform(70, 110))
    node, heading, route = _intersection(rng, (side,), LANE_OFFSETS[side == "right"], before)
    green_at = float(rng.uniform(8, 10) if rng.random() < 0.5 else before / limit - rng.uniform(4, 6))
    ego = _ego(route, 0.0, limit, limit)
    return InitialState([ego], _random_signals(rng, node, heading, green_at), node, heading, limit)


def _overtake(rng: np.random.Generator) -> InitialState:
    """Return a fast ego behind a single slow vehicle. The traffic light ahead is green when the ego arrives."""
    limit, before = float(rng.uniform(17.8, 18.6)), float(rng.uniform(235, 250))
    node, heading, route = _intersection(rng, (), LANE_OFFSETS[1], before)
    signals = _random_signals(rng, node, heading, (before - 60) / limit - float(rng.uniform(0, 3)))
    slow = float(rng.uniform(6.5, 8.5))
    ahead = Driver(random_vehicle(rng, SLOW_VEHICLES), route, float(rng.uniform(75, 95)), slow, slow)
    return InitialState([_ego(route, 2.0, limit, limit, overtakes=True), ahead], signals, node, heading, limit, 6.5)


def _follow(rng: np.random.Generator) -> InitialState:
    """Return an ego behind two slow vehicles that drive side by side towards a red light."""
    limit, before = float(rng.uniform(13, 17)), float(rng.uniform(150, 190))
    node, heading, route = _intersection(rng, (), LANE_OFFSETS[rng.integers(2)], before)
    signals = _random_signals(rng, node, heading, float(rng.uniform(19, 30)))
    slow, along = float(rng.uniform(4.5, 7)), float(rng.uniform(60, 85))
    others = []
    for offset in LANE_OFFSETS:
        lane = make_route(node, heading, before, offset)
        others.append(Driver(random_vehicle(rng, SLOW_VEHICLES), lane, along + float(rng.uniform(-4, 4)), slow, slow))
    return InitialState([_ego(route, 0.0, limit, limit, overtakes=True), *others], signals, node, heading, limit, 6.5)


INITIAL_STATES: dict[str, Callable[[np.random.Generator], InitialState]] = {
    "wait": _wait,
    "queue": _queue,
    "depart": _depart,
    "go": _go,
    "left": lambda rng: _turn(rng, "left"),
    "right": lambda rng: _turn(rng, "right"),
    "overtake": _overtake,
    "follow": _follow,
}
"""Maneuver -> function that draws an initial state."""
