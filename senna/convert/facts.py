"""What one key frame is, in numbers: the input of every question. All positions are in the frame of its lidar, in metres:
x right, y forward. Steps are 0.5 s: six (3 s) of future, twelve (6 s) for the navigation command.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from senna.meta_actions import MetaAction


class Agent(NamedTuple):
    """An annotated object that somebody could see (it has a lidar or radar point).

    A tuple, since there are 45 in a frame and a dataclass takes six times as long to make.
    """

    token: str
    category: str  # nuScenes' own: "vehicle.car"
    name: str  # the word that questions use: "car"
    group: str  # "vehicle", "cyclist", "pedestrian" or "static"
    x: float
    y: float
    speed: float  # m/s, now, from its past; NaN where it has none: it was not annotated in the 1.5 s before
    view: str  # of `senna.views.VIEWS`
    future: np.ndarray  # (6, 2) positions in its own frame of now, NaN where it is not annotated
    plan: MetaAction | None  # what it does in the 3 s to come; None where they are not wholly known


@dataclass(frozen=True)
class Frame:
    """A key frame."""

    token: str
    prev: str  # token of the frame before it in the scene, "" for the first
    next: str
    scene: str  # "scene-0061"
    scene_token: str
    timestamp: int  # microseconds
    images: tuple[str, ...]  # six, in the order of `senna.views.VIEWS`, relative to the data set's root
    description: str  # the scene's, from the tables: weather and time of day among it
    speed: float  # m/s, now, from the CAN bus or from the past alone; NaN in a first frame that has neither
    command: str  # the navigation's: "go straight", "turn left", "go straight and turn right", ...
    future: np.ndarray  # (6, 2) the ego's positions to come, NaN where the scene has ended
    plan: MetaAction | None  # None where the 3 s are not whole
    agents: tuple[Agent, ...]
    light: str | None = (
        None  # what the traffic light shows the front camera: "red", "yellow", "green" or "none", if known
    )
    annotated: bool = True  # False in the test split: no agents, no future, and that says nothing about the street
    compat: str | None = None  # "original": its records list the images in the published order

    @property
    def future_valid(self) -> bool:
        """Whether all 3 s are known."""
        return bool(np.isfinite(self.future).all())
