"""Key frames that exist as text alone: facts of each view, and the questions and answers of the converter about them.

A pretrained language model knows how people speak about traffic, and that one stops at a red light. The tiny Llama learns
both from these frames, and how a car moves (`imagined_motion`). They are random: no position, light or plan comes from the
driving world.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from senna.convert.captioners.annotations import describe, explain_plan
from senna.convert.facts import Agent, Frame
from senna.kinds import all_kinds, is_on_request, resolve
from senna.meta_actions import MetaAction
from senna.synthetic.render.scene import BODY_COLOURS, SKIES, VEHICLE_KINDS
from senna.synthetic.tiny.captions import Facts, SeenVehicle, sample_facts
from senna.synthetic.tiny.imagined_motion import Situation, imagine_situation
from senna.synthetic.tiny.road_scenes import MAX_NEAR_GAP
from senna.synthetic.world.scenarios import SKY_WORDS
from senna.templates import Templates
from senna.views import VIEWS

BEARINGS = dict(zip(VIEWS, (0.0, 55.0, -55.0, 110.0, -110.0, 180.0), strict=True))  # degrees to the left
SIDES = {"left": 4.5, "middle": 0.0, "right": -4.5}  # metres to the left
DISTANCES = {"near": (7.0, 14.0), "far": (14.0, 30.0)}  # metres
EMPTY_SHARE = 0.4  # of the views
PEDESTRIANS = 0.5  # mean number in a frame
NEAREST_BESIDE, FARTHEST = 7.0, 35.0  # metres: vehicles of the front view that captions name, as in the driving world


def imagine(rng: np.random.Generator) -> tuple[list[Facts], Frame]:
    """Return the facts that each view shows, in the order of VIEWS, and the frame."""
    situation = imagine_situation(rng)
    front, agents = _front(rng, situation)
    views = [front]
    for view in VIEWS[1:]:
        facts = replace(sample_facts(rng), sky=front.sky)  # lights in other views are for others
        if view == situation.passed:
            facts = replace(facts, vehicles=(replace(facts.vehicles[0], distance="near"),))
        elif rng.random() < EMPTY_SHARE:
            facts = replace(facts, vehicles=())
        views.append(facts)
        agents += [_agent(rng, view, vehicle) for vehicle in facts.vehicles]
    agents += [_pedestrian(rng) for _ in range(rng.poisson(PEDESTRIANS))]
    return views, _frame(rng, situation, SKY_WORDS[front.sky], tuple(agents))


def imagine_motion(rng: np.random.Generator) -> Frame:
    """Return a frame that is known by its speed, command, plan and future alone."""
    return _frame(rng, imagine_situation(rng), "", ())


def _frame(rng: np.random.Generator, situation: Situation, description: str, agents: tuple[Agent, ...]) -> Frame:
    return Frame(
        str(rng.integers(2**31)), "", "", "scene", "scene", 0, tuple(VIEWS), description, situation.speed,
        situation.command, situation.future, situation.plan, agents, light=situation.light,
    )  # fmt: skip


def imagine_front(rng: np.random.Generator) -> tuple[Facts, Frame]:
    """Return the facts of a front view with its layout, and a frame that is known by speed, command, plan and future alone."""
    situation = imagine_situation(rng)
    return _front(rng, situation)[0], _frame(rng, situation, "", ())


def _front(rng: np.random.Generator, situation: Situation) -> tuple[Facts, list[Agent]]:
    vehicles, agents = [], []
    for lane, gap in (("left", situation.left), ("middle", situation.ahead), ("right", situation.right)):
        if not (0 if lane == "middle" else NEAREST_BESIDE) < gap < FARTHEST:
            continue
        colour, kind = str(rng.choice(list(BODY_COLOURS))), VEHICLE_KINDS[rng.integers(len(VEHICLE_KINDS))]
        vehicles.append(SeenVehicle(lane, "near" if gap < MAX_NEAR_GAP else "far", colour, kind))
        speed = situation.leader_speed if lane == "middle" else float(rng.uniform(0, 15))
        agents.append(_agent_at(rng, vehicles[-1], SIDES[lane], gap + 6.0, speed, "front"))
    sky = SKIES[rng.integers(len(SKIES))]
    return Facts(sky, situation.light, tuple(vehicles), situation.layout), agents


def ask(rng: np.random.Generator, frame: Frame, templates: Templates, only: str | None = None) -> tuple[str, str]:
    """Return a question of the given kind, without the image block, and its answer; by default of any kind but a trajectory."""
    kinds = [
        kind
        for kind in all_kinds()
        if kind.ask is not None and (not is_on_request(kind.name) if only is None else kind.name == only)
    ]
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
    """Return the vehicle at a random place in a view."""
    bearing, distance = math.radians(BEARINGS[view]), rng.uniform(*DISTANCES[vehicle.distance])
    left = distance * math.sin(bearing) + (SIDES[vehicle.lane] if view in ("front", "back") else 0.0)
    speed = float((rng.random() > 0.4) * rng.uniform(0.5, 12))
    return _agent_at(rng, vehicle, left, distance * math.cos(bearing), speed, view)


def _agent_at(
    rng: np.random.Generator, vehicle: SeenVehicle, left: float, ahead: float, speed: float, view: str
) -> Agent:
    group = "cyclist" if vehicle.kind == "motorcycle" else "vehicle"
    plan, future = _plan_of_other(rng, speed), np.full((6, 2), np.nan)
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
