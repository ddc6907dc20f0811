"""What the ego vehicle of a drawn scene should do, why, and where that takes it."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from senna.meta_actions import MetaAction
from senna.synthetic.sampling import distance_word, lane_word, place_word
from senna.synthetic.scene import LightState, Scene

STEPS, STEP_SECONDS = 6, 0.5
CHANGE_ASIDE = 4.1  # metres: the published rule calls it a change from 4.0 on, whatever the lane's width


class Decision(NamedTuple):
    """A plan and the sentence that explains it."""

    action: MetaAction
    reason: str


RED = Decision(MetaAction("STOP", "STRAIGHT"), "Because the light is red.")
YELLOW = Decision(MetaAction("DECELERATE", "STRAIGHT"), "Because the light is yellow.")
CHANGE = Decision(
    MetaAction("KEEP", "LEFT_CHANGE"), "Because the vehicle ahead is close by and no vehicle is in the left lane."
)
BLOCKED = Decision(
    MetaAction("STOP", "STRAIGHT"), "Because the vehicle ahead is close by and a vehicle is in the left lane."
)
FOLLOW = Decision(MetaAction("DECELERATE", "STRAIGHT"), "Because the vehicle ahead is far away.")
GREEN = Decision(MetaAction("ACCELERATE", "STRAIGHT"), "Because the light is green and no vehicle is ahead.")
NOTHING = Decision(MetaAction("KEEP", "STRAIGHT"), "Because there is no traffic light and no vehicle is ahead.")
DECISIONS = (RED, YELLOW, CHANGE, BLOCKED, FOLLOW, GREEN, NOTHING)


def decide(light: LightState | None, ahead: Literal["near", "far"] | None, left_is_taken: bool) -> Decision:
    """The one rule of the drawn traffic: lights first, then the vehicle `ahead` in the ego's lane, then the open road."""
    if light == "red":
        return RED
    if light == "yellow":
        return YELLOW
    if ahead == "near":
        return BLOCKED if left_is_taken else CHANGE
    if ahead == "far":
        return FOLLOW
    return GREEN if light == "green" else NOTHING


def decision_of(scene: Scene) -> Decision:
    """What `decide` says of a scene: the left lane is taken where a vehicle in it is near, ahead, beside or behind."""
    light = scene.lights[0].state if scene.lights else None
    ahead = next((v for v in scene.vehicles if place_word(v) == "ahead" and lane_word(v) == "middle"), None)
    left_is_taken = any(lane_word(v) == "left" and distance_word(v) == "near" for v in scene.vehicles)
    return decide(light, distance_word(ahead) if ahead else None, left_is_taken)


def sample_trajectory(action: MetaAction, rng: np.random.Generator) -> list[list[float]]:
    """Six points (x right, y forward, metres, from the ego, 0.5 s apart) that carry out a plan of DECISIONS."""
    first, change = {
        "STOP": (rng.uniform(0.6, 1.6), -0.5),
        "DECELERATE": (rng.uniform(8, 12), rng.uniform(-7, -4)),
        "ACCELERATE": (rng.uniform(3, 7), rng.uniform(4, 7)),
        # A lane change ends within 5 degrees of straight ahead, by the published rule: it must be fast.
        "KEEP": (
            rng.uniform(16.2, 18) if action.path == "LEFT_CHANGE" else rng.uniform(6, 12),
            rng.uniform(-1, 1) / 10,
        ),
    }[action.speed]
    forward = np.cumsum(first + change * np.linspace(0, 1, STEPS)) * STEP_SECONDS
    share = np.arange(1, STEPS + 1) / STEPS
    aside = -CHANGE_ASIDE * share**2 * (3 - 2 * share) if action.path == "LEFT_CHANGE" else np.zeros(STEPS)
    return np.stack([aside, forward], axis=1).round(3).tolist()
