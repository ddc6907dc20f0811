"""The facts that a road scene shows, and the captions that state them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from senna.synthetic.render.scene import BODY_COLOURS, LIGHT_STATES, SKIES, VEHICLE_KINDS, Scene
from senna.synthetic.tiny import layout
from senna.synthetic.tiny.road_scenes import distance_word, lane_word
from senna.templates import load_templates
from senna.views import image_block

LANE_PHRASES = {"left": "in the left lane", "middle": "straight ahead", "right": "in the right lane"}
DISTANCE_PHRASES = {"near": "close by", "far": "far away"}
SKY_PHRASES = {
    "clear": "under a clear sky",
    "overcast": "under an overcast sky",
    "dusk": "in the light of dusk",
    "night": "in the dark of night",
}
LIGHT_PHRASES = {
    "red": "the traffic light is red",
    "yellow": "the traffic light is yellow",
    "green": "the traffic light is green",
    "none": "there is no traffic light",
}
FORMS = (
    "{vehicles}, {light}, {sky}.",
    "{sky}, {vehicles}, and {light}.",
    "{sky}, {light}, and {vehicles}.",
)
INSTRUCTIONS = (
    "What can be seen on the road ahead?",
    "Describe this road scene in one sentence.",
    "Say which vehicles are ahead, what the traffic light shows and what the sky is like.",
    "Give a short account of the view through the windscreen.",
    "Which vehicles, which light, which sky?",
    "Summarise the traffic in this picture.",
    "Tell the driver what lies ahead.",
    "What does the front camera show?",
)


@dataclass(frozen=True, order=True)
class SeenVehicle:
    """A vehicle as a caption describes it.

    Attributes:
        lane: a key of LANE_PHRASES.
        distance: a key of DISTANCE_PHRASES.
        colour: a key of BODY_COLOURS.
        kind: one of VEHICLE_KINDS.
    """

    lane: str
    distance: str
    colour: str
    kind: str


@dataclass(frozen=True)
class Facts:
    """The facts of an image.

    Attributes:
        sky: one of SKIES.
        light: the traffic light, "none" without one; None if it is too far away to tell.
        vehicles: from left to right; without any there is no caption.
        layout: of a front view of the driving world.
    """

    sky: str
    light: str | None
    vehicles: tuple[SeenVehicle, ...]
    layout: layout.Layout | None = None


def facts_of(scene: Scene) -> Facts:
    """Return the facts of a scene of stage 1, which has at most one traffic light."""
    seen = tuple(
        SeenVehicle(lane_word(vehicle), distance_word(vehicle), vehicle.colour, vehicle.kind)
        for vehicle in sorted(scene.vehicles, key=lambda vehicle: -vehicle.y)
    )
    return Facts(scene.sky, scene.lights[0].state if scene.lights else "none", seen)


def sample_facts(rng: np.random.Generator) -> Facts:
    """Draw facts with the distribution of `facts_of(sample_scene(rng))`, without a scene: for text without images."""

    def pick(choices: tuple[str, ...] | list[str]) -> str:
        return choices[rng.integers(len(choices))]

    taken = rng.permutation(list(LANE_PHRASES))[: 1 + rng.integers(2)]
    lanes = [lane for lane in LANE_PHRASES if lane in taken]
    vehicles = tuple(
        SeenVehicle(lane, pick(list(DISTANCE_PHRASES)), pick(list(BODY_COLOURS)), pick(VEHICLE_KINDS)) for lane in lanes
    )
    return Facts(pick(SKIES), pick(["none", *LIGHT_STATES]), vehicles)


def caption(facts: Facts, rng: np.random.Generator) -> str:
    """Return a sentence that states all the facts, in a form that `rng` picks."""
    vehicles = " and ".join(_clause(vehicle) for vehicle in facts.vehicles)
    form = FORMS[rng.integers(len(FORMS))]
    text = form.format(vehicles=vehicles, light=LIGHT_PHRASES[str(facts.light)], sky=SKY_PHRASES[facts.sky])
    return text[0].upper() + text[1:]


def instruction(rng: np.random.Generator) -> str:
    """Return an instruction that the caption answers."""
    return INSTRUCTIONS[rng.integers(len(INSTRUCTIONS))]


def conversations(facts: Facts, rng: np.random.Generator) -> dict[str, list[dict[str, str]]]:
    """Return the conversations about an image: "caption", "light" as the converter asks for it, and "layout".

    Those that the facts do not answer are left out.
    """
    pairs = {}
    if facts.light is not None:
        if facts.vehicles:
            pairs["caption"] = instruction(rng), caption(facts, rng)
        pairs["light"] = _light_question(), facts.light.capitalize()
    if facts.layout is not None:
        pairs["layout"] = layout.QUESTION, str(facts.layout)
    return {
        kind: [{"from": "human", "value": image_block(("front",)) + question}, {"from": "gpt", "value": answer}]
        for kind, (question, answer) in pairs.items()
    }


@cache
def _light_question() -> str:
    return load_templates()["traffic_light"]["question"]


def _clause(vehicle: SeenVehicle) -> str:
    article = "an" if vehicle.colour[0] in "aeiou" else "a"
    distance, lane = DISTANCE_PHRASES[vehicle.distance], LANE_PHRASES[vehicle.lane]
    return f"{article} {vehicle.colour} {vehicle.kind} is {distance} {lane}"
