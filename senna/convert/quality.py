"""The quality report's data: contradictions between labels, and counts over a data set.

``facts_of`` summarizes and checks one frame, and the journal stores its result. ``Summary`` accumulates these results; its
memory does not grow with the number of frames.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from senna.convert.facts import Agent, Frame
from senna.kinds import OTHER, PLAN, kind_named
from senna.meta_actions import STEP, STOP_SPEED, MetaAction, parse_meta_action
from senna.records import Record
from senna.scripts_without_blanks import count_words
from senna.views import IMAGE_TOKEN, VIEWS

LEFT_OUT = "left_out"
"""The key of a frame's facts that is set where the frame has no records, because an image file is missing."""

MAX_SPEED = {"vehicle": 45.0, "cyclist": 20.0, "pedestrian": 6.0, "static": 2.0}  # m/s; more means faulty boxes
MAX_ACCELERATION = 12.0  # m/s², more than any car brakes or accelerates
MAX_WORDS = 400  # in an answer
_SPEED_BIN = 2.0  # m/s
_VIEW_SUFFIX = re.compile(rf"-({'|'.join(view.replace(' ', '-') for view in VIEWS)})\Z")


def facts_of(frame: Frame, records: Sequence[Record], caption_problems: Sequence[str] = (), missing: int = 0) -> dict:
    """Return a frame's facts and problems for the journal, as plain JSON.

    Args:
        caption_problems: problems of the captioner's answers, each "name: detail".
        missing: number of its image files that do not exist.
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
    """Return the contradictions between a frame's labels, each "name: detail"."""
    problems = []
    if (frame.plan is not None) != frame.future_valid:
        problems.append(
            f"plan and future differ: {frame.plan}, but the 3 s are {'complete' if frame.future_valid else 'incomplete'}"
        )
    if frame.plan is not None and frame.future_valid:
        problems += _plan_problems(frame, frame.plan)
    if frame.plan is not None and frame.retimed not in (None, frame.plan):
        problems.append(f"plan depends on timing: {frame.plan} by key frame, {frame.retimed} at exact half seconds")
    for agent in frame.agents:
        problems += _agent_problems(agent)
    return problems


def _plan_problems(frame: Frame, plan: MetaAction) -> list[str]:
    problems = []
    side = plan.path.split("_")[0].lower()  # "left", "right" or "straight"
    opposite = {"left": "right", "right": "left"}.get(side)
    end = f"{frame.future[-1][0]:+.1f} m to the side, {frame.future[-1][1]:.1f} m ahead after 3 s"
    if opposite and opposite in frame.command:
        problems.append(f"plan against navigation: {plan}, but the command is {frame.command} ({end})")
    elif opposite and side not in frame.command:
        problems.append(f"plan turns, navigation does not: {plan}, but the command is {frame.command} ({end})")
    if plan.speed == "STOP" and frame.speed > STOP_SPEED:
        problems.append(f"stop while moving: {plan} at {frame.speed:.1f} m/s")
    first = float(np.linalg.norm(frame.future[0])) / STEP
    # The current speed and the mean speed of the next step are half a step apart in time.
    if abs(first - frame.speed) > MAX_ACCELERATION * STEP / 2 + 1.0:
        problems.append(f"speed jumps: {frame.speed:.1f} m/s now, {first:.1f} m/s in the next half second")
    return problems


def _agent_problems(agent: Agent) -> list[str]:
    what = f"{agent.name} {agent.x:+.1f} m to the side, {agent.y:.1f} m ahead"
    if agent.speed > MAX_SPEED.get(agent.group, 45.0):
        return [f"object too fast: {what} at {agent.speed:.1f} m/s"]
    if agent.group != "static" and agent.plan is not None and agent.retimed not in (None, agent.plan):
        labels = f"{agent.plan} by key frame, {agent.retimed} at exact half seconds"
        return [f"object label depends on timing: {what}: {labels}"]
    return []


def record_problems(record: Record) -> list[str]:
    """Return the problems of a single record, each "name: detail"."""
    problems, kind = [], record.get("kind", OTHER)
    turns = record["conversations"]
    shown = sum(turn["value"].count(IMAGE_TOKEN) for turn in turns)
    if shown not in (0, 1, len(record.get("images", ()))):
        problems.append(f"images: {kind} shows {shown} of {len(record['images'])}")
    answer = turns[-1]["value"].strip()
    if not answer:
        problems.append(f"empty answer: {kind}")
    if count_words(answer) > MAX_WORDS:
        problems.append(f"long answer: {kind} of {count_words(answer)} words")
    if kind == PLAN and parse_meta_action(answer) is None:
        problems.append(f"not a plan: {answer[:60]!r}")
    return problems


def _measure(record: Record) -> list:
    """Return [kind, view, words of the answer, labels]; ``QuestionKind.labels`` gives the labels."""
    answer = record["conversations"][-1]["value"]
    kind = record.get("kind", OTHER)
    registered = kind_named(kind)
    labels = registered.labels(answer) if registered and registered.labels else []
    return [kind, asked_view(record), count_words(answer), labels]


def asked_view(record: Record) -> str:
    """Return the view that a record asks about.

    Records without ``view``, which earlier versions wrote, name the view at the end of their id; without one it is "front".
    """
    if "view" in record:
        return record["view"]
    suffix = _VIEW_SUFFIX.search(str(record.get("id", "")))
    return suffix[1].replace("-", " ") if suffix else "front"


class Summary:
    """Counts over the frames of a data set."""

    def __init__(self) -> None:
        self.frames: Counter[str] = Counter()
        self.records: Counter[str] = Counter()
        self.missing = self.flagged = self.left_out = 0
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
        """Add a frame, given its result of ``facts_of``. Of a frame that is left out, only this and its images count."""
        if facts.get(LEFT_OUT):
            self.left_out += 1
            self.missing += facts["missing"]
            return
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
        """Return the counts under the keys of quality.json."""
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
            "frames_left_out": self.left_out,
            "frames_flagged": self.flagged,
            "problems": dict(self.problems.most_common()),
        }


def _spread(counts: Counter[int]) -> dict[str, float]:
    """Return mean, median, 95th percentile and maximum of numbers, given how often each occurs."""
    values = np.array(sorted(counts))
    cumulated = np.cumsum([counts[value] for value in values])
    total = int(cumulated[-1])
    quantiles = {share: int(values[np.searchsorted(cumulated, share * total)]) for share in (0.5, 0.95)}
    mean = sum(value * count for value, count in counts.items()) / total
    return {"mean": round(mean, 1), "median": quantiles[0.5], "p95": quantiles[0.95], "max": int(values[-1])}


def pick(flags: Sequence[int], count: int) -> list[int]:
    """Return the indices of the frames to show: flagged frames first, then others, each evenly spread.

    Half of them are flagged frames; where there are fewer of either sort, the other sort fills up.
    """
    flagged = [index for index, flag in enumerate(flags) if flag]
    others = [index for index, flag in enumerate(flags) if not flag]
    from_flagged = min(len(flagged), max(count // 2, count - len(others)))
    return _evenly(flagged, from_flagged) + _evenly(others, count - from_flagged)


def _evenly(indices: Sequence[int], count: int) -> list[int]:
    count = min(count, len(indices))
    return [indices[number * len(indices) // count] for number in range(count)]
