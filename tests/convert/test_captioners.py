import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from senna.convert.caption_checks import ask, check
from senna.convert.captioners import Request, make_captioner
from senna.convert.captioners.annotations import describe, explain, on_the_way, sky_of
from senna.convert.captioners.cache import CachedCaptioner
from senna.convert.facts import Agent, Frame
from senna.errors import DataError, SennaError, UsageError
from senna.meta_actions import ALL_META_ACTIONS, MetaAction
from senna.views import VIEWS
from tests.conftest import REPOSITORY

NO_FUTURE = np.full((6, 2), np.nan)


def agent(name="car", x=0.0, y=10.0, speed=0.0, view="front", group="vehicle"):
    return Agent("t", f"vehicle.{name}", name, group, x, y, speed, view, NO_FUTURE, None)


def frame(*agents, token="frame", speed=8.0, plan=MetaAction("KEEP", "STRAIGHT"), command="go straight", **changes):  # noqa: B008
    step = speed / 2
    future = changes.pop("future", np.array([[0.0, step * number] for number in range(1, 7)]))
    about = {"description": "Night, heavy rain", "annotated": True, "command": command, "future": future, **changes}
    images = ("a.jpg",) * 6
    return Frame(token, "", "", "scene-0001", "s", 0, images, speed=speed, plan=plan, agents=agents, **about)


def asked(about, kind="description", view="front"):
    return Request(about, view, Path("nowhere.jpg"), kind, "?")


# annotations


def test_a_description_says_weather_counts_and_the_nearest_with_place_and_motion():
    cars = [agent(x=0.5, y=30, speed=0.7), agent(x=3, y=9, speed=0.1)]
    seen = [agent("truck", -5, 20, 6.2), *cars, agent("barrier", 4, 5, group="static")]
    text = describe(frame(*seen, agent("bus", view="back", y=-9)), "front")
    assert text.startswith("It is night and it rains hard. ")
    assert "two cars, a barrier and a truck" in text.lower()
    assert text.endswith(
        "The nearest road users are a car 9 m away (ahead on the right, not moving), a truck 21 m away (ahead on the left, "
        "moving at 6 m/s) and a car 30 m away (straight ahead, moving slowly)."
    )
    assert "bus" not in text
    assert "It is 9 m away (straight behind, not moving)." in describe(frame(agent("bus", view="back", y=-9)), "back")


def test_what_is_unknown_or_not_named_is_not_said():
    text = describe(frame(agent(speed=float("nan")), description="Parked truck, intersection"), "front")
    assert "moving" not in text
    assert "night" not in text
    assert "rain" not in text


@pytest.mark.parametrize(
    ("description", "said"),
    [
        ("Night, after rain, many peds", "It is night and the road is wet after rain."), ("Rain, parked cars", "It rains."),
        ("Sunny day, construction", "It is day and the sky is clear."), ("Train station, birthday party, Sunday", ""),
        ("Night, difficult lighting", "It is night and the lighting is difficult."), ("Parking lot", ""), ("", ""),
    ],
)  # fmt: skip
def test_the_scenes_words_about_the_sky_are_understood(description, said):
    assert sky_of(description) == said


def test_reasons_come_from_who_is_on_the_way():
    slower, faster = agent(y=14, speed=2), agent(y=14, speed=12)
    stop, slow, go = (MetaAction(speed, "STRAIGHT") for speed in ("STOP", "DECELERATE", "ACCELERATE"))
    assert "a car 14 m away (straight ahead, moving at 2 m/s)" in explain(frame(slower), slow)
    assert "No road user on its way makes it slow down." in explain(frame(faster), slow)
    assert "a car 6 m away" in explain(frame(agent(y=6), speed=0.0), stop)
    assert "stands now" in explain(frame(speed=0.0), stop)
    assert "No road user is on its way within 30 m." in explain(frame(), go)
    assert "two pedestrians" in explain(
        frame(*[agent("pedestrian", 3.5, y, 1, group="pedestrian") for y in (7, 9)]), slow
    )


def test_the_way_is_the_one_that_the_car_drives():
    left = np.array([[0, 4], [-1, 8], [-4, 11], [-8, 12], [-12, 12], [-16, 12]], dtype=float)
    beside, ahead = agent(x=-14, y=12.5), agent(x=0, y=22)
    turning = frame(beside, ahead, future=left, plan=MetaAction("KEEP", "LEFT_TURN"))
    assert on_the_way(turning) == [beside]
    assert on_the_way(frame(beside, ahead)) == [ahead]


@pytest.mark.parametrize("plan", ALL_META_ACTIONS)
@pytest.mark.parametrize("speed", [0.0, 7.5, float("nan")])
def test_every_plan_has_an_explanation_that_passes_the_checks(plan, speed):
    for command in ("go straight", "turn left", "go straight and turn right"):
        text = explain(frame(agent(), plan=plan, speed=speed, command=command, future=np.zeros((6, 2))), plan)
        assert check("explanation", text) == []
        assert "nan" not in text
        assert command in text


def test_a_frame_always_gets_the_same_words_and_others_get_others():
    texts = [describe(frame(agent(), token=str(number)), "front") for number in range(40)]
    assert texts == [describe(frame(agent(), token=str(number)), "front") for number in range(40)]
    assert len(set(texts)) > 2
    assert all(check("description", describe(frame(), view)) == [] for view in VIEWS)


def test_nothing_is_claimed_about_traffic_lights_or_where_nobody_annotated():
    captioner = make_captioner("annotations")
    assert captioner.answer([asked(frame(agent()), "traffic_light")]) == [""]
    assert captioner.answer([asked(frame(annotated=False)), asked(frame(plan=None), "explanation")]) == ["", ""]


def test_real_frames_get_captions_that_pass_the_checks(data):
    pytest.importorskip("nuscenes", reason="nuscenes-devkit is not installed")
    from senna.convert.frames import read_frames

    captioner, count = make_captioner("annotations"), 0
    for one in read_frames(data / "nuscenes_mini10_tables", "v1.0-mini"):
        requests = [asked(one, "description", view) for view in VIEWS] + [asked(one, "explanation")] * (
            one.plan is not None
        )
        captions = ask(captioner, requests)
        assert [caption.problems for caption in captions] == [()] * len(requests)
        count += len(captions)
    assert count == 404 * 6 + 344


# the factory


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("gpt", {}, "annotations, llava, openai"), ("annotations", {"model": "x"}, "no model"), ("openai", {}, "--server"),
        ("llava", {"server": "x"}, "--server"), ("openai", {"server": "a", "concurrency": 0}, "--concurrency"),
        ("llava", {"max_tokens": 0}, "0 tokens"),
    ],
)  # fmt: skip
def test_a_wrong_choice_is_refused_at_once(name, options, said):
    with pytest.raises(UsageError, match=said):
        make_captioner(name, **options)


def test_choosing_a_captioner_loads_no_torch():
    program = (
        "import sys; from senna.convert.captioners import make_captioner as make; import senna.convert.caption_checks\n"
        "from pathlib import Path\n"
        "make('annotations'); make('openai', server='a'); make('llava', cache=Path('x'))\n"
        "print([name for name in ('torch', 'transformers', 'senna.model', 'senna.data') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# the cache


class Model:
    """Answers that tell picture and question apart, and a count of what was asked."""

    window, settings = 4, ""

    def __init__(self, name="model"):
        self.name, self.asked = name, []

    def stream(self, requests):
        for place in reversed(range(len(requests))):
            self.asked.append(requests[place])
            yield place, f"{requests[place].question} {requests[place].image.read_bytes().decode()} {len(self.asked)}"

    def answer(self, requests):
        return [text for _, text in sorted(self.stream(requests))]


@pytest.fixture
def pictures(tmp_path):
    for name, content in {"a": "cat", "b": "dog", "c": "cat"}.items():
        (tmp_path / name).write_text(content)
    return lambda *names: [Request(None, "front", tmp_path / name, "description", "what?") for name in names]


def test_nothing_is_asked_twice_in_one_call_or_in_two_runs(pictures, tmp_path):
    model = Model()
    first = CachedCaptioner(model, tmp_path / "cache" / "captions.sqlite").answer(pictures("a", "b", "c", "a"))
    assert len(model.asked) == 2  # a and c are the same picture under two names
    assert first[0] == first[2] == first[3] != first[1]
    again = CachedCaptioner(model, tmp_path / "cache" / "captions.sqlite").answer(pictures("c", "b"))
    assert again == [first[0], first[1]]
    assert len(model.asked) == 2


def test_another_picture_question_or_model_is_asked_for(pictures, tmp_path):
    model, path = Model(), tmp_path / "captions.sqlite"
    CachedCaptioner(model, path).answer(pictures("a"))
    (tmp_path / "a").write_text("horse")
    CachedCaptioner(model, path).answer(pictures("a"))
    assert len(model.asked) == 2
    other = [Request(None, "front", tmp_path / "a", "description", "why?")]
    CachedCaptioner(model, path).answer(other)
    assert len(model.asked) == 3
    larger = Model("larger model")
    CachedCaptioner(larger, path).answer(other)
    longer = Model()
    longer.settings = "max_tokens=9"
    CachedCaptioner(longer, path).answer(other)
    assert (len(larger.asked), len(longer.asked)) == (1, 1)


KILLED = """
import sys, time
from pathlib import Path
from senna.convert.captioners import Request
from senna.convert.captioners.cache import CachedCaptioner
class Model:
    name, window, settings = "model", 4, ""
    def stream(self, requests):
        for place, request in enumerate(requests):
            yield place, request.question
requests = [Request(None, "front", Path(sys.argv[1]), "description", str(number)) for number in range(100000)]
for place, text in CachedCaptioner(Model(), Path(sys.argv[2])).stream(requests):
    print(text, flush=True)
"""


@pytest.mark.slow
def test_answers_that_came_before_kill_9_are_there_after_it(tmp_path):
    (tmp_path / "a").write_text("cat")
    command, chance = (
        [sys.executable, "-c", KILLED, str(tmp_path / "a"), str(tmp_path / "captions.sqlite")],
        random.Random(0),
    )
    known = 0
    for _ in range(5):
        with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
            process.stdout.readline()
            time.sleep(chance.uniform(0.05, 0.4))
            os.kill(process.pid, signal.SIGKILL)
            told = 1 + sum(1 for line in process.stdout if line.endswith("\n"))
        model = Model()
        cached = CachedCaptioner(model, tmp_path / "captions.sqlite")
        cached.answer([Request(None, "front", tmp_path / "a", "description", str(number)) for number in range(told)])
        assert model.asked == []
        cached.close()
        known = max(known, told)
    assert known > 5


def test_two_shards_may_share_a_cache(pictures, tmp_path):
    one, two = (CachedCaptioner(model, tmp_path / "captions.sqlite") for model in (Model(), Model()))
    streams = [one.stream(pictures("a", "b")), two.stream(pictures("b", "a"))]
    assert len([next(stream) for _ in range(2) for stream in streams]) == 4


def test_a_cache_that_is_none_and_one_that_cannot_be_written_are_told(pictures, tmp_path):
    (tmp_path / "notes").write_text("no database, but a text that is longer than the head of one " * 20)
    with pytest.raises(UsageError, match=r"notes.*move it away"):
        CachedCaptioner(Model(), tmp_path / "notes").answer(pictures("a"))
    with pytest.raises(SennaError, match="cache"):
        CachedCaptioner(Model(), tmp_path / "a" / "captions.sqlite").answer(pictures("a"))
    with pytest.raises(DataError, match="gone"):
        CachedCaptioner(Model(), tmp_path / "captions.sqlite").answer(pictures("gone"))
