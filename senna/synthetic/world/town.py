"""The town that the driving world drives in: two avenues crossing two others, with lanes, signals and crossings.

Metres, x east, y north. Traffic keeps right, two lanes a direction. Headings are numbered 0 east, 1 north, 2 west, 3 south.
Lanes are wider than usual because the published rule calls nothing a lane change that goes less than 4 m sideways.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from senna.synthetic.render.scene import House, LightState, Patch, Road, Scene, StreetLamp, TrafficLight, Tree

LANE = 4.5
HALF = 2 * LANE  # from the middle of a road to its kerb
VERGE = 3.0  # the pavement, whose inner part is the cycle path
LANES_ASIDE = (0.5 * LANE, 1.5 * LANE)  # right of the middle of the road: the left lane, the right lane
CYCLE_ASIDE = HALF + 0.75
FOOT_ASIDE = HALF + 2.2
MARGIN, BLOCK = 260.0, 320.0
EXTENT = 2 * MARGIN + BLOCK
NODES = ((0, 0), (1, 0), (0, 1), (1, 1))
REACH = 20.0  # from the middle of a crossing back to its stop lines
ZEBRA = (15.5, 18.5)  # from the middle of a crossing to both ends of a zebra's stripes
KERB_RADIUS = 6.0
TURN_RADIUS = {"left": 11.0, "right": 9.0}
TURN_ACCELERATION = 2.8  # m/s^2 sideways that sets the speed in a turn
EASE = 2.1  # m/s^2 with which drivers slow down for a turn
DIRECTIONS = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
GREEN, YELLOW, CLEAR, WALK = 9.0, 3.0, 1.5, 14.0  # seconds
PHASE = GREEN + YELLOW + CLEAR
PERIOD = 4 * PHASE + WALK


def node_at(node: tuple[int, int]) -> np.ndarray:
    """The middle (2,) of a crossing."""
    return MARGIN + BLOCK * np.array(node, dtype=float)


@dataclass(frozen=True)
class Stop:
    """A stop line on a route: `along` metres from its start, for who enters `node` with `heading`."""

    along: float
    node: tuple[int, int]
    heading: int
    turn: str


@dataclass(frozen=True, eq=False)
class Route:
    """A lane to follow, a point a metre: `points` (N, 2), `yaws` (N,), `caps` (N,) m/s that the turns ahead allow."""

    points: np.ndarray
    yaws: np.ndarray
    caps: np.ndarray
    stops: tuple[Stop, ...]

    @property
    def length(self) -> float:
        """Metres."""
        return float(len(self.points) - 1)

    def at(self, along: float, left: float = 0.0) -> tuple[float, float, float]:
        """x, y and yaw at `along` metres, `left` metres to the left of the lane's middle."""
        i = min(int(along), len(self.points) - 2)
        share = along - i
        yaw = self.yaws[i] + share * (self.yaws[i + 1] - self.yaws[i])
        x, y = self.points[i] + share * (self.points[i + 1] - self.points[i])
        return float(x - math.sin(yaw) * left), float(y + math.cos(yaw) * left), float(yaw)


def route(node: tuple[int, int], heading: int, before: float, aside: float, turns: Sequence[str] = ()) -> Route:
    """The lane `aside` metres right of the middle that starts `before` metres from the middle of `node`, to the town's edge.

    `turns` ("straight", "left", "right") say what to do at each crossing that follows; straight on where they end.
    """
    at, cell = node_at(node) - before * DIRECTIONS[heading] + aside * _right(heading), node
    pieces, yaws, stops = [at[None]], [np.array([heading * math.pi / 2])], []
    caps, travelled, yaw = [np.array([math.inf])], 0.0, heading * math.pi / 2
    for turn in [*turns, *["straight"] * 4]:
        ahead = float((node_at(cell) - at) @ DIRECTIONS[heading])
        if ahead > REACH - 1:
            stops.append(Stop(travelled + ahead - REACH, cell, heading, turn))
        side = {"left": 1, "right": -1}.get(turn, 0)
        radius = TURN_RADIUS.get(turn, 0.0)
        straight = ahead + side * aside - radius if side else ahead + REACH
        step = np.arange(1, max(round(straight), 1) + 1)[:, None] / max(round(straight), 1)
        pieces.append(at + step * straight * DIRECTIONS[heading])
        yaws.append(np.full(len(step), yaw))
        caps.append(np.full(len(step), math.inf))
        at, travelled = pieces[-1][-1], travelled + max(straight, 0)
        if side:
            arc, bend = _arc(at, heading, side, radius)
            pieces.append(arc)
            yaws.append(yaw + bend)
            caps.append(np.full(len(arc), math.sqrt(TURN_ACCELERATION * radius)))
            at, travelled, yaw = arc[-1], travelled + radius * math.pi / 2, yaw + side * math.pi / 2
            heading = (heading + side) % 4
        cell = tuple((np.array(cell) + DIRECTIONS[heading].astype(int)).tolist())
        if cell not in NODES:
            rest = math.floor(_to_edge(at, heading))
            pieces.append(at + np.arange(1, rest + 1)[:, None] * DIRECTIONS[heading])
            yaws.append(np.full(rest, yaw))
            caps.append(np.full(rest, math.inf))
            break
    return _even(np.concatenate(pieces), np.concatenate(yaws), np.concatenate(caps), stops)


def _right(heading: int) -> np.ndarray:
    return DIRECTIONS[heading - 1]


def _to_edge(at: np.ndarray, heading: int) -> float:
    along = float(at @ DIRECTIONS[heading])
    return EXTENT - along if heading < 2 else -along


def _arc(at: np.ndarray, heading: int, side: int, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """A quarter turn: points (K, 2) after `at` and the turn so far (K,)."""
    bend = np.linspace(0, math.pi / 2, round(radius * math.pi / 2) + 1)[1:]
    forward, inward = DIRECTIONS[heading], -side * _right(heading)
    points = at + radius * (np.sin(bend)[:, None] * forward + (1 - np.cos(bend))[:, None] * inward)
    return points, side * bend


def _even(points: np.ndarray, yaws: np.ndarray, caps: np.ndarray, stops: list[Stop]) -> Route:
    """The route with a point every metre, and the speeds that slow down in time for its turns."""
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    metres = np.arange(int(along[-1]) + 1, dtype=float)
    even = np.stack([np.interp(metres, along, points[:, i]) for i in (0, 1)], axis=1)
    limits = caps[np.searchsorted(along, metres).clip(0, len(caps) - 1)]
    for i in range(len(limits) - 2, -1, -1):
        limits[i] = min(limits[i], math.sqrt(limits[i + 1] ** 2 + 2 * EASE))
    return Route(even, np.interp(metres, along, yaws), limits, tuple(stops))


@dataclass(frozen=True)
class Signals:
    """The lights of all crossings: one approach after another has green, then everybody on foot.

    `offsets` are seconds into the cycle at time 0, `firsts` the heading that comes first, one for each of NODES.
    """

    offsets: tuple[float, ...]
    firsts: tuple[int, ...]

    def state(self, node: tuple[int, int], heading: int, time: float) -> LightState:
        """What who enters `node` with `heading` sees."""
        index = NODES.index(node)
        phase, within = divmod((time + self.offsets[index]) % PERIOD, PHASE)
        if phase >= 4 or (self.firsts[index] + int(phase)) % 4 != heading or within >= GREEN + YELLOW:
            return "red"
        return "green" if within < GREEN else "yellow"

    def seconds_of_green(self, node: tuple[int, int], heading: int, time: float) -> float:
        """How long it has been green (only where the state is green)."""
        return ((time + self.offsets[NODES.index(node)]) % PERIOD) % PHASE

    def offset_for(self, node: tuple[int, int], heading: int, green_at: float) -> float:
        """The offset that turns this light green at time `green_at`."""
        turn = (heading - self.firsts[NODES.index(node)]) % 4
        return (turn * PHASE - green_at) % PERIOD

    def walk_starts(self, node: tuple[int, int], until: float) -> Iterator[float]:
        """The times from -WALK to `until` at which those on foot may start to cross."""
        start = (4 * PHASE - self.offsets[NODES.index(node)]) % PERIOD - PERIOD
        while start <= until:
            if start > -WALK:
                yield start
            start += PERIOD


@lru_cache(maxsize=8)
def empty_town(seed: int) -> Scene:
    """Roads, houses, trees and lamps, without traffic and signals."""
    rng = np.random.default_rng((seed, 71))
    trees, houses, lamps = [], [], []
    for middle, direction, side in _kerbs():
        for along in np.arange(12.0, EXTENT - 8, 13.0):
            at = middle + along * direction
            if _clear(at + side * 14.5, 12.5) and rng.random() < 0.45:
                where = at + side * (14.5 + rng.uniform(0, 2)) + direction * rng.uniform(-3, 3)
                shape = ("round", "round", "fir")[rng.integers(3)]
                trees.append(Tree(*map(float, where), float(rng.uniform(4.5, 8)), shape, int(rng.integers(3))))
        for along in np.arange(20.0, EXTENT - 12, 21.0):
            where = middle + along * direction + side * rng.uniform(23, 28)
            if _clear(where, 21.0) and rng.random() < 0.6:
                yaw = math.atan2(-side[1], -side[0])
                houses.append(House(*map(float, where), yaw, int(rng.integers(5)), int(rng.integers(1, 5))))
        for along in np.arange(30.0, EXTENT, 40.0):
            where = middle + along * direction + side * (HALF + VERGE + 0.3)
            if _clear(where, HALF + VERGE):
                lamps.append(StreetLamp(*map(float, where), math.atan2(-side[1], -side[0])))
    spots = rng.uniform([0, 0, 0.6], [EXTENT, EXTENT, 2.6], (9000, 3))
    tufts = tuple(map(tuple, spots[_clear(spots[:, :2], HALF + VERGE + 2.6)].tolist()))
    return Scene(
        roads=tuple(_roads()),
        trees=tuple(trees),
        houses=tuple(houses),
        lamps=tuple(lamps),
        patches=tuple(_patches()),
        tufts=tufts,
        seed=int(rng.integers(2**31)),
    )


def signals_of_town(signals: Signals, time: float) -> tuple[TrafficLight, ...]:
    """All signals: on a mast beyond the crossing, a head over each lane."""
    lights = []
    for node in NODES:
        for heading in range(4):
            post = node_at(node) + 14.6 * DIRECTIONS[heading] + (HALF + 1.4) * _right(heading)
            state = signals.state(node, heading, time)
            reach = HALF + 1.4 - LANES_ASIDE[0]
            lights.append(TrafficLight(*map(float, post), state, heading * math.pi / 2, reach, 2, LANE))
    return tuple(lights)


def _kerbs() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Both sides of the four roads: where the middle starts, the direction, and the direction away from the road."""
    for line in (MARGIN, MARGIN + BLOCK):
        for middle, heading in ((np.array([0.0, line]), 0), (np.array([line, 0.0]), 1)):
            for side in (1, -1):
                yield middle, DIRECTIONS[heading], side * _right(heading)


def _clear(at: np.ndarray, distance: float) -> np.ndarray:
    """Whether points (..., 2) are at least so far from the middle of every road: (...)."""
    lines = np.array([MARGIN, MARGIN + BLOCK])
    return np.abs(np.asarray(at)[..., None] - lines).min(axis=(-1, -2)) >= distance - 0.01


def _roads() -> Iterator[Road]:
    for line in (MARGIN, MARGIN + BLOCK):
        ends = (0.0, MARGIN - REACH, MARGIN + REACH, MARGIN + BLOCK - REACH, MARGIN + BLOCK + REACH, EXTENT)
        for index, (start, end) in enumerate(itertools.pairwise(ends)):
            for path in (((start, line), (end, line)), ((line, start), (line, end))):
                yield Road(path, 4, LANE, marked=index % 2 == 0, two_way=True, verge=VERGE)


def _patches() -> Iterator[Patch]:
    for node in NODES:
        middle = node_at(node)
        for heading in range(4):
            into, right = DIRECTIONS[heading], _right(heading)
            for aside in np.arange(-HALF + 0.5, HALF - 0.4, 1.0):
                yield _quad(middle, into, right, (-ZEBRA[1], -ZEBRA[0]), (aside, aside + 0.5), "paint")
            yield _quad(middle, into, right, (-REACH - 0.5, -REACH), (0.4, HALF - 0.4), "paint")
            yield from _corner(middle - HALF * into + HALF * right, -into, right)


def _quad(
    middle: np.ndarray,
    into: np.ndarray,
    right: np.ndarray,
    along: tuple[float, float],
    aside: tuple[float, float],
    surface: str,
) -> Patch:
    order = ((0, 0), (1, 0), (1, 1), (0, 1))
    return Patch(tuple(tuple((middle + along[i] * into + aside[j] * right).tolist()) for i, j in order), surface)


def _corner(kerb: np.ndarray, back: np.ndarray, right: np.ndarray) -> Iterator[Patch]:
    """The rounded corner between two kerbs, as a fan around the point `kerb` where they would meet."""
    centre = kerb + KERB_RADIUS * (back + right)
    angles = np.linspace(0, math.pi / 2, 6)
    rim = centre - KERB_RADIUS * (np.cos(angles)[:, None] * right + np.sin(angles)[:, None] * back)
    for start, end in itertools.pairwise(rim):
        corners = (kerb, start, end, (end + kerb) / 2)
        yield Patch(tuple(tuple(corner.tolist()) for corner in corners), "asphalt")
