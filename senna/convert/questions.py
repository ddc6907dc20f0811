"""From the facts of a frame to its questions, the answers that the tables give, and its records."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from senna.convert.categories import is_vulnerable
from senna.convert.facts import Agent, Frame
from senna.kinds import all_kinds, kind_named, resolve
from senna.records import Record
from senna.templates import Templates
from senna.trajectory import format_trajectory
from senna.views import VIEWS, image_block

TABLES = "tables"  # the value of `captioner` in records that the tables answer

_VRU_REACH = 20.0  # metres
_REACH = {view: 40.0 if view == "front" else 20.0 for view in VIEWS}  # metres
_MAX_OBJECTS = 20  # the nearest; with more, question and answer about six views exceed 2048 tokens
_PUBLISHED_ORDER = [
    VIEWS.index(view) for view in ("front", "front right", "front left", "back", "back left", "back right")
]
_ALL_IMAGES = image_block()
_HERE = "\0"  # stands for the plan while its places in a text are found


class Question(NamedTuple):
    """A question about a frame."""

    kind: str  # name of a kind in `senna.kinds`
    views: tuple[str, ...]  # the images that the record shows
    text: str  # without the image block; a captioner is asked this text with the image of `view`
    answer: str | None  # None where the captioner must answer
    view: str  # the view that the question is about
    command: str | None = None  # the navigation command, where the question states it
    speed: float | None = None  # the ego vehicle's speed in m/s as the question states it, None where unknown
    plan: str | None = None  # the plan that the question states, where the evaluation replaces it by the predicted one
    plan_at: list[int] | None = None  # where it stands: its first characters' offsets in the text


class Answer(NamedTuple):
    """A captioner's answer."""

    text: str  # "" where the captioner has no answer
    captioner: str  # its name


def questions_of(frame: Frame, templates: Templates) -> list[Question]:
    """Return the questions about a frame, in the order of the registry of kinds and of ``VIEWS``.

    There is at most one question for each kind and view. Plan and explanation are left out where the next 3 s are not
    completely known, and questions about road users where the frame is not annotated.
    """
    return [question for kind in all_kinds() for question in resolve(kind.ask)(frame, templates)]


def records_of(frame: Frame, questions: Iterable[Question], captions: Mapping[tuple[str, str], Answer]) -> list[Record]:
    """Return a frame's records, one for each answered question (format: ``senna.records``).

    Args:
        questions: the result of ``questions_of`` for this frame.
        captions: (kind, view) -> answer, for the questions that the tables do not answer. A question with no answer or an
            empty one is left out.
    """
    images = [frame.images[index] for index in _PUBLISHED_ORDER] if frame.compat else list(frame.images)
    known = frame.future[np.isfinite(frame.future).all(axis=1)].round(3).tolist()
    frame_fields = {
        "token": frame.token,
        "image": frame.images[0],
        "images": images,
        "prev": frame.prev,
        "next": frame.next,
        "scene_token": frame.scene_token,
        "fut_valid_flag": len(known) == len(frame.future),
        "ego_fut_trajs": known,  # (T, 2): the known steps, all six where the flag is set
    }
    records = []
    for question in questions:
        answer = Answer(question.answer, TABLES) if question.answer else captions.get((question.kind, question.view))
        if answer is not None and answer.text:
            records.append(_record(frame_fields, question, answer))
    return records


def _record(frame_fields: Record, question: Question, answer: Answer) -> Record:
    name = f"{question.kind}-{question.view.replace(' ', '-')}" if _is_per_view(question.kind) else question.kind
    block = _ALL_IMAGES if question.views is VIEWS else image_block(question.views)
    stated = {"view": question.view, "command": question.command, "speed": question.speed, "plan": question.plan}
    if question.plan_at is not None:
        stated["plan_at"] = [len(block) + place for place in question.plan_at]
    return {
        "id": f"{frame_fields['token']}-{name}",
        "kind": question.kind,
        "captioner": answer.captioner,
        **{key: value for key, value in stated.items() if value is not None},
        **frame_fields,
        "conversations": [
            {"from": "human", "value": block + question.text},
            {"from": "gpt", "value": answer.text},
        ],
    }


def ask_vru(frame: Frame, templates: Templates) -> Iterator[Question]:
    """Ask for the vulnerable road users in front; the tables answer."""
    if not frame.annotated:
        return
    texts, reach = templates["vru"], f"{_VRU_REACH:.0f}"
    users = _nearest(
        agent
        for agent in frame.agents
        if agent.view == "front"
        and is_vulnerable(agent.category, agent.group)
        and math.hypot(agent.x, agent.y) < _VRU_REACH
    )
    objects = [texts["object"].format(name=user.name, **_position(user, templates["words"])) for user in users]
    answer = (
        texts["some"].format(objects=", ".join(objects), reach=reach, are="is" if len(users) == 1 else "are")
        if users
        else texts["none"].format(reach=reach)
    )
    yield Question("vru", VIEWS, texts["question"].format(reach=reach), answer, "front")


def ask_motion(frame: Frame, templates: Templates) -> Iterator[Question]:
    """Ask what the moving objects of each view will do; the tables answer."""
    if not frame.annotated:
        return
    texts, words = templates["motion"], templates["words"]
    in_view: dict[str, list[Agent]] = {view: [] for view in VIEWS}
    for agent in frame.agents:
        if agent.group != "static" and agent.plan is not None and math.hypot(agent.x, agent.y) < _REACH[agent.view]:
            in_view[agent.view].append(agent)
    for view, agents in in_view.items():
        if agents:
            nearest = _nearest(agents)
            lines = [_motion_line(number, agent, texts["object"], words) for number, agent in enumerate(nearest, 1)]
            question = texts["question"].format(objects="\n".join(lines), view=view)
            answer = "".join(f"Object {number}: {agent.plan}\n" for number, agent in enumerate(nearest, 1))
            yield Question("motion", VIEWS, question, answer, view)


def ask_traffic_light(frame: Frame, templates: Templates) -> Iterator[Question]:
    """Ask what the traffic light shows; a captioner answers where the tables do not know."""
    light = None if frame.light is None else frame.light.capitalize()
    yield Question("traffic_light", VIEWS, templates["traffic_light"]["question"], light, "front")


def ask_description(frame: Frame, templates: Templates) -> Iterator[Question]:
    """Ask for a description of each view; a captioner answers."""
    text = templates["description"]["question"]
    for view in VIEWS:
        yield Question("description", VIEWS, _fill(text, "view", view), None, view)


def ask_explanation(frame: Frame, templates: Templates) -> Iterator[Question]:
    """Ask for the reasons of the plan, where the next 3 s are completely known; a captioner answers."""
    if frame.plan is not None:
        text = templates["explanation"]["question"].format(plan=frame.plan, **_situation(frame, templates))
        yield Question("explanation", VIEWS, text, None, "front", frame.command, _stated_speed(frame))


def ask_plan(frame: Frame, templates: Templates) -> Iterator[Question]:
    """Ask for the plan, where the next 3 s are completely known; the tables answer."""
    if frame.plan is not None:
        text = templates["plan"]["question"].format(**_situation(frame, templates))
        yield Question("plan", VIEWS, text, f"{frame.plan}\n", "front", frame.command, _stated_speed(frame))


def ask_trajectory(frame: Frame, templates: Templates) -> Iterator[Question]:
    """Ask for the waypoints, given the plan, where the next 3 s are completely known; the tables answer."""
    if frame.plan is None:
        return
    pieces = templates["trajectory"]["question"].format(plan=_HERE, **_situation(frame, templates)).split(_HERE)
    plan, places, text = str(frame.plan), [], pieces[0]
    for piece in pieces[1:]:
        places.append(len(text))
        text += plan + piece
    answer = f"{format_trajectory(frame.future)}\n"
    yield Question("trajectory", VIEWS, text, answer, "front", frame.command, _stated_speed(frame), plan, places)


def _situation(frame: Frame, templates: Templates) -> dict[str, str]:
    return {"command": frame.command, "speed": _speed(frame.speed, templates["words"])}


def _stated_speed(frame: Frame) -> float | None:
    """Return the speed as `_speed` writes it into a question, None where it is unknown."""
    return None if math.isnan(frame.speed) else float(f"{frame.speed:.1f}")


def _is_per_view(name: str) -> bool:
    kind = kind_named(name)
    return kind is not None and kind.per_view


def _motion_line(number: int, agent: Agent, text: str, words: Mapping[str, str]) -> str:
    return text.format(number=number, name=agent.name, speed=_speed(agent.speed, words), **_position(agent, words))


def _nearest(agents: Iterable[Agent]) -> Sequence[Agent]:
    return sorted(agents, key=lambda agent: math.hypot(agent.x, agent.y))[:_MAX_OBJECTS]


def _position(agent: Agent, words: Mapping[str, str]) -> dict[str, str]:
    ahead, aside = words["ahead" if agent.y >= 0 else "behind"], words["right" if agent.x >= 0 else "left"]
    return {
        "ahead": _fill(ahead, "metres", round(abs(agent.y))),
        "aside": _fill(aside, "metres", round(abs(agent.x))),
    }


def _speed(speed: float, words: Mapping[str, str]) -> str:
    return words["speed_unknown"] if math.isnan(speed) else _fill(words["speed"], "speed", f"{speed:.1f}")


@lru_cache(maxsize=4096)  # a data set's lines consist of a few hundred different phrases
def _fill(text: str, slot: str, value: int | str) -> str:
    return text.format(**{slot: value})
