"""Text from the tables alone: boxes, the scene's description, the car's own motion. No model, no picture, no waiting.

It says what is annotated and no more. What a traffic light shows is in no table, so about that it says nothing.
"""

import itertools
import math
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from senna.convert.captioners import Request
from senna.convert.facts import Agent, Frame
from senna.meta_actions import MetaAction

REACH = 60.0  # metres: boxes beyond are a few pixels
LANE = 2.0  # metres to each side of the middle of the car's way
AHEAD = 30.0  # metres: what a plan of 3 s must mind

_NEAR = 15.0  # metres: who is farther does not keep a standing car waiting
_MOVES = 0.5  # m/s
_NAMED = 3  # the nearest road users are told one by one
_NUMBERS = "no one two three four five six seven eight nine ten eleven twelve".split()
_PLURALS = {"child": "children", "debris": "pieces of debris", "bus": "buses"}
_SINGULARS = {"debris": "piece of debris"}

# A word of nuScenes' scene descriptions -> what it says of the air and of the light. Of several the first counts.
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
    """The captioner that knows the tables; the same frame always gives the same words."""

    name = "annotations"
    window = 1

    def answer(self, requests: Sequence[Request]) -> list[str]:
        """One text a request; "" about a traffic light, and where nobody annotated the frame."""
        return [_text(request) for request in requests]


def _text(request: Request) -> str:
    frame = request.frame
    if not frame.annotated:
        return ""
    if request.kind == "description":
        return describe(frame, request.view)
    if request.kind == "explanation" and frame.plan is not None:
        return explain(frame, frame.plan)
    return ""


def describe(frame: Frame, view: str) -> str:
    """The air and the light as the scene's description has them, what is in the view, and the nearest road users of it."""
    seen = sorted((one for one in frame.agents if one.view == view and _distance(one) <= REACH), key=_distance)
    forms = _COUNTS if seen else _NOBODY
    objects = listed([_number(count, name) for name, count in Counter(one.name for one in seen).most_common()])
    first = forms[_choice(frame.token, view, len(forms))].format(
        view=view,
        objects=objects,
        Objects=objects[:1].upper() + objects[1:],
        reach=f"{REACH:.0f}",
        are="is" if len(seen) == 1 else "are",
    )
    return " ".join(text for text in (sky_of(frame.description), first, _nearest(seen)) if text)


def explain(frame: Frame, plan: MetaAction) -> str:
    """The plan in words, with what the tables give as its reason, or that they give none."""
    standing = frame.speed < _MOVES
    words = _WAITS if standing and plan.speed == "STOP" else _SPEEDS[plan.speed]
    doing = words[_choice(frame.token, "speed", len(words))]
    if plan != MetaAction("STOP", "STRAIGHT"):
        doing += f" and {_PATHS[plan.path]}"
    now = ", which stands now," if standing else f", which drives at {frame.speed:.1f} m/s,"
    reasons = (_speed_reason(frame, plan), _path_reason(frame, plan))
    return f"The car{'' if math.isnan(frame.speed) else now} {doing}. " + " ".join(_sentence(text) for text in reasons)


@lru_cache(maxsize=64)  # a scene has one description for all its views and frames
def sky_of(description: str) -> str:
    """A sentence about weather and time of day, as far as the scene's description names them, else ""."""
    words = [
        text
        for table in (_TIME, _WEATHER, (_DIM,))
        for text in [next((text for form, text in table if re.search(rf"\b(?:{form})\b", description, re.I)), "")]
        if text
    ]
    return _sentence(listed(words)) if words else ""


def listed(words: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def on_the_way(frame: Frame) -> list[Agent]:
    """The road users on the car's way of the next 3 s, drawn out to ``AHEAD`` metres unless it turns; the nearest first."""
    points = [(0.0, 0.0), *((float(x), float(y)) for x, y in frame.future)]
    (x0, y0), (x1, y1) = points[-2:]
    step = math.hypot(x1 - x0, y1 - y0)
    along = ((x1 - x0) / step, (y1 - y0) / step) if step >= _MOVES else (0.0, 1.0)
    rest = AHEAD - math.hypot(x1, y1)
    if rest > 0 and not (frame.plan and frame.plan.path.endswith("TURN")):
        points.append((x1 + rest * along[0], y1 + rest * along[1]))
    users = (one for one in frame.agents if one.group != "static" and one.y > 0 and _distance(one) <= AHEAD)
    return sorted((one for one in users if _gap(one, points) <= LANE), key=_distance)


def _gap(agent: Agent, points: list[tuple[float, float]]) -> float:
    """Metres between an agent's middle and a line of points."""
    gaps = []
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        dx, dy = x1 - x0, y1 - y0
        part = ((agent.x - x0) * dx + (agent.y - y0) * dy) / max(dx * dx + dy * dy, 1e-9)
        part = min(max(part, 0.0), 1.0)
        gaps.append(math.hypot(agent.x - x0 - part * dx, agent.y - y0 - part * dy))
    return min(gaps)


def _nearest(seen: Sequence[Agent]) -> str:
    """A sentence about the nearest of what a view shows, which is sorted by distance; "" where it shows nothing."""
    if len(seen) == 1:
        return f"It is {_placed(seen[0])}."
    users = [one for one in seen if one.group != "static"] or list(seen[:1])
    told = [f"{_article(one.name)} {_placed(one)}" for one in users[:_NAMED]]
    what = "" if seen and users[0].group == "static" else " road users" if len(told) > 1 else " road user"
    return f"The nearest{what} {'are' if len(told) > 1 else 'is'} {listed(told)}." if told else ""


def _speed_reason(frame: Frame, plan: MetaAction) -> str:
    way, walkers = on_the_way(frame), _walkers(frame)
    first = f"on its way there is {_article(way[0].name)} {_placed(way[0])}" if way else ""
    if plan.speed == "STOP" and way and _distance(way[0]) <= _NEAR:
        return first
    if plan.speed == "DECELERATE" and way and not way[0].speed >= frame.speed:  # of unknown speed it is in the way too
        return first
    if plan.speed in _UNEXPLAINED and walkers:
        return f"close to its way there {'is' if len(walkers) == 1 else 'are'} {_number(len(walkers), 'pedestrian')}"
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


def _walkers(frame: Frame) -> list[Agent]:
    """Pedestrians who are or may soon be on the car's way."""
    return [
        one for one in frame.agents if one.group == "pedestrian" and abs(one.x) <= 2 * LANE and 0 < one.y <= AHEAD / 2
    ]


def _placed(agent: Agent) -> str:
    """``12 m away (ahead on the left, moving at 5 m/s)``."""
    steep, side = "ahead" if agent.y >= 0 else "behind", "on the left" if agent.x < 0 else "on the right"
    far = abs(agent.y) > LANE
    where = f"straight {steep}" if abs(agent.x) <= LANE else f"{steep} {side}" if far else side
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


def _choice(token: str, what: str, count: int) -> int:
    """Varied from frame to frame and view to view, the same at every run."""
    return zlib.crc32(f"{token} {what}".encode()) % count
