"""Captions composed from the tables: boxes, the scene's description, the ego vehicle's motion. It needs no model or image.

The texts state only what is annotated. No table of nuScenes has the state of traffic lights, so they have no caption.
"""

import itertools
import math
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from senna.convert.captioners import ANNOTATIONS, Request
from senna.convert.facts import Agent, Frame
from senna.kinds import kind_named, resolve
from senna.meta_actions import MetaAction

REACH = 60.0  # metres; farther boxes are a few pixels large
LANE = 2.0  # metres to each side of the center of the ego vehicle's path
AHEAD = 30.0  # metres; the distance that matters for a plan of 3 s

_NEAR = 15.0  # metres; only nearer road users are given as the reason for a stop
_MOVES = 0.5  # m/s; slower objects are described as not moving
_NAMED = 3  # number of nearest road users that are described individually
_NUMBERS = "no one two three four five six seven eight nine ten eleven twelve".split()
_PLURALS = {"child": "children", "debris": "pieces of debris", "bus": "buses"}
_SINGULARS = {"debris": "piece of debris"}

# (pattern in nuScenes' scene descriptions, phrase). In each table the first pattern that matches counts.
_WEATHER = (
    (r"after rain|wet road", "the road is wet after rain"),
    (r"(?:heavy|hard|strong) rain", "it rains hard"),
    (r"(?:light|slight) rain|drizzle", "it rains a little"),
    (r"rain\w*", "it rains"),
    (r"snow\w*", "it snows"),
    (r"fog\w*|mist\w*", "it is foggy"),
    (r"overcast|cloud\w*", "the sky is overcast"),
    (r"sun|sunny|clear(?: sky)?", "the sky is clear"),
)
_TIME = (
    (r"night", "it is night"),
    (r"dusk|evening|twilight|dawn", "it is half dark"),
    (r"day|daytime|daylight|noon|morning|afternoon", "it is day"),
)
_DIM = (r"difficult lighting|low light|poor light", "the lighting is difficult")

_SPEEDS = {
    "KEEP": ("keeps its speed", "holds its speed"),
    "ACCELERATE": ("accelerates", "picks up speed"),
    "DECELERATE": ("slows down", "reduces its speed"),
    "STOP": ("stops", "comes to a stop"),
}
_WAITS = ("stays at a stop", "keeps standing")
_UNEXPLAINED = {
    "STOP": "no road user on its way makes it wait",
    "DECELERATE": "no road user on its way makes it slow down",
}
_PATHS = {
    "STRAIGHT": "goes straight on",
    "LEFT_TURN": "turns left",
    "RIGHT_TURN": "turns right",
    "LEFT_CHANGE": "changes to the lane on its left",
    "RIGHT_CHANGE": "changes to the lane on its right",
}
_COUNTS = (
    "The {view} camera sees {objects}.",
    "In the {view} view there {are} {objects}.",
    "Within {reach} m the {view} view shows {objects}.",
    "{Objects} {are} in the {view} view.",
)
_NOBODY = (
    "Nothing annotated is within {reach} m in the {view} view.",
    "The {view} view is free of annotated road users and obstacles within {reach} m.",
)


class AnnotationsCaptioner:
    """Composes answers from the tables; the same frame always gives the same text."""

    name = ANNOTATIONS
    window = 1

    def answer(self, requests: Sequence[Request]) -> list[str]:
        """Return one text for each request; "" for kinds without ``compose`` and for frames without annotations."""
        return [_text(request) for request in requests]


def _text(request: Request) -> str:
    kind = kind_named(request.kind)
    compose = kind.caption.compose if kind and kind.caption else None
    return resolve(compose)(request.frame, request.view) if compose and request.frame.annotated else ""


def describe(frame: Frame, view: str) -> str:
    """Return a description of a view: weather and light, the number of objects, and the nearest road users."""
    seen = sorted((agent for agent in frame.agents if agent.view == view and _distance(agent) <= REACH), key=_distance)
    forms = _COUNTS if seen else _NOBODY
    objects = listed([_number(count, name) for name, count in Counter(agent.name for agent in seen).most_common()])
    first = forms[_choice(frame.token, view, len(forms))].format(
        view=view,
        objects=objects,
        Objects=objects[:1].upper() + objects[1:],
        reach=f"{REACH:.0f}",
        are="is" if len(seen) == 1 else "are",
    )
    return " ".join(text for text in (sky_of(frame.description), first, _nearest(seen)) if text)


def explain_plan(frame: Frame, view: str) -> str:
    """Return the explanation of a frame's plan, "" where it has none; the view does not matter."""
    return "" if frame.plan is None else explain(frame, frame.plan)


def explain(frame: Frame, plan: MetaAction) -> str:
    """Return the plan in words, with the reason that the tables give, or the statement that they give none."""
    is_standing = frame.speed < _MOVES
    words = _WAITS if is_standing and plan.speed == "STOP" else _SPEEDS[plan.speed]
    doing = words[_choice(frame.token, "speed", len(words))]
    if plan != MetaAction("STOP", "STRAIGHT"):
        doing += f" and {_PATHS[plan.path]}"
    now = ", which stands now," if is_standing else f", which drives at {frame.speed:.1f} m/s,"
    reasons = (_speed_reason(frame, plan), _path_reason(frame, plan))
    return f"The car{'' if math.isnan(frame.speed) else now} {doing}. " + " ".join(_sentence(text) for text in reasons)


@lru_cache(maxsize=64)  # all frames of a scene have the same description
def sky_of(description: str) -> str:
    """Return a sentence about the weather and time of day that the scene's description names; "" where it names none."""
    words = [
        text
        for table in (_TIME, _WEATHER, (_DIM,))
        for text in [next((text for form, text in table if re.search(rf"\b(?:{form})\b", description, re.I)), "")]
        if text
    ]
    return _sentence(listed(words)) if words else ""


def listed(words: Sequence[str]) -> str:
    """Return the words as ``a``, ``a and b`` or ``a, b and c``."""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def on_the_way(frame: Frame) -> list[Agent]:
    """Return the road users on the ego vehicle's path of the next 3 s, the nearest first.

    Unless the vehicle turns, the path is extended to ``AHEAD`` metres.
    """
    points = [(0.0, 0.0), *((float(x), float(y)) for x, y in frame.future)]
    (x0, y0), (x1, y1) = points[-2:]
    step = math.hypot(x1 - x0, y1 - y0)
    along = ((x1 - x0) / step, (y1 - y0) / step) if step >= _MOVES else (0.0, 1.0)
    rest = AHEAD - math.hypot(x1, y1)
    if rest > 0 and not (frame.plan and frame.plan.path.endswith("TURN")):
        points.append((x1 + rest * along[0], y1 + rest * along[1]))
    users = (agent for agent in frame.agents if agent.group != "static" and agent.y > 0 and _distance(agent) <= AHEAD)
    return sorted((user for user in users if _gap(user, points) <= LANE), key=_distance)


def _gap(agent: Agent, points: list[tuple[float, float]]) -> float:
    """Return the distance in metres between an agent's center and a polyline."""
    gaps = []
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        dx, dy = x1 - x0, y1 - y0
        share = ((agent.x - x0) * dx + (agent.y - y0) * dy) / max(dx * dx + dy * dy, 1e-9)
        share = min(max(share, 0.0), 1.0)
        gaps.append(math.hypot(agent.x - x0 - share * dx, agent.y - y0 - share * dy))
    return min(gaps)


def _nearest(seen: Sequence[Agent]) -> str:
    """Return a sentence about the nearest objects of a view, given sorted by distance; "" where there are none."""
    if len(seen) == 1:
        return f"It is {_position(seen[0])}."
    users = [agent for agent in seen if agent.group != "static"] or list(seen[:1])
    phrases = [f"{_article(user.name)} {_position(user)}" for user in users[:_NAMED]]
    noun = "" if seen and users[0].group == "static" else " road users" if len(phrases) > 1 else " road user"
    return f"The nearest{noun} {'are' if len(phrases) > 1 else 'is'} {listed(phrases)}." if phrases else ""


def _speed_reason(frame: Frame, plan: MetaAction) -> str:
    users, pedestrians = on_the_way(frame), _pedestrians_near_path(frame)
    first = f"on its way there is {_article(users[0].name)} {_position(users[0])}" if users else ""
    if plan.speed == "STOP" and users and _distance(users[0]) <= _NEAR:
        return first
    if plan.speed == "DECELERATE" and users and not users[0].speed >= frame.speed:  # true for an unknown speed too
        return first
    if plan.speed in _UNEXPLAINED and pedestrians:
        count = len(pedestrians)
        return f"close to its way there {'is' if count == 1 else 'are'} {_number(count, 'pedestrian')}"
    if plan.speed == "DECELERATE" and plan.path.endswith("TURN"):
        return "the turn asks for a low speed"
    if plan.speed in _UNEXPLAINED:
        return _UNEXPLAINED[plan.speed]
    reach = "" if plan.path.endswith("TURN") else f" within {AHEAD:.0f} m"
    return first or f"no road user is on its way{reach}"


def _path_reason(frame: Frame, plan: MetaAction) -> str:
    side = "left" if "LEFT" in plan.path else "right" if "RIGHT" in plan.path else ""
    agrees = f"turn {side}" in frame.command if side else frame.command == "go straight"
    if plan.path.endswith("CHANGE"):
        return f"it moves over, and its route says: {frame.command}"
    if agrees:
        return f"its route says: {frame.command}"
    if side:
        return f"the road leads it to the {side}, while its route says: {frame.command}"
    return f"its route says: {frame.command}, and the turn has not begun"


def _pedestrians_near_path(frame: Frame) -> list[Agent]:
    """Return the pedestrians who are, or may soon be, in front of the ego vehicle."""
    return [
        agent
        for agent in frame.agents
        if agent.group == "pedestrian" and abs(agent.x) <= 2 * LANE and 0 < agent.y <= AHEAD / 2
    ]


def _position(agent: Agent) -> str:
    """Return an agent's position and motion: ``12 m away (ahead on the left, moving at 5 m/s)``."""
    direction, side = "ahead" if agent.y >= 0 else "behind", "on the left" if agent.x < 0 else "on the right"
    is_beside = abs(agent.y) <= LANE
    where = f"straight {direction}" if abs(agent.x) <= LANE else side if is_beside else f"{direction} {side}"
    return f"{_distance(agent):.0f} m away ({where}{_motion(agent)})"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _motion(agent: Agent) -> str:
    if agent.group == "static" or math.isnan(agent.speed):
        return ""
    if agent.speed < _MOVES:
        return ", not moving"
    return f", moving at {agent.speed:.0f} m/s" if agent.speed >= 1 else ", moving slowly"


def _distance(agent: Agent) -> float:
    return math.hypot(agent.x, agent.y)


def _number(count: int, name: str) -> str:
    if count == 1:
        return _article(name)
    ending = "es" if re.search(r"(?:s|x|ch|sh)\Z", name) else "s"
    return f"{_NUMBERS[count] if count < len(_NUMBERS) else count} {_PLURALS.get(name, name + ending)}"


def _article(name: str) -> str:
    name = _SINGULARS.get(name, name)
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _choice(token: str, topic: str, count: int) -> int:
    """Return an index below ``count`` that varies between frames and topics and is the same in every run."""
    return zlib.crc32(f"{token} {topic}".encode()) % count
