"""Random road scenes for stage 1: one or two vehicles ahead, a sky and possibly a traffic light."""

from __future__ import annotations

import numpy as np

from senna.synthetic.render.camera import Camera
from senna.synthetic.render.scene import (
    BODY_COLOURS,
    LIGHT_STATES,
    SKIES,
    VEHICLE_KINDS,
    House,
    Road,
    Scene,
    StreetLamp,
    TrafficLight,
    Tree,
    Vehicle,
)

LANE_WIDTH = 3.5
LANES: dict[str, float] = {"left": LANE_WIDTH, "middle": 0.0, "right": -LANE_WIDTH}  # y in metres
NEAR_GAP, FAR_GAP = (9.0, 11.5), (17.0, 22.0)  # metres from the camera to a vehicle's back
MAX_NEAR_GAP = (NEAR_GAP[1] + FAR_GAP[0]) / 2
EYE_HEIGHT = 1.7
PATH_START, PATH_END = (-20.0, -12.0), 240.0  # metres; the start is random because it shifts the lane markings


def front_camera(size: int = 224) -> Camera:
    """Return the square front camera of all images of stage 1."""
    return Camera.looking((0.0, 0.0, EYE_HEIGHT), field_of_view=58.0, size=(size, size))


def distance_word(vehicle: Vehicle) -> str:
    """Return "near" or "far", by the gap between the camera and the back of the vehicle."""
    gap = vehicle.x - vehicle.size[0] / 2
    return "near" if gap < MAX_NEAR_GAP else "far"


def lane_word(vehicle: Vehicle) -> str:
    """Return "left", "middle" or "right": the lane with the nearest centre line."""
    return min(LANES, key=lambda lane: abs(LANES[lane] - vehicle.y))


def sample_scene(rng: np.random.Generator) -> Scene:
    """Return a scene in which every property that a caption states is drawn independently and uniformly."""
    lanes = rng.permutation(list(LANES))[: 1 + rng.integers(2)]
    vehicles = tuple(_vehicle(rng, str(lane)) for lane in lanes)
    state = [None, *LIGHT_STATES][rng.integers(4)]
    lights: tuple[TrafficLight, ...] = ()
    if state is not None:
        post = -1.5 * LANE_WIDTH - 1.6
        reach = -post + LANE_WIDTH + float(rng.uniform(-0.5, 0.5))
        lights = (TrafficLight(float(rng.uniform(17, 20)), post, state, reach=reach, heads=len(LANES)),)
    start = float(rng.uniform(*PATH_START))
    road = Road(((start, 0.0), (PATH_END, 0.0)), stop_line=lights[0].x - start - 4 if lights else None)
    return Scene(
        sky=SKIES[rng.integers(len(SKIES))],
        roads=(road,),
        vehicles=vehicles,
        lights=lights,
        trees=tuple(_trees(rng)),
        houses=tuple(_houses(rng)),
        lamps=_lamps(rng),
        seed=int(rng.integers(2**31)),
        headlamps=(0.0, 0.0, 0.0),
    )


def _vehicle(rng: np.random.Generator, lane: str) -> Vehicle:
    kind = VEHICLE_KINDS[rng.integers(len(VEHICLE_KINDS))]
    colour = str(rng.choice(list(BODY_COLOURS)))
    gap = rng.uniform(*(NEAR_GAP, FAR_GAP)[rng.integers(2)])
    vehicle = Vehicle(kind, colour, 0.0, LANES[lane] + float(rng.uniform(-0.25, 0.25)), braking=bool(rng.integers(2)))
    return Vehicle(
        kind, colour, float(gap) + vehicle.size[0] / 2, vehicle.y, float(rng.normal(0, 0.015)), vehicle.braking
    )


def _trees(rng: np.random.Generator) -> list[Tree]:
    shape = ("round", "fir")[rng.integers(2)]
    trees = []
    for side in (1, -1):
        for x in np.cumsum(rng.uniform(7, 22, 8)) + 4:
            if rng.random() < 0.7:
                y = side * (rng.uniform(9, 16) if x < 60 else rng.uniform(9, 30))
                trees.append(Tree(float(x), float(y), float(rng.uniform(4.5, 8.5)), shape, int(rng.integers(3))))
    return trees


def _houses(rng: np.random.Generator) -> list[House]:
    houses = []
    for side in (1, -1):
        for x in (30, 52, 74, 96):
            if rng.random() < 0.4:
                position = float(x + rng.uniform(-4, 4)), side * float(rng.uniform(19, 27))
                houses.append(House(*position, -side * np.pi / 2, int(rng.integers(5)), int(rng.integers(1, 4))))
    return houses


def _lamps(rng: np.random.Generator) -> tuple[StreetLamp, ...]:
    if rng.random() < 0.5:
        return ()
    first = rng.uniform(14, 30)
    return tuple(StreetLamp(float(first + 28 * index), 1.5 * LANE_WIDTH + 1.8, -np.pi / 2) for index in range(4))
