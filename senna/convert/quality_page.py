"""quality.html: a self-contained page of counts (``quality.Summary``) and a few frames to inspect."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np

from senna.convert.facts import Agent, Frame
from senna.convert.quality_images import COLOURS
from senna.kinds import kind_named
from senna.records import Record
from senna.views import IMAGE_TOKEN

_ROW = (
    "front left",
    "front",
    "front right",
    "back left",
    "back",
    "back right",
)  # as the cameras are arranged around the car
_RANGE = 42.0  # metres from the ego vehicle to an edge of the top view
_SIDE = 240  # pixels of the top view


@dataclass(frozen=True)
class FrameCard:
    """The content of one frame's card on the page.

    Attributes:
        images: view -> JPEG with the boxes drawn (``quality_images.draw_frame``).
        problems: its problems, each "name: detail".
    """

    split: str
    frame: Frame
    records: Sequence[Record]
    images: Mapping[str, bytes]
    problems: Sequence[str]


def write_page(title: str, subtitle: str, summary: Mapping[str, Any], cards: Sequence[FrameCard]) -> str:
    """Return the page's HTML.

    Args:
        summary: the result of ``Summary.as_json()``.
        cards: the frames to show, in order.
    """
    template = Template((files("senna.convert") / "quality.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(title),
        subtitle=escape(subtitle),
        tiles=_tiles(summary),
        checks=_checks(summary),
        charts="".join(_charts(summary)),
        shown=len(cards),
        frames="".join(_frame(card) for card in cards),
    )


def _tiles(summary: Mapping[str, Any]) -> str:
    flagged = summary["frames_flagged"]
    pairs = [(f"{count:,}", f"frames, {split}") for split, count in summary["frames"].items()]
    pairs += [(f"{count:,}", f"records, {split}") for split, count in summary["records"].items()]
    pairs += [(f"{flagged:,}", "frames flagged"), (f"{summary['missing_images']:,}", "image files missing")]
    if summary.get("frames_left_out"):
        pairs.append((f"{summary['frames_left_out']:,}", "frames left out, without all images"))
    return "".join(
        f'<div class="card"><b>{value}</b><span class="soft">{escape(name)}</span></div>' for value, name in pairs
    )


def _checks(summary: Mapping[str, Any]) -> str:
    if not summary["problems"]:
        return '<span class="good">No contradictions between labels, and no unusable captions.</span>'
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td class="n">{count:,}</td></tr>' for name, count in summary["problems"].items()
    )
    return f'<table><tr><th>problem</th><th class="n">count</th></tr>{rows}</table>'


def _charts(summary: Mapping[str, Any]) -> Iterable[str]:
    splits = list(summary["frames"])
    kinds = {_title(kind): [counts.get(split, 0) for split in splits] for kind, counts in summary["kinds"].items()}
    yield _bars(f"Records by kind ({', '.join(splits)})", kinds)
    for kind, counts in summary["labels"].items():
        yield _bars(f"Answers: {_title(kind)}", {label: [count] for label, count in list(counts.items())[:20]})
    yield _bars("Frames by navigation command", _single(summary["commands"]))
    yield _bars("Frames by current speed", _single(summary["speed_now"]))
    yield _bars("Objects by class", _single(summary["objects"]))
    yield _bars("Objects by view", _single(summary["object_views"]))
    views: dict[str, int] = {}
    for counts in summary["views"].values():
        for view, count in counts.items():
            views[view] = views.get(view, 0) + count
    yield _bars("Records by view", _single(views))
    yield _words(summary["words"])


def _title(kind: str) -> str:
    registered = kind_named(kind)
    return registered.title if registered else kind


def _single(counts: Mapping[str, int]) -> dict[str, list[int]]:
    return {name: [count] for name, count in counts.items()}


def _bars(title: str, counts: Mapping[str, Sequence[int]]) -> str:
    """Return a bar chart with a bar for each name; a bar has one part or several."""
    most = max((sum(parts) for parts in counts.values()), default=0) or 1
    rows = []
    for name, parts in counts.items():
        bars = "".join(f'<i style="width:{100 * part / most:.2f}%"></i>' for part in parts)
        value = " + ".join(f"{part:,}" for part in parts)
        rows.append(
            f'<span class="name">{escape(name)}</span><span class="track">{bars}</span><span class="value">{value}</span>'
        )
    body = f'<div class="bars">{"".join(rows)}</div>' if rows else '<span class="soft">none</span>'
    return f'<section class="card"><h3>{escape(title)}</h3>{body}</section>'


def _words(words: Mapping[str, Mapping[str, float]]) -> str:
    names = ("mean", "median", "p95", "max")
    head = "".join(f'<th class="n">{name}</th>' for name in names)
    rows = ""
    for kind, spread in words.items():
        cells = "".join(f'<td class="n">{spread[name]:g}</td>' for name in names)
        rows += f"<tr><td>{escape(_title(kind))}</td>{cells}</tr>"
    return f'<section class="card"><h3>Words per answer</h3><table><tr><th></th>{head}</tr>{rows}</table></section>'


def _frame(card: FrameCard) -> str:
    frame = card.frame
    plan = str(frame.plan) if frame.plan else "no plan: the next 3 s are incomplete"
    tags = [
        f"{frame.speed:.1f} m/s" if np.isfinite(frame.speed) else "speed unknown",
        frame.command,
        plan,
        f"{len(frame.agents)} objects",
        card.split,
    ]
    flags = "".join(f"<li>{escape(problem)}</li>" for problem in card.problems)
    images = "".join(
        f'<figure class="{view.replace(" ", "-")}"><img loading="lazy" width="480" height="270" alt="{view}" '
        f'src="data:image/jpeg;base64,{base64.b64encode(card.images[view]).decode()}"><figcaption>{view}</figcaption></figure>'
        for view in _ROW
    )
    answers = "".join(_answer(record) for record in card.records)
    details = '<details class="qa" open>' if flags else '<details class="qa">'
    return (
        f'<article class="card frame"><header><b>{escape(frame.scene)}</b>'
        + "".join(f'<span class="tag">{escape(tag)}</span>' for tag in tags)
        + f'<span class="soft">{escape(frame.token)}</span></header>'
        + (f'<ul class="flags">{flags}</ul>' if flags else "")
        + f'<div class="views">{images}</div><div class="below">{draw_top_view(frame)}{details}'
        + f"<summary>{len(card.records)} questions and answers</summary>{answers}</details></div></article>"
    )


def _answer(record: Record) -> str:
    turns = record["conversations"]
    lines = (line for line in turns[0]["value"].split("\n") if IMAGE_TOKEN not in line and not line.endswith(" VIEW>:"))
    by = f", by {record['captioner']}" if record.get("captioner") else ""
    heading = _title(str(record.get("kind", ""))) + by
    return (
        f'<div><span class="kind">{escape(heading)}</span><p>{escape(chr(10).join(lines).strip())}</p>'
        f'<p class="answer">{escape(turns[-1]["value"].strip())}</p></div>'
    )


def draw_top_view(frame: Frame) -> str:
    """Return an SVG of the frame from above: distance rings, objects, and the ego vehicle's future path."""
    rings = "".join(
        f'<circle cx="120" cy="120" r="{metres * _SIDE / 2 / _RANGE:.1f}" fill="none" stroke="var(--line)"/>'
        f'<text x="122" y="{120 - metres * _SIDE / 2 / _RANGE - 1:.1f}">{metres} m</text>'
        for metres in (10, 20, 40)
    )
    agents = "".join(_agent(agent) for agent in frame.agents if max(abs(agent.x), abs(agent.y)) < _RANGE)
    path = _line(np.vstack([[0.0, 0.0], frame.future[np.isfinite(frame.future).all(axis=1)]]))
    return (
        f'<svg viewBox="0 0 {_SIDE} {_SIDE}" role="img" aria-label="top view of the frame">{rings}{agents}'
        f'<polyline points="{path}" fill="none" stroke="var(--good)" stroke-width="2.5"/>'
        f'<path d="M120 113l5 12h-10z" fill="var(--ink)"/></svg>'
    )


def _agent(agent: Agent) -> str:
    colour = COLOURS.get(agent.group, "#888")
    speed = f", {agent.speed:.1f} m/s" if np.isfinite(agent.speed) else ""
    plan = f", {agent.plan}" if agent.plan else ""
    x, y = _pixel(agent.x, agent.y)
    title = f"<title>{escape(agent.name + speed + plan)}</title>"
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}">{title}</circle>'


def _line(points: np.ndarray) -> str:
    return " ".join("{:.1f},{:.1f}".format(*_pixel(x, y)) for x, y in points)


def _pixel(x: float, y: float) -> tuple[float, float]:
    """Return the pixel of a point in metres; forward is up."""
    scale = _SIDE / 2 / _RANGE
    return _SIDE / 2 + x * scale, _SIDE / 2 - y * scale
