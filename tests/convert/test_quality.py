"""Contradictions between labels, counts, the choice of frames to show, and the quality page."""

import io
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from senna.convert.facts import Agent, Frame
from senna.convert.quality import Summary, asked_view, facts_of, label_problems, pick, record_problems
from senna.convert.quality_images import project_edges
from senna.convert.quality_page import FrameCard, draw_top_view, write_page
from senna.meta_actions import MetaAction
from senna.views import VIEWS, image_block

AHEAD = np.array([[0.0, 4.0 * step] for step in range(1, 7)])  # 8 m/s


def make_agent(**changes):
    agent = Agent("a", "vehicle.car", "car", "vehicle", 3.0, 12.0, 5.0, "front", AHEAD, MetaAction("KEEP", "STRAIGHT"))
    return agent._replace(**changes)


def make_frame(**changes):
    images = tuple(f"samples/CAM_{view.upper().replace(' ', '_')}/1.jpg" for view in VIEWS)
    frame = Frame(
        "t", "", "", "scene-0001", "s", 1, images, "Sunny", 8.0, "go straight", AHEAD, MetaAction("KEEP", "STRAIGHT"),
        (make_agent(),),
    )  # fmt: skip
    return replace(frame, **changes)


def make_record(kind="plan", answer="KEEP, STRAIGHT\n", question="What now?", name=None):
    value = image_block() + question
    turns = [{"from": "human", "value": value}, {"from": "gpt", "value": answer}]
    images = list(make_frame().images)
    return {"id": f"t-{name or kind}", "token": "t", "kind": kind, "images": images, "conversations": turns}


def names(problems):
    return [problem.split(":")[0] for problem in problems]


def test_consistent_labels_have_no_problem():
    assert label_problems(make_frame()) == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"plan": MetaAction("KEEP", "LEFT_TURN"), "command": "turn right"}, "plan against navigation"),
        (
            {"plan": MetaAction("KEEP", "LEFT_CHANGE"), "command": "go straight and turn right"},
            "plan against navigation",
        ),
        ({"plan": MetaAction("KEEP", "RIGHT_TURN")}, "plan turns, navigation does not"),
        ({"plan": MetaAction("STOP", "STRAIGHT")}, "stop while moving"),
        ({"plan": None}, "plan and future differ"),
        ({"future": np.full((6, 2), np.nan)}, "plan and future differ"),
        ({"speed": 0.0}, "speed jumps"),
        ({"agents": (make_agent(group="pedestrian", speed=9.0),)}, "object too fast"),
        ({"agents": (make_agent(speed=80.0),)}, "object too fast"),
    ],
)
def test_contradictory_labels_are_named(changes, problem):
    assert names(label_problems(make_frame(**changes))) == [problem]


@pytest.mark.parametrize(
    "changes",
    [
        {"plan": MetaAction("KEEP", "LEFT_TURN"), "command": "go straight and turn left"},
        {"plan": MetaAction("STOP", "STRAIGHT"), "speed": 1.9, "future": AHEAD / 10},
        {"plan": None, "future": np.vstack([AHEAD[:3], np.full((3, 2), np.nan)])},
        {"speed": float("nan")},
        {"agents": (make_agent(speed=float("nan")),)},
    ],
)
def test_unusual_but_possible_labels_are_not_flagged(changes):
    assert label_problems(make_frame(**changes)) == []


def test_records_unfit_for_training_are_named():
    assert record_problems(make_record()) == []
    assert names(record_problems(make_record(answer="drive on"))) == ["not a plan"]
    assert names(record_problems(make_record("description", "word " * 500))) == ["long answer"]
    assert names(record_problems(make_record("description", " "))) == ["empty answer"]
    short = make_record()
    short["images"] = short["images"][:5]
    assert names(record_problems(short)) == ["images"]


def test_views_come_from_the_field_and_else_from_the_id():
    assert asked_view({"view": "back left", "id": "t-description-front"}) == "back left"
    assert asked_view({"id": "t-description-front-right"}) == "front right"
    assert asked_view({"id": "t-plan"}) == asked_view({"token": "t"}) == "front"


def test_summary_counts_frames_kinds_views_labels_and_words():
    summary = Summary()
    motion = make_record("motion", "Object 1: STOP, STRAIGHT\nObject 2: KEEP, LEFT_TURN\n", name="motion-back-left")
    summary.add("train", facts_of(make_frame(), [make_record(), motion]))
    summary.add("train", facts_of(make_frame(speed=float("nan")), [make_record()], ["caption cut off: x"], missing=2))
    summary.add(
        "val", facts_of(make_frame(plan=MetaAction("STOP", "STRAIGHT")), [make_record(answer="STOP, STRAIGHT\n")])
    )
    counts = summary.as_json()
    assert counts["frames"] == {"train": 2, "val": 1}
    assert counts["records"] == {"train": 3, "val": 1}
    assert counts["kinds"] == {"plan": {"train": 2, "val": 1}, "motion": {"train": 1}}
    assert counts["labels"]["plan"] == {"KEEP, STRAIGHT": 2, "STOP, STRAIGHT": 1}
    assert counts["labels"]["motion"] == {"STOP, STRAIGHT": 1, "KEEP, LEFT_TURN": 1}
    assert counts["views"] == {"plan": {"front": 3}, "motion": {"back left": 1}}
    assert counts["words"]["motion"] == {"mean": 8.0, "median": 8, "p95": 8, "max": 8}
    assert counts["speed_now"]["8-10 m/s"] == 2
    assert counts["missing_images"] == 2
    assert counts["frames_flagged"] == 2
    assert counts["problems"] == {"caption cut off": 1, "stop while moving": 1}


def test_labels_that_depend_on_timing_are_flagged():
    keep, stop = MetaAction("KEEP", "STRAIGHT"), MetaAction("STOP", "STRAIGHT")
    frame = make_frame(retimed=stop, agents=(make_agent(retimed=stop), make_agent(retimed=keep), make_agent()))
    found = label_problems(frame)
    assert names(found) == ["plan depends on timing", "object label depends on timing"]
    assert all("KEEP, STRAIGHT" in problem and "STOP, STRAIGHT" in problem for problem in found)


def test_flagged_frames_come_first_and_others_are_evenly_spread():
    flags = [index in (3, 90) for index in range(100)]
    chosen = pick(flags, 10)
    assert chosen[:2] == [3, 90]
    assert len(set(chosen)) == 10
    assert max(np.diff(chosen[2:])) <= 14
    assert pick([True] * 100, 10) == list(range(0, 100, 10))
    assert pick([True, False, True], 10) == [0, 2, 1]
    assert len(pick([True] * 60 + [False] * 60, 50)) == 50


def test_edges_are_projected_and_clipped_behind_the_camera():
    intrinsic = np.array([[1000.0, 0, 800], [0, 1000, 450], [0, 0, 1]])
    cube = np.array([[x, y, z] for z in (9.0, 11.0) for x, y in ((1, 1), (-1, 1), (-1, -1), (1, -1))])
    start, end = next(project_edges(cube, intrinsic))
    assert start == pytest.approx([800 + 1000 / 9, 450 + 1000 / 9])
    assert end == pytest.approx([800 - 1000 / 9, 450 + 1000 / 9])
    assert len(list(project_edges(cube, intrinsic))) == 12
    assert len(list(project_edges(cube - [0, 0, 20], intrinsic))) == 0
    half = list(project_edges(cube - [0, 0, 10], intrinsic))  # the face at -1 is behind the camera
    assert len(half) == 8
    assert np.isfinite(half).all()


class Page(HTMLParser):
    VOID = ("meta", "link", "img", "circle", "polyline", "path", "i")

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.sources, self.text = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_page_is_well_formed_and_self_contained_and_shows_frames_with_answers():
    buffer = io.BytesIO()
    Image.new("RGB", (48, 27)).save(buffer, format="JPEG")
    frame = make_frame(scene="scene-<1>")
    summary = Summary()
    summary.add("train", facts_of(frame, [make_record()], ["caption cut off: x"]))
    cards = [
        FrameCard("train", frame, [make_record()], dict.fromkeys(VIEWS, buffer.getvalue()), ["caption cut off: x"]),
        FrameCard("train", make_frame(plan=None), [], dict.fromkeys(VIEWS, buffer.getvalue()), []),
    ]
    text = write_page("a < b", "captions by nobody", summary.as_json(), cards)
    page = Page(text)
    assert page.open == []
    assert page.seen.count("img") == 12
    assert page.seen.count("svg") == 2
    assert all(source.startswith("data:") for source in page.sources)
    assert "http" not in text
    assert "<script" not in text
    for text in ("scene-<1>", "KEEP, STRAIGHT", "What now?", "caption cut off", "a < b"):
        assert text in page.text
    assert "<image>" not in page.text
    assert "FRONT LEFT VIEW" not in page.text


def test_in_the_top_view_forward_is_up_and_right_is_right():
    drawn = draw_top_view(make_frame(agents=(make_agent(x=10.0, y=20.0, name="tram"),)))
    circle = drawn.split("<circle")[-1]
    x, y = (float(circle.split(f'{name}="')[1].split('"')[0]) for name in ("cx", "cy"))
    assert x > 120
    assert y < 120
    assert (120 - y) == pytest.approx(2 * (x - 120), abs=0.2)
    assert "tram" in circle
