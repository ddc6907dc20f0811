"""Front views of the driving world in scenarios that are never written to a data set, and the facts of their captions."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from senna.synthetic.render.scene import SKIES, VEHICLE_KINDS
from senna.synthetic.tiny.captions import Facts, SeenVehicle
from senna.synthetic.tiny.layout import layout_of
from senna.synthetic.tiny.road_scenes import MAX_NEAR_GAP
from senna.synthetic.tiny.scene_labels import distance_to_stop_line, next_vehicle, scene_labels
from senna.synthetic.world.scenarios import Scenario
from senna.synthetic.world.snapshot import ego_pose, light_ahead
from senna.synthetic.world.town import GREEN, LANE_WIDTH, NODES, PERIOD, YELLOW, Signals
from senna.synthetic.world.traffic import TICK, Tracks

SECONDS = 20.0
LANES = {"left": LANE_WIDTH, "middle": 0.0, "right": -LANE_WIDTH}  # metres to the left of the ego
NEAREST_BESIDE = 7.0  # metres: a vehicle in another lane that is nearer is not, or only in part, in the front view
FARTHEST = 35.0
FARTHEST_LIGHT, NO_LIGHT = 50.0, 120.0  # metres to the stop line; in between, lamps are seen but hardly their colour
MOST_VEHICLES = 2  # of a caption, as in road images


def choose_tick(rng: np.random.Generator, scenario: Scenario) -> int:
    """Return a random tick; those near a stop line are more frequent."""
    ticks = rng.integers(0, len(scenario.tracks.states), 2).tolist()
    return min(ticks, key=lambda tick: distance_to_stop_line(*ego_pose(scenario, tick)))


def vary(rng: np.random.Generator, scenario: Scenario, tick: int, exponent: float = 2.0) -> Scenario:
    """Return the scenario with another sky, other signals and, half of the time, one vehicle moved in front of the ego.

    Its gap is 7 to 67 m; with an exponent above 1, short gaps are more frequent.

    Unchanged scenarios rarely show some of the classes. The signals are set so that red and green are equally frequent at
    this tick, and yellow occurs too.
    """
    heading = round(ego_pose(scenario, tick)[2] / (math.pi / 2)) % 4
    spans = ((0, GREEN), (GREEN, GREEN + YELLOW), (GREEN + YELLOW, PERIOD))
    chosen = rng.choice(3, len(NODES), p=(0.45, 0.1, 0.45))
    offsets = tuple(float(rng.uniform(*spans[span]) - tick * TICK) for span in chosen)
    states = scenario.tracks.states.copy()
    vehicles = [index for index, mover in enumerate(scenario.tracks.movers) if mover.kind in VEHICLE_KINDS]
    if vehicles and rng.random() < 0.5:
        x, y, yaw = states[tick, 0, :3]
        gap, left = 60 * rng.random() ** exponent + 7, LANE_WIDTH * rng.choice((-1, 0, 1), p=(0.2, 0.6, 0.2))
        position = x + gap * math.cos(yaw) - left * math.sin(yaw), y + gap * math.sin(yaw) + left * math.cos(yaw)
        acceleration = -2.0 if rng.random() < 0.5 else 0.0
        states[tick, vehicles[rng.integers(len(vehicles))]] = (*position, yaw, 5.0, acceleration)
    return replace(
        scenario,
        signals=Signals(offsets, (heading,) * len(NODES)),
        sky=SKIES[rng.integers(len(SKIES))],
        tracks=Tracks(scenario.tracks.movers, states),
    )


def town_facts(scenario: Scenario, tick: int) -> Facts:
    """Return the facts of the front view. It has no caption with a bicycle or a pedestrian among the next road users."""
    vehicles = []
    for lane, left in LANES.items():
        gap, _, index = next_vehicle(scenario, tick, left)
        if gap < FARTHEST and (lane == "middle" or gap > NEAREST_BESIDE):
            mover = scenario.tracks.movers[index]
            word = "near" if gap < MAX_NEAR_GAP else "far"
            vehicles.append((gap, SeenVehicle(lane, word, mover.colour, mover.kind)))
    light, distance = light_ahead(scenario, tick), distance_to_stop_line(*ego_pose(scenario, tick))
    is_distant = distance < NO_LIGHT if light == "none" else distance > FARTHEST_LIGHT
    farthest = max(sorted(gap for gap, _ in vehicles)[:MOST_VEHICLES], default=0.0)
    seen = tuple(vehicle for gap, vehicle in vehicles if gap <= farthest)
    if any(vehicle.kind not in VEHICLE_KINDS for _, vehicle in vehicles):
        seen = ()
    return Facts(scenario.sky, None if is_distant else light, seen, layout_of(scene_labels(scenario, tick)))
