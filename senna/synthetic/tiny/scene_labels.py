"""What lies ahead of the ego at a moment of a journey, as a driver would name it: the classes that the tiny tower learns.

Only what the pictures show goes in: nothing of what the ego will do, wants to do or how fast it is.
"""

from __future__ import annotations

import math

import numpy as np

from senna.synthetic.world.scenarios import Journey
from senna.synthetic.world.sensors import EGO_SIZE, REAR_AXLE
from senna.synthetic.world.snapshot import BRAKING, STANDING, ego_pose, light_ahead
from senna.synthetic.world.town import DIRECTIONS, HALF, LANE, NODES, REACH, node_at
from senna.synthetic.world.traffic import Mover

LIGHTS = ("none", "red", "yellow", "green")
# Upper ends of bins, in metres: from the ego's nose to the stop line, and to the back of the next one ahead.
STOP_LINES = (1.5, 4.0, 8.0, 14.0, 21.0, 29.0, 38.0, 50.0, 65.0, 90.0)
GAPS = (4.0, 8.0, 13.0, 19.0, 27.0, 37.0, 50.0, 70.0)
PLACES = (-2.2, -1.2, -0.4, 0.4, 1.2, 2.2)  # metres left of the middle of the nearest lane of its direction
TURNS = (-45.0, -15.0, -4.0, 4.0, 15.0, 45.0)  # degrees left of the road's direction
OUTLOOK = {  # per label: how many answers there are
    "light": len(LIGHTS),
    "stop line": len(STOP_LINES) + 1,
    "gap ahead": len(GAPS) + 1,
    "gap in the lane to the left": len(GAPS) + 1,
    "gap in the lane to the right": len(GAPS) + 1,
    "brake lamps ahead": 3,
    "lane": 2,
    "place in the lane": len(PLACES) + 1,
    "turned from the road": len(TURNS) + 1,
}


def outlook_at(journey: Journey, tick: int) -> list[int]:
    """The answers to OUTLOOK, in its order."""
    x, y, yaw = ego_pose(journey, tick)
    heading = round(yaw / (math.pi / 2)) % 4
    turned = math.degrees(math.remainder(yaw - heading * math.pi / 2, 2 * math.pi))
    aside = min((float((np.array([x, y]) - node_at(node)) @ DIRECTIONS[heading - 1]) for node in NODES), key=abs)
    lane = int(aside > HALF / 2)  # 0: the left one
    ahead, left, right = (_next_one(journey, tick, side * LANE) for side in (0, 1, -1))
    return [
        LIGHTS.index(light_ahead(journey, tick)),
        _bin(to_stop_line(x, y, yaw), STOP_LINES),
        _bin(ahead[0], GAPS),
        _bin(left[0], GAPS),
        _bin(right[0], GAPS),
        0 if math.isinf(ahead[0]) else 1 + ahead[1],
        lane,
        _bin((lane + 0.5) * LANE - aside, PLACES),
        _bin(turned, TURNS),
    ]


def _bin(value: float, ends: tuple[float, ...]) -> int:
    return int(np.searchsorted(ends, value))


def to_stop_line(x: float, y: float, yaw: float) -> float:
    """Metres from the nose of the ego, given its pose, to the next stop line of its road; infinite without one."""
    heading = round(yaw / (math.pi / 2)) % 4
    offsets = [node_at(node) - [x, y] for node in NODES]
    on_road = [offset @ DIRECTIONS[heading] for offset in offsets if abs(offset @ DIRECTIONS[heading - 1]) < HALF + 1]
    nose = REAR_AXLE + EGO_SIZE[0] / 2
    return min((float(d) for d in np.array(on_road) - REACH - nose if d > -1), default=math.inf)


def _next_one(journey: Journey, tick: int, left: float) -> tuple[float, bool]:
    """Metres of air to the next vehicle ahead, `left` metres beside the ego's own way, and whether its brake lamps shine."""
    states, movers = journey.tracks.states[tick], journey.tracks.movers
    x, y, yaw = states[0, :3]
    east, north = states[1:, 0] - x, states[1:, 1] - y
    forward = east * math.cos(yaw) + north * math.sin(yaw)
    aside = north * math.cos(yaw) - east * math.sin(yaw)
    gaps = forward - np.array([_half(mover) for mover in movers[1:]]) - EGO_SIZE[0] / 2
    with np.errstate(invalid="ignore"):
        there = (forward > 0) & (np.abs(aside - left) < 1.9) & (np.cos(states[1:, 2] - yaw) > 0.5) & (gaps < GAPS[-1])
    if not there.any():
        return math.inf, False
    first = int(np.argmin(np.where(there, gaps, np.inf)))
    _, _, _, speed, acceleration = states[1 + first]
    return float(gaps[first]), bool(acceleration < BRAKING or speed < STANDING)


def _half(mover: Mover) -> float:
    return mover.size[0] / 2
