"""The drawn town as a simulator: the scenes of `senna synthesize`, in which the ego vehicle is driven by somebody else.

Everybody else drives as in the drawn world and sees the ego vehicle. The expert is the driver that drives the ego vehicle
there: the intelligent driver model, which knows all signals and all other vehicles.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from PIL import Image

from senna.drive import rules
from senna.drive.simulator import (
    ARRIVED,
    COLLISION,
    OFF_ROUTE,
    RED_LIGHT,
    TICKS,
    TIME_UP,
    EgoState,
    Event,
    Motion,
    Observation,
    StepResult,
)
from senna.meta_actions import COMMAND_STEPS, FUTURE_STEPS, MetaAction, label_trajectory
from senna.navigation import command_to
from senna.synthetic.world.scenarios import Start, draw_start, find_scenario
from senna.synthetic.world.sensors import CAMERAS, EGO_SIZE, IMAGE_SIZE, LIDAR, REAR_AXLE, camera_at
from senna.synthetic.world.snapshot import scene_of
from senna.synthetic.world.town import LANE_WIDTH, Route
from senna.synthetic.world.traffic import TICK, Driver, advance
from senna.synthetic.world.write import JPEG_QUALITY, SECONDS, draw_views
from senna.views import VIEWS, camera_of

SEEDS = 1_000_000
"""Seed S of `senna drive` is seed SEEDS + S of the drawn world, so that no scenario is one of `senna synthesize`."""

TIME_LIMIT = 30.0  # seconds; the expert needs 19.5
OFF_ROUTE_DISTANCE = 20.0  # metres from the route's centre line at which a drive ends
EXPERT_RANGE = 120.0  # metres within which the expert takes account of traffic after the next step
_LENGTH, _WIDTH = EGO_SIZE[:2]
_SNAP = 0.3  # metres from the centre of a lane within which the expert takes the vehicle to be in it


@dataclass(frozen=True)
class Expert:
    """The way of the expert from now on.

    Attributes:
        motion: its motion in the next step.
        trajectory: (12, 2) positions in steps of 0.5 s, x to the right and y forward, in the lidar's frame, as in records.
        decision: the meta-action of its next 3 s, by the rule of the converter.
    """

    motion: Motion
    trajectory: np.ndarray
    decision: MetaAction


class TownSimulator:
    """A `senna.drive.simulator.Simulator`.

    Args:
        seed: selects the scenarios; equal seeds give equal scenarios.
        time_limit: seconds after which a drive ends.
        image_width: the width of the images in pixels.

    Attributes:
        start: the beginning of the scenario: maneuver, sky, signals, speed limit.
        route: the centre line of the lane that the expert drives in.
        drivers: all drivers, the ego vehicle first.
        tick: ticks since the start.
    """

    start: Start
    route: Route
    drivers: list[Driver]
    tick: int

    def __init__(self, seed: int = 0, time_limit: float = TIME_LIMIT, image_width: int = IMAGE_SIZE[0]) -> None:
        self.seed, self.time_limit, self.image_width = SEEDS + seed, time_limit, image_width

    def reset(self, scenario: int) -> Observation:
        """Go to the start of scenario `scenario` of the seed. Raises SennaError where there is no such scenario."""
        attempt, (x, y) = _plan(self.seed, scenario)
        self.start = draw_start(self.seed, scenario, attempt, SECONDS)
        self.drivers, self.tick, self.progress = self.start.drivers, 0, 0.0
        self.route = self.ego.route
        for driver in self.drivers:
            driver.update_position()
        self.origin, self.goal = self.ego.along, _project(self.route, x, y, 0.0, whole=True)[0]
        self._planned: tuple[Motion, Driver] | None = None
        self._expert: Expert | None = None
        self._images: Mapping[str, Image.Image] = {}
        return self.observe()

    @property
    def ego(self) -> Driver:
        """The ego vehicle as a road user that the others see."""
        return self.drivers[0]

    @property
    def time(self) -> float:
        """Seconds since the start."""
        return self.tick * TICK

    @property
    def states(self) -> np.ndarray:
        """(N, 5) x, y, yaw, speed and acceleration of all road users, the ego vehicle first; NaN for those that have left."""
        gone = (math.nan,) * 5
        rows = [(*d.position, d.speed, d.acceleration) if not d.is_finished else gone for d in self.drivers]
        rows[0] = (*self.ego.position, self.ego.speed, self.ego.acceleration)
        return np.array(rows + [(*walk.at(self.time), 0.0) for walk in self.start.walks])

    @property
    def movers(self) -> list:
        """The road users in the order of `states`."""
        return [user.mover for user in (*self.drivers, *self.start.walks)]

    def observe(self) -> Observation:
        """Return the observation of this moment; its images are drawn when they are asked for."""
        x, y = self.expert().trajectory[-1]
        return Observation(self.time, _state_of(self.ego), command_to(x, y), self._draw)

    def _draw(self) -> Mapping[str, Image.Image]:
        """Draw the images with the cameras of the drawn world, and encode them like its files, so that no pixel differs."""
        if self._images:
            return self._images
        pose = _ego_frame(_state_of(self.ego))
        scene = scene_of(self.start, self.movers, self.states, pose, self.time)
        images = {}
        for camera, image in zip(CAMERAS, draw_views(scene, pose, self.image_width), strict=True):
            file = io.BytesIO()
            image.save(file, "JPEG", quality=JPEG_QUALITY)
            images[camera_of(camera.channel)] = Image.open(file).convert("RGB")
        self._images = {view: images[view] for view in VIEWS}
        return self._images

    def expert(self) -> Expert:
        """Return what the expert would do from here: the traffic is simulated for 6 s. A step's result is kept."""
        if self._expert is not None:
            return self._expert
        drivers = [replace(driver) for driver in self.drivers]
        ego, states, planned = drivers[0], [], drivers[0]
        for tick in range(COMMAND_STEPS * TICKS):
            if tick == TICKS:  # from here on, those far away make no difference to the ego vehicle
                drivers = [ego, *(driver for driver in drivers[1:] if _distance(driver, ego) < EXPERT_RANGE)]
            for driver in drivers:
                driver.update_position()
            advance(drivers, self.start.walks, self.start.signals, (self.tick + tick) * TICK)
            ego.update_position()
            states.append(_state_of(ego))
            if tick == TICKS - 1:
                planned = replace(ego)
        motion = Motion(tuple(states[:TICKS]))
        self._planned = motion, planned
        trajectory = lidar_offsets(_state_of(self.ego), states[TICKS - 1 :: TICKS])
        self._expert = Expert(motion, trajectory, label_trajectory(trajectory[:FUTURE_STEPS]))
        return self._expert

    def step(self, motion: Motion) -> StepResult:
        """Move the ego vehicle as asked, and all others as the traffic model says."""
        events, off_road = [], 0
        for state in motion.states:
            before = _state_of(self.ego)
            advance(self.drivers, self.start.walks, self.start.signals, self.time, steered=self.ego)
            self.tick += 1
            self._place(state)
            for driver in self.drivers[1:]:
                driver.update_position()
            if rules.passes_red_light(before, state, _LENGTH, self.start.signals, self.time):
                events.append(Event(RED_LIGHT, self.time, self._where()))
            off_road += self._is_off_road(state)
            if (hit := self._collision(state)) is not None:
                events.append(hit)
                break
        if self._planned and motion == self._planned[0]:
            self.drivers[0] = self._planned[1]  # the expert's own state, so that its lane changes go on
        self._planned, self._expert, self._images = None, None, {}
        along, aside = _project(self.route, *self.ego.position[:2], self.ego.along)
        done = (along - self.origin) / max(self.goal - self.origin, 1.0)
        if abs(aside) < OFF_ROUTE_DISTANCE:
            self.progress = max(self.progress, min(done, 1.0))
        end = self._end(bool(events and events[-1].kind == COLLISION), aside)
        return StepResult(tuple(events), off_road / TICKS, self.progress, end)

    def _end(self, has_collided: bool, aside: float) -> str | None:
        if has_collided:
            return COLLISION
        if self.progress >= 1.0:
            return ARRIVED
        if abs(aside) >= OFF_ROUTE_DISTANCE:
            return OFF_ROUTE
        return TIME_UP if self.time >= self.time_limit - TICK / 2 else None

    def _place(self, state: EgoState) -> None:
        """Put the ego vehicle at a state, and give the expert, who may have to go on from there, its place on the route."""
        ego, before = self.ego, self.ego.left
        ego.position, ego.speed, ego.acceleration = state[:3], state.speed, state.acceleration
        ego.along, ego.left = _project(self.route, state.x, state.y, ego.along)
        nearest = round(ego.left / LANE_WIDTH) * LANE_WIDTH
        ego.lateral_speed, ego.change = 0.0, None
        if abs(ego.left - nearest) < _SNAP:
            ego.left = nearest
        else:  # the expert would go on to the lane that the vehicle moves to
            towards = math.copysign(LANE_WIDTH, ego.left - before) / 2 if abs(ego.left - before) > 0.02 else 0.0
            target = round((ego.left + towards) / LANE_WIDTH) * LANE_WIDTH
            ego.change = (self.time, ego.left, target)
        ego.overtakes = ego.overtakes and ego.left >= 0

    def _is_off_road(self, state: EgoState) -> bool:
        box = rules.corners(state.x, state.y, state.yaw, _LENGTH, _WIDTH)
        return not rules.is_drivable(box).all()

    def _collision(self, ego: EgoState) -> Event | None:
        box, states = rules.corners(ego.x, ego.y, ego.yaw, _LENGTH, _WIDTH), self.states
        distances = np.hypot(states[:, 0] - ego.x, states[:, 1] - ego.y)
        for index in np.flatnonzero(distances < 12.0):
            mover, (x, y, yaw) = self.movers[index], states[index, :3]
            if index > 0 and rules.overlap(box, rules.corners(x, y, yaw, *mover.size[:2])):
                return Event(COLLISION, self.time, mover.kind, rules.is_at_fault(ego, (x, y), _LENGTH))
        return None

    def _where(self) -> str:
        return f"x {self.ego.position[0]:.0f} m, y {self.ego.position[1]:.0f} m"


@cache
def _plan(seed: int, index: int) -> tuple[int, tuple[float, float]]:
    """Return the attempt that gives a scenario, and where the expert is at its end."""
    scenario, attempt = find_scenario(seed, index, SECONDS)
    x, y = scenario.tracks.states[-1, 0, :2].tolist()
    return attempt, (x, y)


def _distance(first: Driver, second: Driver) -> float:
    return math.dist(first.position[:2], second.position[:2])


def _state_of(driver: Driver) -> EgoState:
    return EgoState(*driver.position, driver.speed, driver.acceleration)


def _ego_frame(ego: EgoState) -> tuple[float, float, float]:
    """Return x, y and yaw of the ego frame, whose origin is below the rear axle."""
    return ego.x - REAR_AXLE * float(np.cos(ego.yaw)), ego.y - REAR_AXLE * float(np.sin(ego.yaw)), ego.yaw


def lidar_offsets(now: EgoState, future: list[EgoState]) -> np.ndarray:
    """Return the future positions of the lidar in its present frame, (N, 2): x to the right and y forward."""
    present = camera_at(LIDAR, *_ego_frame(now))
    positions = np.array([camera_at(LIDAR, *_ego_frame(state)).position for state in future])
    return present.to_camera(positions)[:, :2]


def _project(route: Route, x: float, y: float, near: float, whole: bool = False) -> tuple[float, float]:
    """Return the metres along a route to the point nearest to (x, y), and the metres from there to the left.

    Args:
        near: where the point is looked for: from 10 m before to 40 m beyond, so that no other branch of the route is found.
        whole: look for it on the whole route.
    """
    first = 0 if whole else max(int(near) - 10, 0)
    points = route.points[first : None if whole else int(near) + 40]
    index = first + int(np.argmin(((points - [x, y]) ** 2).sum(axis=1)))
    yaw = route.yaws[index]
    east, north = x - route.points[index, 0], y - route.points[index, 1]
    forward, left = east * math.cos(yaw) + north * math.sin(yaw), north * math.cos(yaw) - east * math.sin(yaw)
    return min(max(index + forward, 0.0), route.length), left
