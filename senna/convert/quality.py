"""Whether what was made can be right: labels held against each other, and counts of all that a data set has.

``facts_of`` looks at one frame while its facts are at hand; the journal keeps what it says. ``Summary`` adds frames up:
its memory does not grow with their number.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from senna.convert.facts import Agent, Frame
from senna.meta_actions import STEP, parse_meta_action
from senna.records import Record
from senna.views import IMAGE_TOKEN, VIEWS

STOP_SPEED = 2.0  # m/s: the published threshold of STOP
MOST_SPEED = {"vehicle": 45.0, "cyclist": 20.0, "pedestrian": 6.0, "static": 2.0}  # m/s; more is a fault of the boxes
MOST_BRAKING = 12.0  # m/s², harder than any car brakes or accelerates
MOST_WORDS = 400  # of an answer
_SPEED_BIN = 2.0  # m/s


def facts_of(frame: Frame, records: Sequence[Record], caption_problems: Sequence[str] = (), missing: int = 0) -> dict:
    """What the journal keeps of a frame, all of it plain JSON.

    Args:
        caption_problems: what is wrong with answers of the captioner, each "name: detail".
        missing: how many of its six image files are not there.
    """
    problems = [*label_problems(frame), *(p for record in records for p in record_problems(record)), *caption_problems]
    return {
        "token": frame.token,
        "scene": frame.scene,
        "speed": round(float(frame.speed), 2) if np.isfinite(frame.speed) else None,
        "command": frame.command,
        "plan": str(frame.plan) if frame.plan else None,
        "path": np.round(frame.future, 2).tolist() if frame.future_valid else None,
        "objects": dict(Counter(agent.name for agent in frame.agents)),
        "object_views": dict(Counter(agent.view for agent in frame.agents)),
        "records": [_measure(record) for record in records],
        "missing": missing,
        "problems": problems,
    }


def label_problems(frame: Frame) -> list[str]:
    """What in a frame's labels cannot be right together, each "name: detail"."""
    problems = []
    if (frame.plan is not None) != frame.future_valid:
        problems.append(
            f"plan and future differ: {frame.plan} where the 3 s are {'whole' if frame.future_valid else 'not'}"
        )
    if frame.plan is not None and frame.future_valid:
        problems += _plan_problems(frame)
    for agent in frame.agents:
        problems += _agent_problems(agent)
    return problems


def _plan_problems(frame: Frame) -> list[str]:
    problems = []
    side = frame.plan.path.split("_")[0].lower()  # "left", "right" or "straight"
    other = {"left": "right", "right": "left"}.get(side)
    end = f"{frame.future[-1][0]:+.1f} m to the side, {frame.future[-1][1]:.1f} m ahead after 3 s"
    if other and other in frame.command:
        problems.append(f"plan against navigation: {frame.plan} where it says {frame.command} ({end})")
    elif other and side not in frame.command:
        problems.append(f"plan turns, navigation does not: {frame.plan} where it says {frame.command} ({end})")
    if frame.plan.speed == "STOP" and frame.speed > STOP_SPEED:
        problems.append(f"stop while moving: {frame.plan} at {frame.speed:.1f} m/s")
    first = float(np.linalg.norm(frame.future[0])) / STEP
    # The speed now and that of the half second to come are a quarter of a second apart, in the mean.
    if abs(first - frame.speed) > MOST_BRAKING * STEP / 2 + 1.0:
        problems.append(f"speed jumps: {frame.speed:.1f} m/s now, {first:.1f} m/s in the half second to come")
    return problems


def _agent_problems(agent: Agent) -> list[str]:
    what = f"{agent.name} {agent.x:+.1f} m to the side, {agent.y:.1f} m ahead"
    if agent.speed > MOST_SPEED.get(agent.group, 45.0):
        return [f"object too fast: {what} at {agent.speed:.1f} m/s"]
    return []


def record_problems(record: Record) -> list[str]:
    """What is wrong with a record by itself, each "name: detail"."""
    problems, kind = [], record.get("kind", "other")
    turns = record["conversations"]
    shown = sum(turn["value"].count(IMAGE_TOKEN) for turn in turns)
    if shown not in (0, 1, len(record.get("images", ()))):
        problems.append(f"images: {kind} shows {shown} of {len(record['images'])}")
    answer = turns[-1]["value"].strip()
    if not answer:
        problems.append(f"empty answer: {kind}")
    if len(answer.split()) > MOST_WORDS:
        problems.append(f"long answer: {kind} of {len(answer.split())} words")
    if kind == "plan" and parse_meta_action(answer) is None:
        problems.append(f"not a plan: {answer[:60]!r}")
    return problems


def _measure(record: Record) -> list:
    """[kind, view, words of the answer, labels]: the labels of plan, motion and traffic light."""
    answer = record["conversations"][-1]["value"]
    kind = record.get("kind", "other")
    labels: list[str] = []
    if kind in ("plan", "traffic_light"):
        labels = [answer.strip()]
    elif kind == "motion":
        labels = [line.split(":", 1)[1].strip() for line in answer.splitlines() if ":" in line]
    return [kind, asked_view(record), len(answer.split()), labels]


def asked_view(record: Record) -> str:
    """The view that a record of ours asks about: the end of its id says it, "front" where it does not."""
    name = record["id"].removeprefix(f"{record['token']}-{record['kind']}").strip("-").replace("-", " ")
    return name if name in VIEWS else "front"


class Summary:
    """Counts over frames. ``as_json`` is quality.json."""

    def __init__(self) -> None:
        self.frames: Counter[str] = Counter()
        self.records: Counter[str] = Counter()
        self.missing = self.flagged = 0
        self.objects: Counter[str] = Counter()
        self.object_views: Counter[str] = Counter()
        self.commands: Counter[str] = Counter()
        self.speeds: Counter[int] = Counter()
        self.problems: Counter[str] = Counter()
        self.kinds: dict[str, Counter[str]] = defaultdict(Counter)
        self.views: dict[str, Counter[str]] = defaultdict(Counter)
        self.labels: dict[str, Counter[str]] = defaultdict(Counter)
        self.words: dict[str, Counter[int]] = defaultdict(Counter)

    def add(self, split: str, facts: dict[str, Any]) -> None:
        """Add what ``facts_of`` says of a frame."""
        self.frames[split] += 1
        self.records[split] += len(facts["records"])
        self.missing += facts["missing"]
        self.flagged += bool(facts["problems"])
        self.objects.update(facts["objects"])
        self.object_views.update(facts["object_views"])
        self.commands[facts["command"]] += 1
        if facts["speed"] is not None:
            self.speeds[int(facts["speed"] // _SPEED_BIN)] += 1
        self.problems.update(problem.split(":")[0] for problem in facts["problems"])
        for kind, view, words, labels in facts["records"]:
            self.kinds[kind][split] += 1
            self.views[kind][view] += 1
            self.labels[kind].update(labels)
            self.words[kind][words] += 1

    def as_json(self) -> dict[str, Any]:
        bins = range(max(self.speeds, default=-1) + 1)
        return {
            "frames": dict(self.frames),
            "records": dict(self.records),
            "kinds": {kind: dict(counts) for kind, counts in self.kinds.items()},
            "labels": {kind: dict(counts.most_common()) for kind, counts in self.labels.items() if counts},
            "views": {kind: dict(counts) for kind, counts in self.views.items()},
            "words": {kind: _spread(counts) for kind, counts in self.words.items()},
            "objects": dict(self.objects.most_common()),
            "object_views": {view: self.object_views[view] for view in VIEWS},
            "commands": dict(self.commands.most_common()),
            "speed_now": {f"{b * _SPEED_BIN:.0f}-{(b + 1) * _SPEED_BIN:.0f} m/s": self.speeds[b] for b in bins},
            "missing_images": self.missing,
            "frames_flagged": self.flagged,
            "problems": dict(self.problems.most_common()),
        }


def _spread(counts: Counter[int]) -> dict[str, float]:
    """Mean, median, 95th percentile and largest of counted numbers."""
    values = np.array(sorted(counts))
    cumulated = np.cumsum([counts[value] for value in values])
    total = int(cumulated[-1])
    at = {share: int(values[np.searchsorted(cumulated, share * total)]) for share in (0.5, 0.95)}
    mean = sum(value * count for value, count in counts.items()) / total
    return {"mean": round(mean, 1), "median": at[0.5], "p95": at[0.95], "max": int(values[-1])}


def pick(flags: Sequence[bool], count: int) -> list[int]:
    """Places of the frames to show: the flagged first, at most half of them all flagged, then others evenly spread.

    Where there are fewer of one sort the other fills up.
    """
    flagged = [place for place, flag in enumerate(flags) if flag]
    others = [place for place, flag in enumerate(flags) if not flag]
    from_flagged = min(len(flagged), max(count // 2, count - len(others)))
    return _evenly(flagged, from_flagged) + _evenly(others, count - from_flagged)


def _evenly(places: Sequence[int], count: int) -> list[int]:
    count = min(count, len(places))
    return [places[number * len(places) // count] for number in range(count)]
