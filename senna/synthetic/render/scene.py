"""What a picture shows: plain descriptions, in metres and radians, that know nothing of how they are painted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

VehicleKind = Literal["car", "van", "truck", "bus", "motorcycle"]
Sky = Literal["clear", "overcast", "dusk", "night"]
LightState = Literal["red", "yellow", "green"]

VEHICLE_KINDS: tuple[VehicleKind, ...] = ("car", "van", "truck", "bus", "motorcycle")
SKIES: tuple[Sky, ...] = ("clear", "overcast", "dusk", "night")
LIGHT_STATES: tuple[LightState, ...] = ("red", "yellow", "green")

BODY_COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (206, 34, 38),
    "orange": (242, 128, 24),
    "yellow": (246, 212, 48),
    "green": (34, 142, 66),
    "blue": (36, 84, 204),
    "white": (240, 240, 238),
    "black": (34, 35, 40),
}

# length, width, height in metres: also the annotation box of the driving world
VEHICLE_SIZES: dict[str, tuple[float, float, float]] = {
    "car": (4.4, 1.9, 1.55),
    "van": (5.3, 2.05, 2.35),
    "truck": (8.6, 2.5, 3.5),
    "bus": (11.0, 2.6, 3.2),
    "motorcycle": (2.2, 0.9, 1.85),
}


@dataclass(frozen=True)
class Vehicle:
    """A vehicle standing on the ground with its middle at (x, y), its nose pointing along `yaw` (0: along +x)."""

    kind: VehicleKind
    colour: str
    x: float
    y: float
    yaw: float = 0.0
    braking: bool = False

    @property
    def size(self) -> tuple[float, float, float]:
        """Length, width and height in metres."""
        return VEHICLE_SIZES[self.kind]


@dataclass(frozen=True)
class TrafficLight:
    """A signal whose post stands at (x, y); `yaw` is the driving direction of those who obey it.

    `reach` metres to the left of the post hangs the head, over the road; with 0 it sits on the post. More `heads`
    hang a lane's breadth (`spacing` metres) apart, towards the post, and show the same.
    """

    x: float
    y: float
    state: LightState
    yaw: float = 0.0
    reach: float = 0.0
    heads: int = 1
    spacing: float = 3.5


@dataclass(frozen=True)
class Walker:
    """Somebody on foot at (x, y), facing along `yaw`; `tone` picks the clothes, `stride` 0 stands, 1 and 2 are steps."""

    x: float
    y: float
    yaw: float = 0.0
    tone: int = 0
    stride: int = 0


@dataclass(frozen=True)
class Cyclist:
    """A bicycle with its rider at (x, y), riding along `yaw`; `tone` picks the clothes."""

    x: float
    y: float
    yaw: float = 0.0
    tone: int = 0


@dataclass(frozen=True)
class Tree:
    """A tree at (x, y): `shape` "round" or "fir", `height` in metres, `tone` 0, 1 or 2 picks the green."""

    x: float
    y: float
    height: float = 6.0
    shape: Literal["round", "fir"] = "round"
    tone: int = 0


@dataclass(frozen=True)
class House:
    """A house at (x, y) with its front along `yaw`; `tone` picks the wall's colour, `storeys` its height."""

    x: float
    y: float
    yaw: float = 0.0
    tone: int = 0
    storeys: int = 2


@dataclass(frozen=True)
class StreetLamp:
    """A lamp post at (x, y) whose arm points along `yaw`."""

    x: float
    y: float
    yaw: float = 0.0


@dataclass(frozen=True)
class Road:
    """An asphalt strip along the polyline `path` of (x, y), `lanes` lanes wide.

    With `marked`, solid lines run along the edges and dashes between the lanes; on a `two_way` road a double yellow line
    parts the directions. A `stop_line` is drawn across the strip so many metres along the path. `verge` metres of
    gravel lie on both sides.
    """

    path: tuple[tuple[float, float], ...]
    lanes: int = 3
    lane_width: float = 3.5
    marked: bool = True
    stop_line: float | None = None
    two_way: bool = False
    verge: float = 1.1


@dataclass(frozen=True)
class Patch:
    """A flat four-cornered piece of ground: asphalt, or paint on it."""

    corners: tuple[tuple[float, float], ...]
    surface: Literal["asphalt", "paint"] = "paint"


@dataclass(frozen=True)
class Scene:
    """Everything one moment shows. `seed` fixes what is mere decoration: clouds, stars, hills, tufts of grass."""

    sky: Sky = "clear"
    roads: tuple[Road, ...] = ()
    vehicles: tuple[Vehicle, ...] = ()
    lights: tuple[TrafficLight, ...] = ()
    trees: tuple[Tree, ...] = ()
    houses: tuple[House, ...] = ()
    lamps: tuple[StreetLamp, ...] = ()
    walkers: tuple[Walker, ...] = ()
    cyclists: tuple[Cyclist, ...] = ()
    patches: tuple[Patch, ...] = ()
    tufts: tuple[tuple[float, float, float], ...] | None = None
    """x, y and size of blotches in the field; None scatters some by `seed` around the headlamps."""
    seed: int = 0
    headlamps: tuple[float, float, float] | None = None
    """x, y and yaw of the ego vehicle, whose headlamps light the road at night."""
