"""The town of the driving world: two avenues that cross two others, with lanes, signals and zebra crossings.

World frame: metres, x east, y north, z up; yaw in radians, counterclockwise from east. Headings are the four directions of
the roads: 0 east, 1 north, 2 west, 3 south. A node (column, row) is one of the four intersections. Traffic keeps right and
has two lanes per direction. Lanes are wider than usual because the published rule labels a lane change only where a
trajectory moves at least 4 m sideways.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from senna.synthetic.render.scene import House, LightState, Patch, Road, Scene, StreetLamp, TrafficLight, Tree

LANE_WIDTH = 4.5  # width of a lane
ROAD_HALF_WIDTH = 2 * LANE_WIDTH  # from the centre of a road to its kerb
VERGE = 3.0  # width of the pavement, whose inner part is the cycle path
LANE_OFFSETS = (0.5 * LANE_WIDTH, 1.5 * LANE_WIDTH)  # metres right of the road's centre: left lane, right lane
CYCLE_OFFSET = ROAD_HALF_WIDTH + 0.75
FOOT_OFFSET = ROAD_HALF_WIDTH + 2.2
MARGIN, BLOCK = 260.0, 320.0  # from the edge of the town to the nearest road, and from one road to the next
EXTENT = 2 * MARGIN + BLOCK  # side of the square town
NODES = ((0, 0), (1, 0), (0, 1), (1, 1))
STOP_LINE_DISTANCE = 20.0  # from the centre of an intersection back to its stop lines
ZEBRA = (15.5, 18.5)  # from the centre of an intersection to the two ends of a zebra's stripes
KERB_RADIUS = 6.0
TURN_RADIUS = {"left": 11.0, "right": 9.0}
TURN_ACCELERATION = 2.8  # m/s^2: lateral acceleration that limits the speed in a turn
TURN_DECELERATION = 2.1  # m/s^2: braking of drivers before a turn
DIRECTIONS = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])  # unit vector of each heading
GREEN, YELLOW, CLEAR, WALK = 9.0, 3.0, 1.5, 14.0  # seconds: phases of a signal, and the time for pedestrians
PHASE = GREEN + YELLOW + CLEAR
PERIOD = 4 * PHASE + WALK

_ROAD_LINES = (MARGIN, MARGIN + BLOCK)  # the x of the two north-south roads, and the y of the two east-west roads


def node_at(node: tuple[int, int]) -> np.ndarray:
    """Return the centre (2,) of an intersection."""
    return MARGIN + BLOCK * np.array(node, dtype=float)


@dataclass(frozen=True)
class Stop:
    """A stop line on a route.

    Attributes:
        along: metres from the start of the route.
        node, heading: the intersection behind the line and the heading of the approach.
        turn: what the route does there: "straight", "left" or "right".
    """

    along: float
    node: tuple[int, int]
    heading: int
    turn: str


@dataclass(frozen=True, eq=False)
class Route:
    """The centre line of a lane, sampled every metre.

    Attributes:
        points: (N, 2) positions.
        yaws: (N,) directions.
        speed_limits: (N,) m/s, low enough to brake in time for the turns ahead; infinite where no turn limits the speed.
        stops: the stop lines, nearest first.
    """

    points: np.ndarray
    yaws: np.ndarray
    speed_limits: np.ndarray
    stops: tuple[Stop, ...]

    @property
    def length(self) -> float:
        """Length in metres."""
        return float(len(self.points) - 1)

    def at(self, along: float, left: float = 0.0) -> tuple[float, float, float]:
        """Return x, y and yaw at `along` metres from the start and `left` metres to the left of the centre line."""
        i = min(int(along), len(self.points) - 2)
        fraction = along - i
        yaw = self.yaws[i] + fraction * (self.yaws[i + 1] - self.yaws[i])
        x, y = self.points[i] + fraction * (self.points[i + 1] - self.points[i])
        return float(x - math.sin(yaw) * left), float(y + math.cos(yaw) * left), float(yaw)


def make_route(node: tuple[int, int], heading: int, before: float, offset: float, turns: Sequence[str] = ()) -> Route:
    """Return the route of a lane through an intersection and on to the edge of the town.

    Args:
        node: the first intersection.
        heading: the heading at the start.
        before: metres from the start to the centre of `node`.
        offset: metres from the road's centre to the lane, to the right.
        turns: what to do at each intersection ("straight", "left" or "right"); straight on after the last.
    """
    end, cell = node_at(node) - before * DIRECTIONS[heading] + offset * _right(heading), node
    points, yaws, stops = [end[None]], [np.array([heading * math.pi / 2])], []
    limits, length, yaw = [np.array([math.inf])], 0.0, heading * math.pi / 2
    for turn in [*turns, *["straight"] * 4]:
        ahead = float((node_at(cell) - end) @ DIRECTIONS[heading])
        if ahead > STOP_LINE_DISTANCE - 1:
            stops.append(Stop(length + ahead - STOP_LINE_DISTANCE, cell, heading, turn))
        side = {"left": 1, "right": -1}.get(turn, 0)
        radius = TURN_RADIUS.get(turn, 0.0)
        straight = ahead + side * offset - radius if side else ahead + STOP_LINE_DISTANCE
        fractions = np.arange(1, max(round(straight), 1) + 1)[:, None] / max(round(straight), 1)
        points.append(end + fractions * straight * DIRECTIONS[heading])
        yaws.append(np.full(len(fractions), yaw))
        limits.append(np.full(len(fractions), math.inf))
        end, length = points[-1][-1], length + max(straight, 0)
        if side:
            arc, bend = _quarter_turn(end, heading, side, radius)
            points.append(arc)
            yaws.append(yaw + bend)
            limits.append(np.full(len(arc), math.sqrt(TURN_ACCELERATION * radius)))
            end, length, yaw = arc[-1], length + radius * math.pi / 2, yaw + side * math.pi / 2
            heading = (heading + side) % 4
        cell = tuple((np.array(cell) + DIRECTIONS[heading].astype(int)).tolist())
        if cell not in NODES:
            rest = math.floor(_distance_to_edge(end, heading))
            points.append(end + np.arange(1, rest + 1)[:, None] * DIRECTIONS[heading])
            yaws.append(np.full(rest, yaw))
            limits.append(np.full(rest, math.inf))
            break
    return _resample(np.concatenate(points), np.concatenate(yaws), np.concatenate(limits), stops)


def _right(heading: int) -> np.ndarray:
    return DIRECTIONS[heading - 1]


def _distance_to_edge(point: np.ndarray, heading: int) -> float:
    along = float(point @ DIRECTIONS[heading])
    return EXTENT - along if heading < 2 else -along


def _quarter_turn(start: np.ndarray, heading: int, side: int, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the points (K, 2) of a quarter circle after `start` and the change of yaw at each (K,); side 1 is left."""
    bend = np.linspace(0, math.pi / 2, round(radius * math.pi / 2) + 1)[1:]
    forward, inward = DIRECTIONS[heading], -side * _right(heading)
    points = start + radius * (np.sin(bend)[:, None] * forward + (1 - np.cos(bend))[:, None] * inward)
    return points, side * bend


def _resample(points: np.ndarray, yaws: np.ndarray, limits: np.ndarray, stops: list[Stop]) -> Route:
    """Return the route with a point every metre, and with speed limits that fall gradually before a turn."""
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    metres = np.arange(int(along[-1]) + 1, dtype=float)
    resampled = np.stack([np.interp(metres, along, points[:, i]) for i in (0, 1)], axis=1)
    speed_limits = limits[np.searchsorted(along, metres).clip(0, len(limits) - 1)]
    for i in range(len(speed_limits) - 2, -1, -1):
        speed_limits[i] = min(speed_limits[i], math.sqrt(speed_limits[i + 1] ** 2 + 2 * TURN_DECELERATION))
    return Route(resampled, np.interp(metres, along, yaws), speed_limits, tuple(stops))


@dataclass(frozen=True)
class Signals:
    """The traffic lights of all intersections. The four approaches have green in turn, then all pedestrians cross.

    Attributes:
        offsets: seconds into the cycle at time 0, for each of NODES.
        first_headings: the heading with the first green phase of a cycle, for each of NODES.
    """

    offsets: tuple[float, ...]
    first_headings: tuple[int, ...]

    def state(self, node: tuple[int, int], heading: int, time: float) -> LightState:
        """Return the state of the light for traffic that enters `node` with `heading`."""
        index = NODES.index(node)
        phase, seconds = divmod((time + self.offsets[index]) % PERIOD, PHASE)
        if phase >= 4 or (self.first_headings[index] + int(phase)) % 4 != heading or seconds >= GREEN + YELLOW:
            return "red"
        return "green" if seconds < GREEN else "yellow"

    def seconds_of_green(self, node: tuple[int, int], heading: int, time: float) -> float:
        """Return the seconds since a light turned green. The result is meaningful only while the light is green."""
        return ((time + self.offsets[NODES.index(node)]) % PERIOD) % PHASE

    def offset_for(self, node: tuple[int, int], heading: int, green_at: float) -> float:
        """Return the offset with which a light turns green at time `green_at`."""
        phase = (heading - self.first_headings[NODES.index(node)]) % 4
        return (phase * PHASE - green_at) % PERIOD

    def walk_starts(self, node: tuple[int, int], until: float) -> Iterator[float]:
        """Yield the times, after -WALK and up to `until`, at which pedestrians may start to cross."""
        start = (4 * PHASE - self.offsets[NODES.index(node)]) % PERIOD - PERIOD
        while start <= until:
            if start > -WALK:
                yield start
            start += PERIOD


@lru_cache(maxsize=8)
def empty_town(seed: int) -> Scene:
    """Return the town with roads, houses, trees and street lamps, without traffic and traffic lights."""
    rng = np.random.default_rng((seed, 71))
    trees, houses, lamps = [], [], []
    for centre, direction, outward in _kerbs():
        for along in np.arange(12.0, EXTENT - 8, 13.0):
            point = centre + along * direction
            if _is_off_road(point + outward * 14.5, 12.5) and rng.random() < 0.45:
                position = point + outward * (14.5 + rng.uniform(0, 2)) + direction * rng.uniform(-3, 3)
                shape = ("round", "round", "fir")[rng.integers(3)]
                trees.append(Tree(*map(float, position), float(rng.uniform(4.5, 8)), shape, int(rng.integers(3))))
        for along in np.arange(20.0, EXTENT - 12, 21.0):
            position = centre + along * direction + outward * rng.uniform(23, 28)
            if _is_off_road(position, 21.0) and rng.random() < 0.6:
                yaw = math.atan2(-outward[1], -outward[0])
                houses.append(House(*map(float, position), yaw, int(rng.integers(5)), int(rng.integers(1, 5))))
        for along in np.arange(30.0, EXTENT, 40.0):
            position = centre + along * direction + outward * (ROAD_HALF_WIDTH + VERGE + 0.3)
            if _is_off_road(position, ROAD_HALF_WIDTH + VERGE):
                lamps.append(StreetLamp(*map(float, position), math.atan2(-outward[1], -outward[0])))
    spots = rng.uniform([0, 0, 0.6], [EXTENT, EXTENT, 2.6], (9000, 3))
    tufts = tuple(map(tuple, spots[_is_off_road(spots[:, :2], ROAD_HALF_WIDTH + VERGE + 2.6)].tolist()))
    return Scene(
        roads=tuple(_roads()),
        trees=tuple(trees),
        houses=tuple(houses),
        lamps=tuple(lamps),
        patches=tuple(_patches()),
        tufts=tufts,
        seed=int(rng.integers(2**31)),
    )


def traffic_lights_at(signals: Signals, time: float) -> tuple[TrafficLight, ...]:
    """Return all traffic lights at a time: a mast beyond the intersection with one head above each lane."""
    lights = []
    for node in NODES:
        for heading in range(4):
            post = node_at(node) + 14.6 * DIRECTIONS[heading] + (ROAD_HALF_WIDTH + 1.4) * _right(heading)
            state = signals.state(node, heading, time)
            reach = ROAD_HALF_WIDTH + 1.4 - LANE_OFFSETS[0]
            lights.append(TrafficLight(*map(float, post), state, heading * math.pi / 2, reach, 2, LANE_WIDTH))
    return tuple(lights)


def _kerbs() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield, for both sides of each road: the start of its centre line, its direction, and the direction off the road."""
    for line in _ROAD_LINES:
        for start, heading in ((np.array([0.0, line]), 0), (np.array([line, 0.0]), 1)):
            for side in (1, -1):
                yield start, DIRECTIONS[heading], side * _right(heading)


def _is_off_road(points: np.ndarray, distance: float) -> np.ndarray:
    """Return for points (..., 2) whether they are at least `distance` metres from the centre of every road, (...)."""
    return np.abs(np.asarray(points)[..., None] - np.array(_ROAD_LINES)).min(axis=(-1, -2)) >= distance - 0.01


def _roads() -> Iterator[Road]:
    """Yield the pieces of the roads. Every second piece is inside an intersection and has no lane markings."""
    for line in _ROAD_LINES:
        ends = (
            0.0,
            MARGIN - STOP_LINE_DISTANCE,
            MARGIN + STOP_LINE_DISTANCE,
            MARGIN + BLOCK - STOP_LINE_DISTANCE,
            MARGIN + BLOCK + STOP_LINE_DISTANCE,
            EXTENT,
        )
        for index, (start, end) in enumerate(itertools.pairwise(ends)):
            for path in (((start, line), (end, line)), ((line, start), (line, end))):
                yield Road(path, 4, LANE_WIDTH, marked=index % 2 == 0, two_way=True, verge=VERGE)


def _patches() -> Iterator[Patch]:
    """Yield the zebra stripes, stop lines and rounded corners of all intersections."""
    for node in NODES:
        centre = node_at(node)
        for heading in range(4):
            forward, right = DIRECTIONS[heading], _right(heading)
            for offset in np.arange(-ROAD_HALF_WIDTH + 0.5, ROAD_HALF_WIDTH - 0.4, 1.0):
                yield _quad(centre, forward, right, (-ZEBRA[1], -ZEBRA[0]), (offset, offset + 0.5), "paint")
            yield _quad(
                centre,
                forward,
                right,
                (-STOP_LINE_DISTANCE - 0.5, -STOP_LINE_DISTANCE),
                (0.4, ROAD_HALF_WIDTH - 0.4),
                "paint",
            )
            yield from _rounded_corner(centre - ROAD_HALF_WIDTH * forward + ROAD_HALF_WIDTH * right, -forward, right)


def _quad(
    centre: np.ndarray,
    forward: np.ndarray,
    right: np.ndarray,
    along: tuple[float, float],
    across: tuple[float, float],
    surface: Literal["asphalt", "paint"],
) -> Patch:
    """Return a rectangle between two distances `along` the forward direction and two distances `across` to the right."""
    order = ((0, 0), (1, 0), (1, 1), (0, 1))
    return Patch(tuple(tuple((centre + along[i] * forward + across[j] * right).tolist()) for i, j in order), surface)


def _rounded_corner(kerb: np.ndarray, back: np.ndarray, right: np.ndarray) -> Iterator[Patch]:
    """Yield the asphalt of a rounded corner as a fan around `kerb`, the point where the straight kerbs would meet."""
    centre = kerb + KERB_RADIUS * (back + right)
    angles = np.linspace(0, math.pi / 2, 6)
    rim = centre - KERB_RADIUS * (np.cos(angles)[:, None] * right + np.sin(angles)[:, None] * back)
    for start, end in itertools.pairwise(rim):
        corners = (kerb, start, end, (end + kerb) / 2)
        yield Patch(tuple(tuple(corner.tolist()) for corner in corners), "asphalt")
