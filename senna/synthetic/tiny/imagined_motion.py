"""Random situations on a road, and how a driver moves in them for the next 6 s: the physics of the imagined frames.

A driver keeps a distance (the intelligent driver model, as `senna.synthetic.world.traffic`), brakes for a red light and before
a turn, and overtakes slow traffic. The constants vary from driver to driver. There is no town, no image and no other agent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from senna.meta_actions import COMMAND_STEPS, FUTURE_STEPS, STEP, MetaAction, label_trajectory
from senna.navigation import command_to
from senna.synthetic.tiny.layout import GAP_WORDS, LINE_WORDS, WORDS, Layout
from senna.synthetic.tiny.scene_labels import GAP_BINS, HEADING_BINS, STOP_LINE_BINS

TICK = 0.1  # seconds
LANE = 4.5  # metres between the centre lines of two lanes
NOSE = 3.4  # metres from the rear axle, which is the origin, to the front
CHANGE_TIME = 2.8  # seconds
HARDEST = 5.0  # m/s^2: situations that need harder braking are drawn again


@dataclass(frozen=True)
class Situation:
    """A situation and the motion that follows.

    Attributes:
        light: "none", "red", "yellow" or "green".
        layout: what the front view shows.
        ahead, left, right: gaps in metres to the next vehicle in this lane and in the lanes beside it; infinite without one.
        leader_speed: of the vehicle ahead, in m/s.
        passed: where a vehicle is that the ego overtakes: "front right", "back right" or "".
        speed: m/s.
        command: the navigation command.
        future: (6, 2) positions in metres, x to the right and y forward.
        plan: the label of `future`.
    """

    light: str
    layout: Layout
    ahead: float
    left: float
    right: float
    leader_speed: float
    passed: str
    speed: float
    command: str
    future: np.ndarray
    plan: MetaAction


def imagine_situation(rng: np.random.Generator) -> Situation:
    """Return a random situation. Three of five in which the car simply drives on are left out."""
    while True:
        situation = _Draw(rng).result()
        if situation is not None and (str(situation.plan) != "KEEP, STRAIGHT" or rng.random() < 0.4):
            return situation


class _Draw:
    """One attempt: the situation, then its motion."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.limit = rng.uniform(8, 18.6)
        self.acceleration, self.headway = rng.uniform(1.6, 2.3), rng.uniform(1.0, 1.4)
        self.in_right_lane = bool(rng.random() < 0.5)
        self.line = 100 * rng.random() ** 1.4 if rng.random() < 0.7 else math.inf  # from the nose
        self.light = "none"
        if self.line < math.inf:
            self.light = str(rng.choice(("red", "yellow", "green"), p=(0.45, 0.1, 0.45)))
        self.turns_green = rng.uniform(0, 6) if self.light == "red" and rng.random() < 0.15 else math.inf
        self.start = rng.uniform(0, 1.2)  # seconds from now to the start at a green light
        self.speed = self.limit * (rng.uniform(0.85, 1) if rng.random() < 0.6 else rng.random())
        self._draw_traffic()
        self.side, self.turn_start, self.radius, self.progress = 0, math.inf, 1.0, 0.0  # side: 1 left, -1 right
        self.change_start, self.change_side, self.passed = math.inf, 0, ""
        kind = rng.random()
        if kind < 0.55 and self.line < math.inf:
            self._draw_turn()
        elif kind > 0.65:
            self._draw_change()
        if rng.random() < 0.3 and self.progress == 0 and self.change_side == 0:
            self._stand()

    def _draw_traffic(self) -> None:
        rng = self.rng
        self.gap = 2 + 75 * rng.random() ** 1.5 if rng.random() < 0.6 else math.inf
        self.leader_brakes = bool(rng.random() < 0.35)
        self.leader_speed = self.speed * rng.uniform(0, 0.7) if self.leader_brakes else self.limit * rng.uniform(0.3, 1)
        beside = 75 * rng.random() if rng.random() < 0.5 else math.inf
        self.left, self.right = (beside, math.inf) if self.in_right_lane else (math.inf, beside)

    def _draw_turn(self) -> None:
        """Turn behind the stop line; a fifth of the cars are turning already."""
        rng = self.rng
        self.side = 1 if rng.random() < 0.5 else -1
        self.in_right_lane = self.side < 0
        self.radius = rng.uniform(9.5, 12.5) if self.side > 0 else rng.uniform(7.5, 10.5)
        behind = rng.uniform(9, 14) if self.side > 0 else rng.uniform(2.5, 6.5)
        self.turn_start = self.line + behind + NOSE
        self.turn_speed = math.sqrt(rng.uniform(2.3, 3.2) * self.radius)
        self.braking = rng.uniform(1.7, 2.5)
        self.left = self.right = math.inf
        if rng.random() < 0.2:
            self.progress = math.radians(rng.uniform(0, 80))
            self.turn_start, self.line, self.light, self.gap = -self.progress * self.radius, math.inf, "none", math.inf
            self.speed = self.turn_speed * rng.uniform(0.85, 1.05)
        elif rng.random() < 0.7:
            self.light = "green"
            if rng.random() < 0.7:
                self.gap = math.inf
        self.speed = min(self.speed, self._allowed(0.0))

    def _draw_change(self) -> None:
        """Overtake slower traffic, or return to the right lane behind it."""
        rng = self.rng
        self.limit = rng.uniform(16.5, 19)
        self.speed = self.limit * rng.uniform(0.93, 1)
        self.leader_speed, self.leader_brakes = self.limit * rng.uniform(0.3, 0.6), False
        closing = self.speed - self.leader_speed
        if self.light != "green" or self.line < 60:
            self.line, self.light = math.inf, "none"
        if rng.random() < 0.55:
            self.in_right_lane, self.change_side = True, 1
            self.gap = rng.uniform(20, 80)
            self.change_start = (self.gap - rng.uniform(52, 62)) / closing
            self.left = math.inf
        else:
            self.in_right_lane, self.change_side = False, -1
            self.change_start = rng.uniform(-2.6, 3)
            self.passed = "front right" if self.change_start > 1.3 else "back right"
            self.gap, self.right = math.inf, math.inf

    def _stand(self) -> None:
        self.speed = 0.0
        if self.light in ("red", "yellow") and self.rng.random() < 0.8:
            if self.gap < math.inf:
                self.gap, self.leader_speed, self.leader_brakes = self.rng.uniform(1.5, 4), 0.0, True
            else:
                self.line = self.rng.uniform(0.2, 2)

    def _allowed(self, along: float) -> float:
        """Return the speed in m/s that the driver wants after `along` metres."""
        if self.side == 0 or along > self.turn_start + self.radius * math.pi / 2:
            return self.limit
        room = max(self.turn_start - along, 0.0)
        return min(self.limit, math.sqrt(self.turn_speed**2 + 2 * self.braking * room))

    def result(self) -> Situation | None:
        """Return the situation with its motion, or None if it is impossible."""
        fraction = self._fraction(0.0)
        if fraction >= 1 or (self.gap < math.inf and self.change_side == 0 and self._needs_hard_braking()):
            return None
        end, steps = COMMAND_STEPS * STEP, round(STEP / TICK)
        along, speed, leader, leader_speed = 0.0, self.speed, self.gap, self.leader_speed
        points = [self._place(0.0, 0.0)]
        for tick in range(1, round(end / TICK) + 1):
            time = (tick - 1) * TICK
            gap = leader - along if time < self.change_start or self.change_side < 0 else math.inf
            new = max(0.0, speed + TICK * self._acceleration(time, speed, along, gap, leader_speed))
            along += (speed + new) / 2 * TICK
            speed = new
            if self.light == "red" and time < self.turns_green and along > self.line + 0.5:  # too fast to stop
                return None
            leader += leader_speed * TICK
            if self.leader_brakes:
                leader_speed = max(0.0, leader_speed - 1.5 * TICK)
            if tick % steps == 0:
                points.append(self._place(tick * TICK, along))
        x0, y0 = points[0]
        lateral = self._lateral_speed(0.0)
        yaw = math.atan2(lateral, max(self.speed, 1.0))
        future = np.array(
            [
                (
                    (x - x0) * math.cos(yaw) + (y - y0) * math.sin(yaw),
                    (y - y0) * math.cos(yaw) - (x - x0) * math.sin(yaw),
                )
                for x, y in points[1:]
            ]
        )
        plan = label_trajectory(future[:FUTURE_STEPS])
        moved = self._shift(0.0) * self.change_side  # metres to the left of the lane that was left
        in_right = self.in_right_lane if abs(moved) < LANE / 2 else not self.in_right_lane
        ahead = self.gap if in_right == self.in_right_lane else math.inf
        right = self.gap if self.change_side > 0 and not in_right else self.right
        return Situation(
            self.light, self._layout(ahead, right, in_right, yaw), ahead, self.left, right, self.leader_speed, self.passed,
            self.speed, command_to(*future[-1]), future[:FUTURE_STEPS], plan,
        )  # fmt: skip

    def _needs_hard_braking(self) -> bool:
        room = max(self.gap - 1.0, 0.1)
        return max(self.speed**2 - self.leader_speed**2, 0.0) / (2 * room) > HARDEST or self.gap < 0.1 * self.speed

    def _acceleration(self, time: float, speed: float, along: float, gap: float, leader_speed: float) -> float:
        free = self.acceleration * (1 - (speed / max(self._allowed(along), 0.1)) ** 4)
        free = max(free, -3.5)
        deceleration = 0.0
        if gap < math.inf:
            closing = speed * (speed - leader_speed) / (2 * math.sqrt(self.acceleration * 3.5))
            wanted = 2.5 + max(0.0, speed * self.headway + closing)
            deceleration = self.acceleration * (wanted / max(gap, 0.1)) ** 2
        room = self.line - along
        stops = self.light in ("red", "yellow") and time < self.turns_green and room > -0.3
        if stops:
            needed = speed**2 / (2 * max(room - 0.5, 0.2))
            passes = self.light == "yellow" and needed > 3.0
            if not passes and (needed > 2.0 or room < 4):
                deceleration = max(deceleration, self.acceleration + 1.05 * max(needed, 1.5 if room < 0.8 else 0))
        if speed < 0.3 and self.speed < 0.3 and time < self.start:
            return -speed / TICK
        return max(-6.0, free - deceleration)

    def _fraction(self, time: float) -> float:
        return min(max((time - self.change_start) / CHANGE_TIME, 0.0), 1.0) if self.change_side else 0.0

    def _shift(self, time: float) -> float:
        """Return how far a lane change has moved the car to the left, in metres; negative to the right."""
        fraction = self._fraction(time)
        return self.change_side * LANE * fraction**3 * (10 - 15 * fraction + 6 * fraction**2)

    def _lateral_speed(self, time: float) -> float:
        fraction = self._fraction(time)
        return self.change_side * LANE * 30 * fraction**2 * (1 - fraction) ** 2 / CHANGE_TIME

    def _place(self, time: float, along: float) -> tuple[float, float]:
        """Return x and y in the frame of the heading now, without that of a lane change."""
        if self.side == 0 or along <= self.turn_start:
            return -self._shift(time), along
        begun = max(-self.turn_start, 0.0)  # metres of the arc that lie behind
        angle = min((along + begun - max(self.turn_start, 0.0)) / self.radius, math.pi / 2)
        x, y = self.radius * (1 - math.cos(angle)), self.radius * math.sin(angle)  # to the inside, and forward
        rest = along - self.turn_start - self.radius * math.pi / 2
        if rest > 0:
            x += rest
        y += max(self.turn_start, 0.0)
        if self.progress:  # relative to the pose now
            x0, y0 = self.radius * (1 - math.cos(self.progress)), self.radius * math.sin(self.progress)
            x, y = x - x0, y - y0
            sine, cosine = math.sin(self.progress), math.cos(self.progress)
            x, y = x * cosine - y * sine, y * cosine + x * sine
        return -self.side * x, y

    def _layout(self, ahead: float, right: float, in_right_lane: bool, yaw: float) -> Layout:
        heading = math.degrees(yaw)
        if self.progress:
            turned = math.degrees(self.progress)
            heading = self.side * (turned if turned < 45 else turned - 90)
        gaps = [GAP_WORDS[int(np.searchsorted(GAP_BINS, gap))] for gap in (ahead, self.left, right)]
        return Layout(
            LINE_WORDS[int(np.searchsorted(STOP_LINE_BINS, self.line))],
            gaps[0],
            WORDS["lamps"][0 if gaps[0] == GAP_WORDS[-1] else 1 + self._lamps_are_on()],
            gaps[1],
            gaps[2],
            WORDS["lane"][in_right_lane],
            WORDS["heading"][int(np.searchsorted(HEADING_BINS, heading))],
        )

    def _lamps_are_on(self) -> bool:
        return self.leader_brakes or self.leader_speed < 0.3
