"""The description of a scene: what is in it and where, independent of how it is rendered.

World frame: metres, right-handed, z up, the ground at z = 0. Angles are in radians; `yaw` is counterclockwise from +x.
Colours are RGB from 0 to 255.
"""

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

VEHICLE_SIZES: dict[str, tuple[float, float, float]] = {
    "car": (4.4, 1.9, 1.55),
    "van": (5.3, 2.05, 2.35),
    "truck": (8.6, 2.5, 3.5),
    "bus": (11.0, 2.6, 3.2),
    "motorcycle": (2.2, 0.9, 1.85),
}
"""Length, width and height in metres, of the meshes and of the annotation boxes."""


@dataclass(frozen=True)
class Vehicle:
    """A vehicle on the ground with its centre at (x, y) and its front towards `yaw`."""

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
    """A traffic light with its post at (x, y).

    Attributes:
        yaw: the driving direction of the traffic that obeys it.
        reach: metres from the post to the farthest head, which hangs over the road to the left; 0 for a head on the post.
        heads: the number of heads, which all show `state`.
        spacing: metres between heads.
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
    """A pedestrian at (x, y) facing `yaw`.

    Attributes:
        tone: a number that selects the colours of the clothes.
        stride: the pose: 0 stands, 1 and 2 are the two steps of walking.
    """

    x: float
    y: float
    yaw: float = 0.0
    tone: int = 0
    stride: int = 0


@dataclass(frozen=True)
class Cyclist:
    """A bicycle with a rider at (x, y), facing `yaw`. `tone` selects the colours of the clothes."""

    x: float
    y: float
    yaw: float = 0.0
    tone: int = 0


@dataclass(frozen=True)
class Tree:
    """A tree at (x, y), `height` metres high. `tone` selects the shade of green."""

    x: float
    y: float
    height: float = 6.0
    shape: Literal["round", "fir"] = "round"
    tone: int = 0


@dataclass(frozen=True)
class House:
    """A house at (x, y) with its front towards `yaw`. `tone` selects the colours of walls and roof."""

    x: float
    y: float
    yaw: float = 0.0
    tone: int = 0
    storeys: int = 2


@dataclass(frozen=True)
class StreetLamp:
    """A lamp post at (x, y) with its arm towards `yaw`."""

    x: float
    y: float
    yaw: float = 0.0


@dataclass(frozen=True)
class Road:
    """An asphalt strip along a polyline.

    Attributes:
        path: the (x, y) points of the centre line.
        marked: draw solid lines along the edges and dashed lines between the lanes.
        stop_line: metres along the path at which a stop line crosses the road; None for no line.
        two_way: replace the middle line by a double yellow line.
        verge: metres of gravel on both sides.
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
    """A flat quadrilateral of asphalt, or of white paint on it, with (x, y) corners."""

    corners: tuple[tuple[float, float], ...]
    surface: Literal["asphalt", "paint"] = "paint"


@dataclass(frozen=True, eq=False)
class Scene:
    """Everything that an image can show. Compared by identity, so that what is computed of it is found quickly again.

    Attributes:
        tufts: x, y and size of patches of grass; None scatters random ones around the headlamps.
        seed: the seed of clouds, stars, hills, the direction of the sun, and random tufts.
        headlamps: x, y and yaw of the ego vehicle's headlamps, which light the road at night; None for no headlamps.
    """

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
    seed: int = 0
    headlamps: tuple[float, float, float] | None = None
