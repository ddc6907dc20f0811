"""Labels of the front view in the driving world: the traffic light, the stop line, gaps to vehicles and the ego's lane pose.

The labels contain only what the images show. They contain nothing about the ego's future, its command or its speed.
"""

from __future__ import annotations

import math

import numpy as np

from senna.synthetic.world.scenarios import Scenario
from senna.synthetic.world.sensors import EGO_SIZE, REAR_AXLE
from senna.synthetic.world.snapshot import BRAKING, STANDING, ego_pose, light_ahead
from senna.synthetic.world.town import DIRECTIONS, LANE_WIDTH, NODES, ROAD_HALF_WIDTH, STOP_LINE_DISTANCE, node_at
from senna.synthetic.world.traffic import Mover

LIGHTS = ("none", "red", "yellow", "green")
# Upper ends of bins in metres: from the ego's nose to the stop line, and to the back of the next vehicle ahead.
STOP_LINE_BINS = (1.5, 4.0, 8.0, 14.0, 21.0, 29.0, 38.0, 50.0, 65.0, 90.0)
GAP_BINS = (4.0, 8.0, 13.0, 19.0, 27.0, 37.0, 50.0, 70.0)
LANE_OFFSET_BINS = (-2.2, -1.2, -0.4, 0.4, 1.2, 2.2)  # metres to the left of the centre of the nearest lane
HEADING_BINS = (-45.0, -15.0, -4.0, 4.0, 15.0, 45.0)  # degrees to the left of the direction of the road
SCENE_LABELS = {  # number of classes for each label
    "light": len(LIGHTS),
    "stop line": len(STOP_LINE_BINS) + 1,
    "gap ahead": len(GAP_BINS) + 1,
    "gap in the lane to the left": len(GAP_BINS) + 1,
    "gap in the lane to the right": len(GAP_BINS) + 1,
    "brake lamps ahead": 3,  # no vehicle, lamps off, lamps on
    "lane": 2,  # left, right
    "lane offset": len(LANE_OFFSET_BINS) + 1,
    "heading": len(HEADING_BINS) + 1,
}


def scene_labels(scenario: Scenario, tick: int) -> list[int]:
    """Return the class of each of SCENE_LABELS, in that order."""
    x, y, yaw = ego_pose(scenario, tick)
    quarter = round(yaw / (math.pi / 2)) % 4
    heading = math.degrees(math.remainder(yaw - quarter * math.pi / 2, 2 * math.pi))
    # metres to the right of the centre line of the nearest road in the ego's direction
    aside = min((float((np.array([x, y]) - node_at(node)) @ DIRECTIONS[quarter - 1]) for node in NODES), key=abs)
    lane = int(aside > ROAD_HALF_WIDTH / 2)
    ahead, left, right = (next_vehicle(scenario, tick, side * LANE_WIDTH) for side in (0, 1, -1))
    return [
        LIGHTS.index(light_ahead(scenario, tick)),
        _bin(distance_to_stop_line(x, y, yaw), STOP_LINE_BINS),
        _bin(ahead[0], GAP_BINS),
        _bin(left[0], GAP_BINS),
        _bin(right[0], GAP_BINS),
        0 if math.isinf(ahead[0]) else 1 + ahead[1],
        lane,
        _bin((lane + 0.5) * LANE_WIDTH - aside, LANE_OFFSET_BINS),
        _bin(heading, HEADING_BINS),
    ]


def _bin(value: float, ends: tuple[float, ...]) -> int:
    return int(np.searchsorted(ends, value))


def distance_to_stop_line(x: float, y: float, yaw: float) -> float:
    """Return the distance in metres from the ego's nose to the next stop line of its road; infinity without one.

    Args:
        x, y, yaw: the pose of the ego frame, whose origin is the rear axle; metres and radians.
    """
    quarter = round(yaw / (math.pi / 2)) % 4
    offsets = [node_at(node) - [x, y] for node in NODES]
    on_road = [
        offset @ DIRECTIONS[quarter]
        for offset in offsets
        if abs(offset @ DIRECTIONS[quarter - 1]) < ROAD_HALF_WIDTH + 1
    ]
    nose = REAR_AXLE + EGO_SIZE[0] / 2
    return min((float(d) for d in np.array(on_road) - STOP_LINE_DISTANCE - nose if d > -1), default=math.inf)


def next_vehicle(scenario: Scenario, tick: int, left: float) -> tuple[float, bool, int]:
    """Return the gap in metres to the next vehicle ahead, `left` metres beside the ego's axis, if it brakes, and its index.

    The gap is infinite if there is no vehicle within the last bin.
    """
    states, movers = scenario.tracks.states[tick], scenario.tracks.movers
    x, y, yaw = states[0, :3]
    east, north = states[1:, 0] - x, states[1:, 1] - y
    forward = east * math.cos(yaw) + north * math.sin(yaw)
    aside = north * math.cos(yaw) - east * math.sin(yaw)
    gaps = forward - np.array([_half_length(mover) for mover in movers[1:]]) - EGO_SIZE[0] / 2
    with np.errstate(invalid="ignore"):
        in_lane = (forward > 0) & (np.abs(aside - left) < 1.9)
        is_next = in_lane & (np.cos(states[1:, 2] - yaw) > 0.5) & (gaps < GAP_BINS[-1])
    if not is_next.any():
        return math.inf, False, -1
    first = int(np.argmin(np.where(is_next, gaps, np.inf)))
    _, _, _, speed, acceleration = states[1 + first]
    return float(gaps[first]), bool(acceleration < BRAKING or speed < STANDING), 1 + first


def _half_length(mover: Mover) -> float:
    return mover.size[0] / 2
