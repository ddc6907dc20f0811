"""Views: the image block, cameras in paths, the order of images, and the view of a point."""

import itertools
import json
import math
import random
import subprocess
import sys

import pytest

from senna.errors import DataError
from senna.views import VIEWS, camera_of, image_block, order_paths, prompt_views, view_of


def test_the_image_block_has_a_tag_and_a_placeholder_for_each_view():
    assert image_block() == (
        "<FRONT VIEW>:\n<image>\n<FRONT LEFT VIEW>:\n<image>\n<FRONT RIGHT VIEW>:\n<image>\n"
        "<BACK LEFT VIEW>:\n<image>\n<BACK RIGHT VIEW>:\n<image>\n<BACK VIEW>:\n<image>\n"
    )
    assert image_block(VIEWS[:1]) == "<FRONT VIEW>:\n<image>\n"


def test_records_and_views_do_not_import_torch():
    code = "import sys, senna.records, senna.views; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("path", "view"),
    [
        ("../nuscenes/samples/CAM_FRONT/n008-2018-09-18-13-10-39-0400__CAM_FRONT__1537291010612404.jpg", "front"),
        ("n008-0400__CAM_FRONT_LEFT__15.jpg", "front left"),
        ("/data/CAM_BACK_RIGHT/3f2a.jpg", "back right"),
        ("frame-1/CAM_BACK.jpg", "back"),
        ("CAM_FRONT_0001.png", "front"),
        ("CAM_FRONT_a1b2.png", "front"),
        (r"D:\samples\CAM_FRONT_RIGHT\1.jpg", "front right"),
        ("CAM_FRONT/CAM_BACK.jpg", "back"),
        ("CAM_FRONT/CAM_BACK/1.jpg", "back"),
        ("CAM_FRONT/CAM_FRONT_WIDE.jpg", None),
        ("CAM_FRONT_WIDE/1.jpg", None),
        ("CAM_FRONTAL/1.jpg", None),
        ("WEBCAM_FRONT/1.jpg", None),
        ("CAM_FRONT2/1.jpg", None),
        ("CAM_FRONT__CAM_BACK.jpg", None),
        ("front.jpg", None),
    ],
)
def test_a_path_belongs_to_the_camera_it_names_and_the_file_name_has_priority(path, view):
    assert camera_of(path) == view


@pytest.mark.parametrize(
    ("text", "views"),
    [
        (image_block() + "Plan?", VIEWS),
        (image_block(("back", "front left")), ("back", "front left")),
        ("<front_left view> : <image>", ("front left",)),
        ("<image>\n<BACK VIEW>:\n<image>", (None, "back")),
        ("<BACK VIEW>: a wall. <image>", (None,)),
        ("<TOP VIEW>:\n<image>", (None,)),
        ("<BACK VIEW>:\nnothing", ()),
        ("", ()),
    ],
)
def test_a_placeholder_belongs_to_the_view_in_its_tag(text, views):
    assert prompt_views(text) == views


SIX = {view: f"{view}/CAM_{view.upper().replace(' ', '_')}.jpg" for view in VIEWS}


@pytest.mark.parametrize("order", list(itertools.permutations(range(6)))[::37])
def test_paths_in_any_order_are_put_in_the_order_of_the_prompt(order):
    paths = [SIX[VIEWS[index]] for index in order]
    assert order_paths(paths, VIEWS) == list(SIX.values())
    assert order_paths(paths, VIEWS[::-1]) == list(SIX.values())[::-1]
    assert order_paths(paths, [None] * 6) == list(SIX.values()), "without tags, the order of VIEWS is used"
    assert order_paths(paths, ["back", None, None, "front", None, None]) == [
        SIX[view] for view in ("back", "front left", "front right", "front", "back left", "back right")
    ]
    assert order_paths(paths, ["back left"]) == [SIX["back left"]]


@pytest.mark.parametrize(
    "paths",
    [
        list("cabfed"),
        [*list(SIX.values())[:0:-1], "extra.jpg"],  # not every path names a camera
        [SIX["back"], *SIX.values()],  # two paths of the same camera
        [SIX["back"]] * 6,
    ],
)
def test_paths_without_a_camera_each_keep_their_order(paths):
    assert order_paths(paths, VIEWS) == paths
    assert order_paths(paths, [None] * len(paths)) == paths


def test_a_number_of_paths_that_differs_from_the_placeholders_leaves_them_unchanged():
    paths = list(SIX.values())[::-1]
    for count in (0, 1, 3, 5, 7):
        assert order_paths(paths, [None] * count) == paths


def test_a_view_without_an_image_raises_an_error_with_the_views_there_are():
    with pytest.raises(DataError, match="asks for the back left view, and the record has images of: front, back"):
        order_paths([SIX["back"], SIX["front"]], ("front", "back left"))


def test_the_view_of_a_point_equals_the_published_one(golden):
    cases = json.loads((golden / "labels.json").read_text())["locations"]
    assert len(cases) >= 120
    for case in cases:
        x, y = (float(value) for value in case["loc"])
        if case["position"] in VIEWS:
            assert view_of(x, y) == case["position"], case
        else:
            with pytest.raises(ValueError, match="nan"):
                view_of(x, y)


def test_every_point_has_a_view_including_the_origin_and_infinity():
    for x, y in itertools.product((0.0, -0.0, 5e-324, -5e-324, 1.0, -1.0, math.inf, -math.inf), repeat=2):
        assert view_of(x, y) in VIEWS
    for degrees in range(-180, 181):
        for nudge in (-1e-13, -1e-15, 0, 1e-15, 1e-13):
            angle = math.radians(degrees) + nudge
            assert view_of(math.cos(angle), math.sin(angle)) in VIEWS


def test_mirrored_points_are_in_mirrored_views():
    rng = random.Random(0)
    swap = {"left": "right", "right": "left"}
    for _ in range(2000):
        x, y = rng.uniform(-50, 50), rng.uniform(-50, 50)
        mirrored = " ".join(swap.get(word, word) for word in view_of(x, y).split())
        assert view_of(-x, y) == mirrored


@pytest.mark.parametrize("point", [(math.nan, 1.0), (1.0, math.nan), (math.nan, math.nan)])
def test_a_point_with_nan_raises_an_error(point):
    with pytest.raises(ValueError, match="nan"):
        view_of(*point)
