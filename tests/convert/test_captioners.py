import os
import random
import signal
import sqlite3
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
from tests.helpers.paths import REPOSITORY

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


def test_description_has_weather_counts_and_the_nearest_road_users():
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


def test_unknown_facts_are_not_mentioned():
    text = describe(frame(agent(speed=float("nan")), description="Parked truck, intersection"), "front")
    assert "moving" not in text
    assert "night" not in text
    assert "rain" not in text


@pytest.mark.parametrize(
    ("description", "sentence"),
    [
        ("Night, after rain, many peds", "It is night and the road is wet after rain."), ("Rain, parked cars", "It rains."),
        ("Sunny day, construction", "It is day and the sky is clear."), ("Train station, birthday party, Sunday", ""),
        ("Night, difficult lighting", "It is night and the lighting is difficult."), ("Parking lot", ""), ("", ""),
    ],
)  # fmt: skip
def test_weather_and_time_of_day_come_from_the_scenes_description(description, sentence):
    assert sky_of(description) == sentence


def test_reasons_name_road_users_on_the_path():
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


def test_path_follows_the_future_positions():
    left = np.array([[0, 4], [-1, 8], [-4, 11], [-8, 12], [-12, 12], [-16, 12]], dtype=float)
    beside, ahead = agent(x=-14, y=12.5), agent(x=0, y=22)
    turning = frame(beside, ahead, future=left, plan=MetaAction("KEEP", "LEFT_TURN"))
    assert on_the_way(turning) == [beside]
    assert on_the_way(frame(beside, ahead)) == [ahead]


@pytest.mark.parametrize("plan", ALL_META_ACTIONS)
@pytest.mark.parametrize("speed", [0.0, 7.5, float("nan")])
def test_explanation_of_every_plan_passes_the_checks(plan, speed):
    for command in ("go straight", "turn left", "go straight and turn right"):
        text = explain(frame(agent(), plan=plan, speed=speed, command=command, future=np.zeros((6, 2))), plan)
        assert check("explanation", text) == []
        assert "nan" not in text
        assert command in text


def test_texts_are_reproducible_and_vary_between_frames():
    texts = [describe(frame(agent(), token=str(number)), "front") for number in range(40)]
    assert texts == [describe(frame(agent(), token=str(number)), "front") for number in range(40)]
    assert len(set(texts)) > 2
    assert all(check("description", describe(frame(), view)) == [] for view in VIEWS)


def test_no_text_without_annotations_or_about_traffic_lights():
    captioner = make_captioner("annotations")
    assert captioner.answer([asked(frame(agent()), "traffic_light")]) == [""]
    assert captioner.answer([asked(frame(annotated=False)), asked(frame(plan=None), "explanation")]) == ["", ""]


def test_captions_of_simulated_frames_pass_the_checks(drawn_world):
    pytest.importorskip("nuscenes", reason="nuscenes-devkit is not installed")
    from senna.convert.frames import read_frames

    captioner, count = make_captioner("annotations"), 0
    for about in read_frames(drawn_world, "v1.0-mini"):
        requests = [asked(about, "description", view) for view in VIEWS]
        requests += [asked(about, "explanation")] * (about.plan is not None)
        captions = ask(captioner, requests)
        assert [caption.problems for caption in captions] == [()] * len(requests)
        count += len(captions)
    assert count == 48 * 6 + 36


# make_captioner


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gpt", {}, "annotations, llava, openai"), ("annotations", {"model": "x"}, "no model"), ("openai", {}, "--server"),
        ("llava", {"server": "x"}, "--server"), ("openai", {"server": "a", "concurrency": 0}, "--concurrency"),
        ("llava", {"max_tokens": 0}, "0 tokens"),
    ],
)  # fmt: skip
def test_wrong_options_are_refused_immediately(name, options, message):
    with pytest.raises(UsageError, match=message):
        make_captioner(name, **options)


def test_creating_a_captioner_imports_no_torch():
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
    """A captioner whose answers depend on image and question; it records the requests."""

    window, settings = 4, ""

    def __init__(self, name="model"):
        self.name, self.asked = name, []

    def stream(self, requests):
        for index, request in reversed(list(enumerate(requests))):
            self.asked.append(request)
            yield index, f"{request.question} {request.image.read_bytes().decode()} {len(self.asked)}"

    def answer(self, requests):
        return [text for _, text in sorted(self.stream(requests))]


@pytest.fixture
def images(tmp_path):
    for name, content in {"a": "cat", "b": "dog", "c": "cat"}.items():
        (tmp_path / name).write_text(content)
    return lambda *names: [Request(None, "front", tmp_path / name, "description", "what?") for name in names]


def test_no_question_is_asked_twice_in_one_call_or_two_runs(images, tmp_path):
    model = Model()
    first = CachedCaptioner(model, tmp_path / "cache" / "captions.sqlite").answer(images("a", "b", "c", "a"))
    assert len(model.asked) == 2  # a and c are the same image under two names
    assert first[0] == first[2] == first[3] != first[1]
    again = CachedCaptioner(model, tmp_path / "cache" / "captions.sqlite").answer(images("c", "b"))
    assert again == [first[0], first[1]]
    assert len(model.asked) == 2


def test_changed_image_question_model_or_settings_are_asked_again(images, tmp_path):
    model, path = Model(), tmp_path / "captions.sqlite"
    CachedCaptioner(model, path).answer(images("a"))
    (tmp_path / "a").write_text("horse")
    CachedCaptioner(model, path).answer(images("a"))
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
        for index, request in enumerate(requests):
            yield index, request.question
requests = [Request(None, "front", Path(sys.argv[1]), "description", str(number)) for number in range(100000)]
for index, text in CachedCaptioner(Model(), Path(sys.argv[2])).stream(requests):
    print(text, flush=True)
"""


@pytest.mark.slow
def test_answers_survive_a_killed_process(tmp_path):
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
            printed = 1 + sum(1 for line in process.stdout if line.endswith("\n"))
        model = Model()
        cached = CachedCaptioner(model, tmp_path / "captions.sqlite")
        cached.answer([Request(None, "front", tmp_path / "a", "description", str(number)) for number in range(printed)])
        assert model.asked == []
        cached.close()
        known = max(known, printed)
    assert known > 5


def test_two_shards_can_share_a_cache(images, tmp_path):
    first, second = (CachedCaptioner(model, tmp_path / "captions.sqlite") for model in (Model(), Model()))
    streams = [first.stream(images("a", "b")), second.stream(images("b", "a"))]
    assert len([next(stream) for _ in range(2) for stream in streams]) == 4


def test_unusable_cache_files_and_missing_images_are_named(images, tmp_path):
    (tmp_path / "notes").write_text("no database, but a text that is longer than the head of one " * 20)
    with pytest.raises(UsageError, match="notes") as error:
        CachedCaptioner(Model(), tmp_path / "notes").answer(images("a"))
    assert error.value.remedy == "move it away"
    with pytest.raises(SennaError, match="cache"):
        CachedCaptioner(Model(), tmp_path / "a" / "captions.sqlite").answer(images("a"))
    with pytest.raises(DataError) as missing:
        CachedCaptioner(Model(), tmp_path / "captions.sqlite").answer(images("gone"))
    assert (missing.value.file, missing.value.kind) == (tmp_path / "gone", DataError.MISSING_IMAGE)


@pytest.mark.parametrize(
    ("code", "remedy"), [(13, "make room"), (10 | 3 << 8, "make room"), (8, "can be written"), (None, "can be written")]
)
def test_full_disk_is_recognized_by_its_sqlite_code(images, tmp_path, monkeypatch, code, remedy):
    fault = sqlite3.OperationalError("some text")
    if code is not None:
        fault.sqlite_errorcode = code
    cached = CachedCaptioner(Model(), tmp_path / "captions.sqlite")

    def fail(key, text):
        with cached._cache._reporting_errors():
            raise fault

    monkeypatch.setattr(cached._cache, "store", fail)
    with pytest.raises(SennaError) as error:
        cached.answer(images("a"))
    assert remedy in error.value.remedy
