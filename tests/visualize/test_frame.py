"""A picture shows every word that it was given, no text overlaps another, and the path is on the road."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from senna.meta_actions import ALL_META_ACTIONS, MetaAction
from senna.views import VIEWS
from senna.visualize import style
from senna.visualize.facts import FrameFacts
from senna.visualize.frame import draw_frame, why_no_path
from senna.visualize.road import N015, project
from senna.visualize.text import fit, font, line_height, wrap

GREY = (128, 128, 128)
STRAIGHT = tuple((0.0, 4.0 * step) for step in range(1, 7))
FACTS = FrameFacts(
    title="Scene 54cdaaae372d421fa4734d66f51a8c48, frame 3 of 40",
    subtitle="d5e16062410f4e329d31a881b28e5c1c",
    predicted=MetaAction("DECELERATE", "RIGHT_CHANGE"),
    truth=MetaAction("DECELERATE", "LEFT_CHANGE"),
    probabilities=[0.05] * 20,
    outside=0.25,
    speed=4.2,
    command="go straight and turn right",
    descriptions=(("The model describes the front view", "It rains on an empty road."),),
    trajectory=STRAIGHT,
    notes=("Word by word the model would have ended at KEEP, STRAIGHT.",),
)


def all_views(size=(160, 90)):
    return {view: Image.new("RGB", size, GREY) for view in VIEWS}


@pytest.fixture
def drawn(monkeypatch):
    """Record the texts that ``draw_frame`` draws as (size of the picture, text, (left, top, right, bottom))."""
    texts = []
    text = ImageDraw.ImageDraw.text

    def spy(self, xy, line, *args, **options):
        if line:
            named = {**dict(zip(("fill", "font", "anchor"), args, strict=False)), **options}
            measured = {key: value for key, value in named.items() if key not in ("fill", "stroke_fill")}
            texts.append((self.im.size, line, self.textbbox(xy, line, **measured)))
        return text(self, xy, line, *args, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", spy)
    return texts


def check_layout(drawn, picture):
    """No text reaches over the picture's or its column's edge, and none covers another."""
    boxes = [(line, box) for size, line, box in drawn if size == picture.size]
    assert boxes
    for line, (left, top, right, bottom) in boxes:
        assert left >= 0, line
        assert top >= 0, line
        assert right <= picture.width, line
        assert bottom <= picture.height, line
        if top > style.HEAD and left < style.SIDE_LEFT - 20:
            assert right <= style.SIDE_LEFT, line  # of the left column
        elif top > style.HEAD:
            assert right <= style.SIDE_LEFT + style.SIDE_WIDTH + 1, line
    for position, (line, (left, top, right, bottom)) in enumerate(boxes):
        for other, (left2, top2, right2, bottom2) in boxes[position + 1 :]:
            apart = right <= left2 or right2 <= left or bottom <= top2 or bottom2 <= top
            assert apart, (line, other)


LONG = "The car drives on a wet road in the evening; a bus stops ahead of it. " * 40 + "x" * 300
VARIANTS = {
    "plain": FACTS,
    "nothing known": FrameFacts(title="Frame 1 of 1"),
    "long texts": replace(
        FACTS,
        title="Scene " + "long-" * 30,
        subtitle="t" * 64,
        descriptions=(("The model describes the front view", LONG), ("The record (captioner: " + "name " * 20 + ")", LONG)),
        notes=("note " * 200, "back: " + "/a/long/path" * 30),
    ),
    "text for an answer": replace(FACTS, predicted=None, probabilities=None, outside=None, answer="I would KEEP. " * 30),
    "right": replace(FACTS, truth=FACTS.predicted, probabilities=np.eye(20)[7]),
    "sure": replace(FACTS, probabilities=[0.9999, *[0.0001 / 19] * 19], outside=0.9999),
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_no_text_is_cut_off_or_covers_another(drawn, name):
    picture = draw_frame(all_views(), VARIANTS[name])
    assert picture.width == style.WIDTH
    assert picture.height >= style.HEIGHT
    assert picture.height % 2 == 0  # video codecs
    check_layout(drawn, picture)


def test_every_word_of_a_long_description_is_there_in_order(drawn):
    words = " ".join(f"word{number}" for number in range(900))
    picture = draw_frame(all_views(), replace(FACTS, descriptions=(("It says", words),), notes=()))
    assert picture.height > style.HEIGHT
    lines = [line for size, line, _ in drawn if size == picture.size and line.startswith("word")]
    assert " ".join(lines) == words
    drawn.clear()
    short = " ".join(words.split()[:120])
    picture = draw_frame(all_views(), replace(FACTS, descriptions=(("It says", short),), notes=()))
    assert picture.height == style.HEIGHT  # a usual one is made to fit
    assert " ".join(line for size, line, _ in drawn if size == picture.size and line.startswith("word")) == short


def test_lines_are_as_wide_as_they_may_be_and_no_wider():
    face = font(16)
    lines = wrap("one two three four five six " * 5 + "\n\n" + "w" * 100, face, 200)
    assert all(face.getlength(line) <= 200 for line in lines)
    assert face.getlength(f"{lines[0]} {lines[1].split()[0]}") > 200
    assert "".join(lines).replace(" ", "") == "onetwothreefourfivesix" * 5 + "w" * 100
    assert not wrap("", face, 200)


def test_the_largest_type_that_fits_is_taken():
    text = "one two three four five six seven eight nine ten " * 10
    size = fit([text], 300, 400, range(40, 8, -1))
    assert len(wrap(text, font(size), 300)) * line_height(size) <= 400
    assert len(wrap(text, font(size + 1), 300)) * line_height(size + 1) > 400
    assert fit([text], 300, 10, (20, 12)) is None


def test_the_path_is_drawn_on_the_road_only():
    bare = np.array(draw_frame(all_views(), replace(FACTS, trajectory=()))).astype(int)
    picture = np.array(draw_frame(all_views(), FACTS)).astype(int)
    pixels, _ = project([[0.0, 10.0, 0.0], [2.0, 10.0, 0.0], [-2.0, 10.0, 0.0], [0.0, 40.0, 0.0]], N015, style.FRONT)
    positions = [(round(y) + style.HEAD, round(x) + style.MARGIN) for x, y in pixels]
    assert bare[positions[0]].tolist() == list(GREY)
    colour = [int(style.SPEED_COLOURS["DECELERATE"][start : start + 2], 16) for start in (1, 3, 5)]
    mixed = picture[positions[0]] - GREY
    assert np.sign(mixed).tolist() == np.sign(np.subtract(colour, GREY)).tolist()  # of the predicted speed, translucent
    assert (np.abs(mixed) < np.abs(np.subtract(colour, GREY))).all()
    for aside in positions[1:]:
        assert picture[aside].tolist() == bare[aside].tolist()
    above = slice(style.HEAD, style.HEAD + style.FRONT[1] // 2), slice(style.MARGIN, style.MARGIN + style.FRONT[0])
    assert (picture[above] == bare[above]).all()  # nothing over the horizon


def test_a_predicted_path_lies_on_the_road_beside_the_driven_one(drawn):
    """It bends to the right and ends 6 m beside the driven one; it is dark on the grey image."""
    path = tuple((0.02 * y**2, y) for y in (4.0, 8.0, 12.0, 16.0, 20.0))
    facts = replace(FACTS, predicted_path=(*path, (6.0, 24.0)))
    bare, picture = (np.array(draw_frame(all_views(), given)).astype(int) for given in (FACTS, facts))
    pixels, _ = project([[2.0, 10.0, 0.0], [-2.0, 10.0, 0.0]], N015, style.FRONT)  # between two rungs
    on, aside = [(round(y) + style.HEAD, round(x) + style.MARGIN) for x, y in pixels]
    assert (picture[on] < bare[on] - 30).all()
    assert picture[aside].tolist() == bare[aside].tolist()
    assert any("it ends 6.0 m from the driven one" in line for _, line, _ in drawn)


@pytest.mark.parametrize(
    ("changes", "size", "reason"),
    [
        ({"trajectory": ()}, (160, 90), "no trajectory"),
        ({"trajectory": ((0.0, 0.01),) * 6}, (160, 90), "does not move"),
        ({"trajectory": tuple((0.0, 0.3 * step) for step in range(1, 7))}, (160, 90), "before the part of the road"),
        ({}, (100, 100), "aspect ratio"),
        ({}, None, "missing"),
    ],
)
def test_the_picture_gives_the_reason_where_no_path_is_drawn(drawn, changes, size, reason):
    facts = replace(FACTS, **changes)
    views = all_views(size) if size else {**all_views(), "front": None}
    assert reason in why_no_path(facts, views["front"])
    picture = draw_frame(views, facts)
    assert any(reason in line for size, line, _ in drawn if size == picture.size)


def test_an_unreadable_image_is_a_tile_with_the_reason(drawn):
    reason = "n008__CAM_BACK.jpg: damaged or truncated (image file is truncated (12 bytes not processed))"
    picture = draw_frame({**all_views(), "back": None}, replace(FACTS, reasons={"back": reason}))
    tile = [(line, box) for size, line, box in drawn if size == style.TILE_SIZE and line not in VIEWS]
    assert " ".join(line for line, _ in tile) == reason
    assert all(box[0] >= 0 and box[2] <= style.TILE_SIZE[0] and box[3] <= style.TILE_SIZE[1] for _, box in tile)
    left = style.MARGIN + style.OTHERS.index("back") * (style.TILE_SIZE[0] + style.GAP)
    corner = picture.getpixel((left + 5, style.HEAD + style.FRONT[1] + style.GAP + style.TILE_SIZE[1] - 5))
    assert "#{:02x}{:02x}{:02x}".format(*corner) == style.TILE


@pytest.mark.parametrize("view", style.OTHERS)
def test_each_view_has_its_tile_and_its_name(drawn, view):
    colour = (10, 200, 90)
    picture = draw_frame({**all_views(), view: Image.new("RGB", (160, 90), colour)}, FACTS)
    left = style.MARGIN + style.OTHERS.index(view) * (style.TILE_SIZE[0] + style.GAP)
    assert picture.getpixel((left + 120, style.HEAD + style.FRONT[1] + style.GAP + 100)) == colour
    assert {line for size, line, _ in drawn if size == style.TILE_SIZE} == set(style.OTHERS)


@pytest.mark.parametrize(
    ("truth", "words", "colour"),
    [
        (FACTS.predicted, {"✓ correct", "both"}, style.RIGHT),
        (MetaAction("STOP", "STRAIGHT"), {"✗ wrong", "predicted", "true", "SPEED ✗   PATH ✗"}, style.WRONG),
        (MetaAction("DECELERATE", "STRAIGHT"), {"✗ wrong", "SPEED ✓   PATH ✗"}, style.WRONG),
        (None, {"? not judged", "not in the record"}, style.UNJUDGED),
    ],
)
def test_right_and_wrong_differ_in_word_and_colour(drawn, truth, words, colour):
    picture = draw_frame(all_views(), replace(FACTS, truth=truth))
    assert words <= {line for _, line, _ in drawn}
    badge = picture.getpixel((style.SIDE_LEFT + style.SIDE_WIDTH - 6, style.HEAD + 18))
    assert "#{:02x}{:02x}{:02x}".format(*badge) == colour.lower()


def test_all_twenty_probabilities_are_in_the_picture(drawn):
    shares = np.arange(1, 21) / 210
    picture = draw_frame(all_views(), replace(FACTS, probabilities=shares))
    lines = [line for size, line, _ in drawn if size == picture.size]
    for share in shares:
        assert f"{100 * share:.1f}" in lines
    of_keep = sum(share for action, share in zip(ALL_META_ACTIONS, shares, strict=True) if action.speed == "KEEP")
    assert f"{100 * of_keep:.1f}" in lines
    assert f"{100 * shares[ALL_META_ACTIONS.index(FACTS.predicted)]:.1f} %" in lines


def test_drawing_does_not_change_its_inputs():
    views = all_views()
    before = {view: picture.copy() for view, picture in views.items()}
    first = draw_frame(views, FACTS)
    assert first.tobytes() == draw_frame(views, FACTS).tobytes()
    assert all(views[view].tobytes() == before[view].tobytes() for view in views)
