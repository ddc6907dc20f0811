"""Key frames that exist as text alone: facts of each view, and the questions and answers of the converter about them.

A pretrained language model knows how people speak about traffic, and that one stops at a red light. The tiny Llama learns
both from these frames. They are random: no position, light or plan comes from the driving world.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from senna.convert.captioners.annotations import describe, explain_plan
from senna.convert.facts import Agent, Frame
from senna.kinds import all_kinds, is_on_request, resolve
from senna.meta_actions import MetaAction
from senna.navigation import COMMANDS
from senna.synthetic.tiny.captions import Facts, SeenVehicle, sample_facts
from senna.synthetic.world.scenarios import SKY_WORDS
from senna.templates import Templates
from senna.views import VIEWS

BEARINGS = dict(zip(VIEWS, (0.0, 55.0, -55.0, 110.0, -110.0, 180.0), strict=True))  # degrees to the left
SIDES = {"left": 4.5, "middle": 0.0, "right": -4.5}  # metres to the left
DISTANCES = {"near": (7.0, 14.0), "far": (14.0, 30.0)}  # metres
EMPTY_SHARE = 0.4  # of the views
PEDESTRIANS = 0.5  # mean number in a frame


def imagine(rng: np.random.Generator) -> tuple[list[Facts], Frame]:
    """Return the facts that each view shows, in the order of VIEWS, and the frame."""
    front = sample_facts(rng)
    views = [front, *(replace(sample_facts(rng), sky=front.sky) for _ in VIEWS[1:])]  # other lights are for others
    views = [replace(facts, vehicles=()) if rng.random() < EMPTY_SHARE else facts for facts in views]
    agents = [
        _agent(rng, view, vehicle) for view, facts in zip(VIEWS, views, strict=True) for vehicle in facts.vehicles
    ]
    agents += [_pedestrian(rng) for _ in range(rng.poisson(PEDESTRIANS))]
    speed = float((rng.random() > 0.2) * rng.uniform(0, 18))
    command = COMMANDS[rng.integers(len(COMMANDS))]
    plan = _plan(rng, views[0], speed, command)
    token = str(rng.integers(2**31))
    future = np.stack([np.zeros(6), speed * 0.5 * np.arange(1, 7)], axis=1)
    frame = Frame(
        token, "", "", "scene", "scene", 0, tuple(VIEWS), SKY_WORDS[front.sky], speed, command, future, plan,
        tuple(agents), light=front.light,
    )  # fmt: skip
    return views, frame


def ask(rng: np.random.Generator, frame: Frame, templates: Templates, only: str | None = None) -> tuple[str, str]:
    """Return a question of a random kind, or of the given one, without the image block, and its answer."""
    kinds = [kind for kind in all_kinds() if kind.ask is not None and not is_on_request(kind.name)]
    kinds = [kind for kind in kinds if only in (None, kind.name)]
    while True:
        questions = list(resolve(kinds[rng.integers(len(kinds))].ask)(frame, templates))
        if not questions:
            continue
        question = questions[rng.integers(len(questions))]
        answer = question.answer
        if answer is None:
            answer = explain_plan(frame, "front") if question.kind == "explanation" else describe(frame, question.view)
        return question.text, answer


def _agent(rng: np.random.Generator, view: str, vehicle: SeenVehicle) -> Agent:
    bearing, distance = math.radians(BEARINGS[view]), rng.uniform(*DISTANCES[vehicle.distance])
    left = distance * math.sin(bearing) + (SIDES[vehicle.lane] if view in ("front", "back") else 0.0)
    speed = float((rng.random() > 0.4) * rng.uniform(0.5, 12))
    group = "cyclist" if vehicle.kind == "motorcycle" else "vehicle"
    plan = _plan_of_other(rng, speed)
    future = np.full((6, 2), np.nan)
    ahead = distance * math.cos(bearing)
    return Agent("", f"vehicle.{vehicle.kind}", vehicle.kind, group, -left, ahead, speed, view, future, plan)


def _pedestrian(rng: np.random.Generator) -> Agent:
    view = VIEWS[rng.integers(len(VIEWS))]
    bearing, distance = math.radians(BEARINGS[view] + rng.uniform(-25, 25)), rng.uniform(5, 30)
    speed, place = float(rng.uniform(0, 2)), (-distance * math.sin(bearing), distance * math.cos(bearing))
    category, future = "human.pedestrian.adult", np.full((6, 2), np.nan)
    return Agent("", category, "pedestrian", "pedestrian", *place, speed, view, future, _plan_of_other(rng, speed))


def _plan_of_other(rng: np.random.Generator, speed: float) -> MetaAction:
    words = ("STOP", "ACCELERATE") if speed < 0.5 else ("KEEP", "KEEP", "KEEP", "ACCELERATE", "DECELERATE", "STOP")
    return MetaAction(words[rng.integers(len(words))], "STRAIGHT")


def _plan(rng: np.random.Generator, front: Facts, speed: float, command: str) -> MetaAction:
    """Return what a driver would probably do, from the facts of the front view alone."""
    ahead = next((vehicle.distance for vehicle in front.vehicles if vehicle.lane == "middle"), None)
    if front.light in ("red", "yellow") or (ahead == "near" and speed > 2):
        word = "STOP" if speed < 0.5 or rng.random() < 0.5 else "DECELERATE"
    elif speed < 8:
        word = "ACCELERATE"
    else:
        word = "KEEP" if ahead is None or rng.random() < 0.5 else "DECELERATE"
    side = next((side for side in ("LEFT", "RIGHT") if f"turn {side.lower()}" in command), None)
    return MetaAction(word, f"{side}_TURN" if side is not None and word != "STOP" else "STRAIGHT")
