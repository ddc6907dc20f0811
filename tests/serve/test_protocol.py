"""Bodies of /v1/meta_actions: what is read, and what is refused with the field and a reason."""

import math

import pytest

from senna.errors import DataError
from senna.serve.protocol import read_request
from senna.templates import load_templates
from senna.views import VIEWS, image_block

IMAGES = {view: f"data:{view}" for view in VIEWS}
GOOD = {"images": IMAGES, "speed": 3.14, "command": "turn left"}


def read(**changes):
    body = {**GOOD, **changes}
    return read_request({name: value for name, value in body.items() if value is not ...}, load_templates())


def test_speed_and_command_make_the_question_of_the_converter():
    request = read()
    words = load_templates()["plan"]["question"].format(speed="3.1 m/s", command="turn left")
    assert request.question == image_block() + words
    assert [image.url for image in request.images] == list(IMAGES.values())
    assert (request.ending, request.version, request.model) == ("\n", "v1", None)


def test_images_may_have_any_order_and_camera_names():
    names = {f"CAM_{view.upper().replace(' ', '_')}": url for view, url in reversed(IMAGES.items())}
    assert [image.url for image in read(images=names).images] == list(IMAGES.values())
    assert [image.url for image in read(images=list("abcdef")).images] == list("abcdef")


def test_a_question_stands_for_speed_and_command():
    request = read(question="<BACK VIEW>:\n<image>\nPlan?", images={"back": "data:x"}, speed=..., command=...)
    assert (request.question, [image.url for image in request.images]) == ("<BACK VIEW>:\n<image>\nPlan?", ["data:x"])
    assert read(question="Plan?", images=..., speed=..., command=...).images == []


@pytest.mark.parametrize(
    ("changes", "field", "reason"),
    [
        ({"images": ...}, "images", "6 <image>, and there are 0"),
        ({"images": {}}, "images", "missing"),
        ({"images": dict.fromkeys(VIEWS[:5], "x")}, "images", "missing: back"),
        ({"images": {**IMAGES, "CAM_FRONT": "x"}}, "images", "two images of the front view"),
        ({"images": {**IMAGES, "top": "x"}}, "images", "not a view"),
        ({"images": {**IMAGES, "front": 1}}, "images.front", "not a URL"),
        ({"images": list("abcde")}, "images", "there are 5 images"),
        ({"images": "x"}, "images", "neither an object nor a list"),
        ({"speed": ...}, "speed", "missing"),
        ({"speed": "fast"}, "speed", "not a speed"),
        ({"speed": True}, "speed", "not a speed"),
        ({"speed": math.nan}, "speed", "not a speed"),
        ({"speed": -1}, "speed", "not a speed"),
        ({"speed": 1e9}, "speed", "not a speed"),
        ({"command": ...}, "command", "missing"),
        ({"command": "fly"}, "command", "not a navigation command"),
        ({"command": ["turn left"]}, "command", "not a navigation command"),
        ({"question": "Plan?"}, "question", "besides"),
        ({"question": "x" * 100_000, "speed": ..., "command": ...}, "question", "100000 characters"),
        ({"question": "\ud800", "speed": ..., "command": ...}, "question", "surrogate"),
        ({"question": 5, "speed": ..., "command": ...}, "question", "not a text"),
        ({"question": "<image>" * 5, "images": list("abcde"), "speed": ..., "command": ...}, "images", "there are 5"),
        ({"version": "plain"}, "version", "not known"),
        ({"ending": None}, "ending", "not a text"),
        ({"model": 1}, "model", "not a text"),
        ({"temperature": 0}, "temperature", "unknown"),
    ],
)
def test_a_wrong_field_is_named(changes, field, reason):
    with pytest.raises(DataError, match=reason) as refused:
        read(**changes)
    assert refused.value.record == field
    assert refused.value.remedy


def test_a_body_that_is_no_object_is_refused():
    with pytest.raises(DataError, match="not a JSON object"):
        read_request([GOOD], load_templates())
