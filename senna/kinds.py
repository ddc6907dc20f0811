"""The registry of question kinds. An entry has everything that the project needs to know about a kind.

A new kind needs one entry here (or a call of ``register`` elsewhere), one section in the file of templates and one scorer.
Functions of upper layers are given as ``"module:function"`` and imported on first use, so that this module imports nothing
above it.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, NamedTuple

from senna.errors import UsageError
from senna.meta_actions import MetaAction, parse_meta_action
from senna.trajectory import parse_trajectory

TRAFFIC_LIGHTS = ("Red", "Yellow", "Green", "None")
"""The answers to a traffic-light question."""

PLAN = "plan"
"""The kind that asks for the driving decision."""

TRAJECTORY = "trajectory"
"""The kind that asks for the waypoints of the next 3 s, given the plan."""

OTHER = "other"
"""The kind of a record whose answers have no known form."""

Reference = str | Callable[..., Any]
"""A function, or its name as "module:function"."""


class Slots(NamedTuple):
    """The slots of a template: those that it must use, and all that it may use."""

    needed: frozenset[str]
    known: frozenset[str]


def slots(needed: str = "", optional: str = "") -> Slots:
    """Return the `Slots` of a template. Names are separated by blanks."""
    return Slots(frozenset(needed.split()), frozenset((*needed.split(), *optional.split())))


@dataclass(frozen=True)
class CaptionRules:
    """Rules for a captioner's answers to a kind of question.

    Attributes:
        words: the only valid answers; empty if the answer is free text.
        shortest, longest: minimum and maximum length of a free text, in words.
        hint: a sentence that is added to the question when the first answer was not usable.
        simplify: cleaned answer -> the element of ``words`` that it means, None if that is unclear. Default: compare the
            answer with ``words``, ignoring case and punctuation.
        compose: (`senna.convert.facts.Frame`, view) -> answer of the captioner `annotations`, composed from the tables;
            None if they cannot give it.
    """

    words: tuple[str, ...] = ()
    shortest: int = 1
    longest: int = 250
    hint: str = "Answer in two or three short, complete sentences, and say nothing twice."
    simplify: Reference | None = None
    compose: Reference | None = None


@dataclass(frozen=True)
class QuestionKind:
    """A kind of question.

    Attributes:
        name: the value of ``kind`` in a record.
        title: the name that pages show.
        stage: the training stage that uses it, 2 or 3.
        ask: (`senna.convert.facts.Frame`, templates) -> iterable of `senna.convert.questions.Question`.
        template: key -> slots, for the kind's section in the file of templates.
        parse: answer text -> value, None if the text has no valid form.
        score: (ground truth values, predicted values, `senna.evaluate.metrics.bootstrap.Scenes`) -> figures of metrics.json;
            None if the kind has its own metrics (plan and trajectory).
        recognize: answers of a record without ``kind`` -> whether they have the form of this kind; None if the form
            does not show the kind.
        caption: rules for a captioner's answers; None if the tables give the answer.
        labels: answer text -> the labels that the quality report counts; None if the answer is free text.
        per_view: whether there is a question for each view.
        on_request: whether its stage takes it only where ``--kinds`` names it. A file of templates may then lack its section,
            as those of earlier versions do.
        metric_note: a sentence about the metrics that the report shows below them.
    """

    name: str
    title: str
    stage: int
    ask: Reference
    template: Mapping[str, Slots]
    parse: Reference
    score: Reference | None = None
    recognize: Callable[[Sequence[str]], bool] | None = None
    caption: CaptionRules | None = None
    labels: Callable[[str], list[str]] | None = None
    per_view: bool = False
    on_request: bool = False
    metric_note: str = field(default="", compare=False)


def resolve(reference: Reference) -> Callable[..., Any]:
    """Return the function that a `Reference` names."""
    if callable(reference):
        return reference
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)


def parse_traffic_light(text: str) -> int | None:
    """Return the index in ``TRAFFIC_LIGHTS`` of a one-word answer; None for any other answer."""
    found = _LIGHT.fullmatch(text)
    return TRAFFIC_LIGHTS.index(found[1].capitalize()) if found else None


def parse_motion(text: str) -> dict[int, MetaAction | None] | None:
    """Return object number -> meta-action of the lines "Object 3: KEEP, STRAIGHT"; None if there is no such line.

    The meta-action is None if the line has no valid one, or if the object has two lines.
    """
    found = [line for line in map(_OBJECT.fullmatch, text.splitlines()) if line]
    times = Counter(int(line[1]) for line in found)
    objects = {int(line[1]): parse_meta_action(line[2]) for line in found}
    return {number: action if times[number] == 1 else None for number, action in objects.items()} or None


def parse_text(text: str) -> str | None:
    """Return a free text without surrounding blanks; None if it is empty."""
    return text.strip() or None


_LIGHT = re.compile(rf"\W*({'|'.join(TRAFFIC_LIGHTS)})\W*", re.IGNORECASE)
_BARE_LIGHT = re.compile(rf"\s*(?:{'|'.join(TRAFFIC_LIGHTS)})\.?\s*", re.IGNORECASE)
_OBJECT = re.compile(r"\s*object\s+(\d+)\s*:(.*)", re.IGNORECASE)


def _single_label(answer: str) -> list[str]:
    return [answer.strip()]


def _motion_labels(answer: str) -> list[str]:
    return [line.split(":", 1)[1].strip() for line in answer.splitlines() if ":" in line]


def _is_plan(answers: Sequence[str]) -> bool:
    return all(parse_meta_action(answer) for answer in answers)


def _is_trajectory(answers: Sequence[str]) -> bool:
    return all(parse_trajectory(answer) is not None for answer in answers)


def _is_traffic_light(answers: Sequence[str]) -> bool:
    return all(_BARE_LIGHT.fullmatch(answer) for answer in answers)


def _is_motion(answers: Sequence[str]) -> bool:
    lines = [line for answer in answers for line in answer.splitlines() if line.strip()]
    objects = (_OBJECT.fullmatch(line) for line in lines)
    return all(found and parse_meta_action(found[2]) for found in objects)


_KINDS: dict[str, QuestionKind] = {}


def register(kind: QuestionKind) -> QuestionKind:
    """Add a kind to the registry. Raises UsageError if its name is taken or its stage is neither 2 nor 3."""
    if kind.name in _KINDS or kind.name == OTHER:
        raise UsageError(f"question kind {kind.name!r} is registered already", remedy="give the new kind another name")
    if kind.stage not in (2, 3):
        raise UsageError(f"question kind {kind.name!r} has stage {kind.stage}", remedy="use stage 2 or 3")
    _KINDS[kind.name] = kind
    return kind


def unregister(name: str) -> None:
    """Remove a kind, for tests."""
    _KINDS.pop(name, None)


def all_kinds() -> tuple[QuestionKind, ...]:
    """Return every kind, in the order in which a frame's records are written."""
    return tuple(_KINDS.values())


def kind_named(name: str) -> QuestionKind | None:
    """Return the kind of that name; None if it is not registered, as in records from other sources."""
    return _KINDS.get(name)


def stage_of(name: str) -> int:
    """Return the training stage that uses records of a kind; kinds that are not registered belong to stage 2."""
    kind = _KINDS.get(name)
    return 2 if kind is None else kind.stage


def is_on_request(name: str) -> bool:
    """Return whether a stage takes records of a kind only where ``--kinds`` names it."""
    kind = _KINDS.get(name)
    return kind is not None and kind.on_request


def recognize(answers: Iterable[str]) -> str:
    """Return the name of the kind whose form all answers of a record have, ``OTHER`` if there is none."""
    texts = list(answers)
    if not any(text.strip() for text in texts):
        return OTHER
    known = sorted(_KINDS.values(), key=lambda kind: kind.name != PLAN)  # the plan is tested first
    return next((kind.name for kind in known if kind.recognize and kind.recognize(texts)), OTHER)


_QUESTIONS = "senna.convert.questions"
_ANNOTATIONS = "senna.convert.captioners.annotations"
_SCORES = "senna.evaluate.metrics"
_CAPTION_NOTE = (
    "Overlap with the recorded text, as in COCO's caption evaluation. It does not measure whether an answer is true."
)

register(
    QuestionKind(
        "vru",
        "People and two wheels",
        stage=2,
        ask=f"{_QUESTIONS}:ask_vru",
        template={
            "question": slots("", "reach"),
            "some": slots("objects", "reach are"),
            "object": slots("name", "ahead aside"),
            "none": slots("", "reach"),
        },
        parse=f"{_SCORES}.road_users:parse_users",
        score=f"{_SCORES}.road_users:score_users",
        metric_note="People on foot or on two wheels: does the answer say correctly whether anyone is there, and does it name "
        "the right users, matched by name? The distance error is that of the distance from the ego vehicle, the place error "
        "that of the position; both are means over matched users.",
    )
)
register(
    QuestionKind(
        "motion",
        "Motion of road users",
        stage=2,
        ask=f"{_QUESTIONS}:ask_motion",
        template={"question": slots("objects view"), "object": slots("number name", "ahead aside speed")},
        parse=parse_motion,
        score=f"{_SCORES}.text:score_motion",
        metric_note="Figures over objects, matched by their number. A missing object counts as wrong.",
        recognize=_is_motion,
        labels=_motion_labels,
        per_view=True,
    )
)
register(
    QuestionKind(
        "traffic_light",
        "Traffic light",
        stage=2,
        ask=f"{_QUESTIONS}:ask_traffic_light",
        template={"question": slots()},
        parse=parse_traffic_light,
        score=f"{_SCORES}.text:score_traffic_lights",
        recognize=_is_traffic_light,
        caption=CaptionRules(
            words=TRAFFIC_LIGHTS,
            hint="Answer with exactly one word out of Red, Green, Yellow and None.",
            simplify="senna.convert.caption_checks:light_word",
        ),
        labels=_single_label,
        metric_note="Invalid answers are none of the four words; they count as wrong.",
    )
)
register(
    QuestionKind(
        "description",
        "Describe a view",
        stage=2,
        ask=f"{_QUESTIONS}:ask_description",
        template={"question": slots("view")},
        parse=parse_text,
        score=f"{_SCORES}.captions:score_captions",
        metric_note=_CAPTION_NOTE,
        caption=CaptionRules(shortest=4, compose=f"{_ANNOTATIONS}:describe"),
        per_view=True,
    )
)
register(
    QuestionKind(
        "explanation",
        "Reasons for the plan",
        stage=2,
        ask=f"{_QUESTIONS}:ask_explanation",
        template={"question": slots("plan", "command speed")},
        parse=parse_text,
        score=f"{_SCORES}.captions:score_captions",
        metric_note=_CAPTION_NOTE,
        caption=CaptionRules(
            shortest=4,
            hint="Answer in one or two short, complete sentences, and say nothing twice.",
            compose=f"{_ANNOTATIONS}:explain_plan",
        ),
    )
)
register(
    QuestionKind(
        PLAN,
        "Plan, next 3 s",
        stage=3,
        ask=f"{_QUESTIONS}:ask_plan",
        template={"question": slots("", "command speed")},
        parse=parse_meta_action,
        recognize=_is_plan,
        labels=_single_label,
    )
)
register(
    QuestionKind(
        TRAJECTORY,
        "Waypoints, next 3 s",
        stage=3,
        ask=f"{_QUESTIONS}:ask_trajectory",
        template={"question": slots("plan", "command speed")},
        parse=parse_trajectory,
        recognize=_is_trajectory,
        on_request=True,
    )
)
