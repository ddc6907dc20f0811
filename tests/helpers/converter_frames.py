"""Frames and road users in the form in which the converter reads them."""

import numpy as np

from senna.convert.facts import Agent, Frame
from senna.meta_actions import MetaAction
from senna.views import VIEWS, view_of

KEEP, STOP = MetaAction("KEEP", "STRAIGHT"), MetaAction("STOP", "STRAIGHT")


def agent(x, y, category="vehicle.car", name="car", group="vehicle", speed=5.0, plan=KEEP):
    return Agent(f"{name} {x} {y}", category, name, group, x, y, speed, view_of(x, y), np.zeros((6, 2)), plan)


def walker(x, y, **changes):
    return agent(x, y, "human.pedestrian.adult", "pedestrian", "pedestrian", **changes)


def frame(
    *agents, future=((0.0, 4.0), (0.0, 8.0), (0.0, 12.0), (0.0, 16.0), (0.0, 20.0), (0.0, 24.0)), plan=KEEP, **changes
):
    return Frame(
        token="t", prev="", next="n", scene="scene-0061", scene_token="s", timestamp=0,
        images=tuple(f"samples/CAM_{view.upper().replace(' ', '_')}/1.jpg" for view in VIEWS),
        description="", speed=8.0, command="turn left", future=np.array(future), plan=plan, agents=agents, **changes,
    )  # fmt: skip
