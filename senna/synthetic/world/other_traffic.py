"""Random traffic around the ego vehicle of a scenario: vehicles and cyclists on all lanes, and pedestrians."""

from __future__ import annotations

import math

import numpy as np

from senna.synthetic.world.maneuvers import InitialState, random_vehicle
from senna.synthetic.world.town import (
    CYCLE_OFFSET,
    DIRECTIONS,
    FOOT_OFFSET,
    LANE_OFFSETS,
    MARGIN,
    NODES,
    ROAD_HALF_WIDTH,
    STOP_LINE_DISTANCE,
    WALK,
    ZEBRA,
    make_route,
    node_at,
)
from senna.synthetic.world.traffic import Driver, Mover, Walk


def add_drivers(state: InitialState, rng: np.random.Generator) -> None:
    """Add vehicles and cyclists on all lanes, at positions where they do not disturb the maneuver or each other."""
    for driver in state.drivers:
        driver.update_position()
    ego, route = state.drivers[0], state.drivers[0].route
    ahead = route.points[int(ego.along) : int(ego.along) + 210]  # the maneuver determines the traffic here
    taken = [driver.position[:2] for driver in state.drivers]
    for _ in range(140):
        node, heading = NODES[rng.integers(4)], int(rng.integers(4))
        is_bicycle = rng.random() < 0.22
        offset = CYCLE_OFFSET if is_bicycle else LANE_OFFSETS[rng.integers(2)]
        before = float(rng.uniform(STOP_LINE_DISTANCE + 6, MARGIN - 6))
        turns = () if is_bicycle or rng.random() < 0.7 else (("left", "right")[offset > ROAD_HALF_WIDTH / 2],)
        lane = make_route(node, heading, before, offset, turns)
        mover = Mover("bicycle", tone=int(rng.integers(6))) if is_bicycle else random_vehicle(rng)
        desired = (
            float(rng.uniform(3.5, 6)) if is_bicycle else min(state.speed_limit, 14.0) * float(rng.uniform(0.8, 1.0))
        )
        driver = Driver(mover, lane, 0.0, desired * 0.8, desired)
        driver.update_position()
        position = np.array(driver.position[:2])
        is_far = np.abs(position - ego.position[:2]).max() > 260
        is_crowded = min(math.dist(position, other) for other in taken) < 17
        is_in_way = not is_bicycle and np.linalg.norm(ahead - position, axis=1).min() < state.clearance
        if is_far or is_crowded or is_in_way:
            continue
        if state.signals.state(node, heading, 0.0) != "green" and before < STOP_LINE_DISTANCE + 40:
            driver.speed = min(driver.speed, 3.0)
        taken.append(tuple(position))
        state.drivers.append(driver)


def make_walks(state: InitialState, rng: np.random.Generator, seconds: float) -> list[Walk]:
    """Return pedestrians on the pavements, and on the zebra crossings while all lights are red for vehicles."""
    walks = []
    for _ in range(26):
        heading, side = int(rng.integers(4)), (1, -1)[rng.integers(2)]
        along = float(rng.uniform(24, 120))
        centre = node_at(state.node) - along * DIRECTIONS[heading]
        start = centre + side * (FOOT_OFFSET + rng.uniform(-0.6, 0.6)) * DIRECTIONS[heading - 1]
        walks_forward = rng.random() < 0.5
        yaw = heading * math.pi / 2 + (0.0 if walks_forward else math.pi)
        room = along - STOP_LINE_DISTANCE if walks_forward else 130.0
        is_standing = rng.random() < 0.2
        speed = 0.0 if is_standing else float(rng.uniform(1.0, 1.7))
        distance = 0.0 if is_standing else room
        walks.append(Walk(_random_pedestrian(rng), tuple(map(float, start)), yaw, speed, -1.0, distance))
    for begins in state.signals.walk_starts(state.node, seconds):
        for _ in range(int(rng.integers(3, 7))):
            walks.append(_walk_over_zebra(rng, state.node, begins))
    return _without_collisions(walks, seconds)


def _without_collisions(walks: list[Walk], seconds: float) -> list[Walk]:
    """Return the walks that never come closer than 0.7 m to an earlier one in the list."""
    times = np.arange(0, seconds + 0.2, 0.2)
    kept: list[tuple[Walk, np.ndarray]] = []
    for walk in walks:
        track = np.array([walk.at(time)[:2] for time in times])
        if all(np.linalg.norm(track - other, axis=1).min() > 0.7 for _, other in kept):
            kept.append((walk, track))
    return [walk for walk, _ in kept]


def _random_pedestrian(rng: np.random.Generator) -> Mover:
    return Mover("pedestrian", tone=int(rng.integers(18)))


def _walk_over_zebra(rng: np.random.Generator, node: tuple[int, int], begins: float) -> Walk:
    """Return a walk from kerb to kerb over a random zebra of an intersection, fast enough to end before the next green."""
    heading, side = int(rng.integers(4)), (1, -1)[rng.integers(2)]
    distance = 2 * ROAD_HALF_WIDTH + 2 * 1.6
    along = -float(rng.uniform(ZEBRA[0] + 0.4, ZEBRA[1] - 0.4))
    right = side * DIRECTIONS[heading - 1]
    start = node_at(node) + along * DIRECTIONS[heading] - distance / 2 * right
    delay = float(rng.uniform(0.3, 1.5))
    speed = float(rng.uniform(distance / (WALK - 2.2), 2.0))
    yaw = math.atan2(right[1], right[0])
    return Walk(_random_pedestrian(rng), tuple(map(float, start)), yaw, speed, begins + delay, distance)
