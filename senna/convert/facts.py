"""The facts of one key frame: the input of every question.

All positions are in the lidar's coordinate system of the key frame, in metres: x right, y forward. One step is 0.5 s. The
future has 6 steps (3 s); the navigation command looks 12 steps (6 s) ahead.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from senna.futures import Futures
from senna.meta_actions import MetaAction


class Agent(NamedTuple):
    """An annotated object with at least one lidar or radar point.

    It is a tuple because a frame has 45 of them, and a dataclass takes six times as long to create.
    """

    token: str  # of its row in sample_annotation
    category: str  # nuScenes' name: "vehicle.car"
    name: str  # the word that questions use: "car"
    group: str  # "vehicle", "cyclist", "pedestrian" or "static"
    x: float
    y: float
    speed: float  # m/s, from past annotations only; NaN without an annotation in the last 1.6 s
    view: str  # one of `senna.views.VIEWS`
    future: np.ndarray  # (6, 2) future positions in the object's own coordinate system, NaN where it is not annotated
    plan: MetaAction | None  # label of the next 3 s; None where they are not completely annotated
    retimed: MetaAction | None = None  # the label at exact half seconds (``senna.convert.timing``); None where unknown


@dataclass(frozen=True)
class Frame:
    """A key frame."""

    token: str
    prev: str  # token of the previous frame of the scene, "" for the first frame
    next: str
    scene: str  # "scene-0061"
    scene_token: str
    timestamp: int  # microseconds
    images: tuple[str, ...]  # six paths in the order of `senna.views.VIEWS`, relative to the data set's root
    description: str  # the scene's description from the tables; may name weather and time of day
    speed: float  # m/s, from the CAN bus or from past poses; NaN in a first frame that has neither
    command: str  # navigation command: "go straight", "turn left", "go straight and turn right", ...
    future: np.ndarray  # (6, 2) future positions of the ego vehicle, NaN past the end of the scene
    plan: MetaAction | None  # None where the next 3 s are not completely known
    agents: tuple[Agent, ...]
    light: str | None = None  # traffic light in the front camera: "red", "yellow", "green", "none"; None if unknown
    annotated: bool = True  # False in the test split: without agents and future, which does not mean an empty road
    retimed: MetaAction | None = None  # the plan at exact half seconds (``senna.convert.timing``); None where unknown
    futures: Futures | None = None  # of the ego vehicle and of other road users; None in the test split
    compat: str | None = None  # "original": records list the images in the published order

    @property
    def future_valid(self) -> bool:
        """True where all 3 s of the future are known."""
        return bool(np.isfinite(self.future).all())
