"""The prompt of a chat request is the one that the model was trained on, whatever order the images have."""

import pytest

from senna.data.conversation import prompt_for
from senna.errors import DataError
from senna.serve.chat import read_messages
from senna.views import VIEWS, image_block
from tests.serve.conftest import image_part, text_part

CAMERAS = {view: f"CAM_{view.upper().replace(' ', '_')}" for view in VIEWS}
BACKWARDS = VIEWS[::-1]


def read(*parts, before=()):
    chat = read_messages([*before, {"role": "user", "content": list(parts)}], "</s>")
    return chat.prompt, [image.url for image in chat.images]


def six(urls=VIEWS, **more):
    return [image_part(f"data:{view}", **more) for view in urls]


EXPECTED = prompt_for(image_block() + "Plan?"), [f"data:{view}" for view in VIEWS]


def test_text_alone_is_the_question():
    assert read_messages([{"role": "user", "content": "Plan?"}], "</s>") == (prompt_for("Plan?"), [])


@pytest.mark.parametrize("parts", [[*six(), text_part("Plan?")], [text_part("Plan?"), *six()]])
def test_six_images_without_names_get_the_tags_of_the_six_views(parts):
    assert read(*parts) == EXPECTED


@pytest.mark.parametrize("spell", [str, str.upper, CAMERAS.get, lambda view: f"<{view.upper()} VIEW>"])
def test_named_images_are_sorted(spell):
    parts = [image_part(f"data:{view}", view=spell(view)) for view in BACKWARDS]
    assert read(*parts, text_part("Plan?")) == EXPECTED


def test_a_view_may_stand_beside_the_url():
    parts = [{"type": "image_url", "image_url": {"url": f"data:{view}", "view": view}} for view in BACKWARDS]
    assert read(*parts, text_part("Plan?")) == EXPECTED


def test_tags_before_the_images_name_them():
    parts = []
    for view in BACKWARDS:
        parts += [text_part(f"<{view.upper()} VIEW>:\n"), image_part(f"data:{view}")]
    assert read(*parts, text_part("\nPlan?")) == EXPECTED


def test_urls_that_name_the_cameras_are_sorted():
    urls = [f"https://host/{CAMERAS[view]}/1.jpg?size=2" for view in BACKWARDS]
    prompt, images = read(*map(image_part, urls), text_part("Plan?"))
    assert (prompt, images) == (EXPECTED[0], urls[::-1])


def test_placeholders_in_the_text_stay_where_they_are():
    text = image_block(("front", "back", "front left", "front right", "back left", "back right")) + "Plan?"
    order = ["front", "back", "front left", "front right", "back left", "back right"]
    assert read(text_part(text), *[image_part(f"data:{view}", view=view) for view in VIEWS]) == (
        prompt_for(text),
        [f"data:{view}" for view in order],
    )
    assert read(text_part(text), *six()) == (prompt_for(text), EXPECTED[1])  # without names: in the order given


def test_one_image():
    assert read(image_part("data:x"), text_part("Say it.")) == (prompt_for("<image>\nSay it."), ["data:x"])
    named = read(image_part("data:x", view="back"), text_part("Say it."))
    assert named == (prompt_for(image_block(("back",)) + "Say it."), ["data:x"])


def test_images_between_texts_stay_there():
    assert read(text_part("Left "), image_part("data:x"), text_part(" of it?"))[0] == prompt_for("Left <image> of it?")


def test_earlier_turns_are_part_of_the_prompt():
    before = [{"role": "user", "content": [*six(), text_part("Plan?")]}, {"role": "assistant", "content": "STOP"}]
    prompt, images = read(text_part("Why?"), before=before)
    assert prompt == EXPECTED[0] + " STOP</s>USER: Why? ASSISTANT:"
    assert images == EXPECTED[1]


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "not from the user"),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "not from the user"),
        ([{"role": "system", "content": "Be rude."}, {"role": "user", "content": "a"}], "role 'system'"),
        ([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}], "must be from 'gpt'"),
        ([{"role": "user", "content": []}], "is empty"),
        ([{"role": "user", "content": None}], "is empty"),
        ([{"role": "user", "content": "a\ud800"}], "surrogate"),
        ([{"role": "user", "content": [{"type": "input_audio"}]}], "not supported"),
        ([{"role": "user", "content": ["a"]}], "not supported"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "has no URL"),
        ([{"role": "user", "content": [image_part("data:x", view="top")]}], "'top' is not a view"),
        ([{"role": "user", "content": six()[:5]}], "there are 5 images"),
        ([{"role": "user", "content": [*six(), image_part("data:x")]}], "there are 7 images"),
        ([{"role": "user", "content": [text_part("<image>")]}], "has 1 <image>, and there are 0 images"),
        ([{"role": "user", "content": [text_part("<image>"), *six()]}], "has 1 <image>, and there are 6 images"),
        (
            [{"role": "user", "content": [image_part(f"data:{view}", view=view) for view in VIEWS[:5]]}],
            "missing: back;",
        ),
        (
            [{"role": "user", "content": [image_part("data:x", view="front") for _ in VIEWS]}],
            "two images of the front view",
        ),
        (
            [{"role": "user", "content": [text_part("<BACK VIEW>:<image>"), image_part("data:x", view="front")]}],
            "asks for back, and the images are of front",
        ),
    ],
)
def test_messages_that_fit_no_prompt_are_refused_with_a_reason(messages, reason):
    with pytest.raises(DataError, match=reason) as refused:
        read_messages(messages, "</s>")
    assert refused.value.remedy
