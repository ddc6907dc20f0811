"""The picture of a key frame: ``draw_frame`` is a pure function of images and facts."""

import math
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageOps

from senna.meta_actions import STEP
from senna.visualize import style
from senna.visualize.facts import FrameFacts
from senna.visualize.panels import draw_side
from senna.visualize.road import Ribbon, path_length, ribbon
from senna.visualize.text import fit, font, line_height, undrawable_note, wrap

_OVERSAMPLING = 3  # the path is drawn this many times larger and scaled down, which smooths its edges
_PREDICTED_WIDTH = 0.6  # metres
_NOTE = 14
_SIZES = {"title": (26, 22, 18, 15, 12, 10), "tile": (14, 13, 12, 11, 10, 9, 8), "front": (24, 20, 16, 13)}


def draw_frame(views: Mapping[str, Image.Image | None], facts: FrameFacts) -> Image.Image:
    """Draw a key frame, RGB, 1920 x 1080 or higher (an even height) where its texts need more room.

    Args:
        views: view of ``senna.views.VIEWS`` -> image. A view that is None or absent becomes a grey tile with the reason
            from ``facts.reasons``.
    """
    no_path_reason = why_no_path(facts, views.get("front"))
    notes = _notes(facts, no_path_reason is None)
    note_lines = [line for note in notes for line in wrap(note, font(_NOTE, text=note), style.FRONT[0])]
    tiles_top = style.HEAD + style.FRONT[1] + style.GAP
    legend_top = tiles_top + style.TILE_SIZE[1] + 10
    notes_top = legend_top + 26
    bottom = max(style.HEIGHT, notes_top + len(note_lines) * line_height(_NOTE) + style.FOOT)

    side = (style.SIDE_LEFT, style.HEAD, style.SIDE_LEFT + style.SIDE_WIDTH, bottom - style.FOOT)
    draft = ImageDraw.Draw(Image.new("RGB", (style.WIDTH, 8)))
    height = max(bottom, draw_side(draft, facts, side) + style.FOOT)
    picture = Image.new("RGB", (style.WIDTH, height + height % 2), style.PAPER)  # video codecs take even numbers
    draw = ImageDraw.Draw(picture)
    _draw_head(draw, facts)
    picture.paste(_front(views.get("front"), facts, no_path_reason is None), (style.MARGIN, style.HEAD))
    for number, view in enumerate(style.OTHERS):
        tile = _view(views.get(view), view, style.TILE_SIZE, facts.reasons.get(view))
        picture.paste(tile, (style.MARGIN + number * (style.TILE_SIZE[0] + style.GAP), tiles_top))
    _draw_legend(draw, facts, legend_top, no_path_reason)
    _draw_lines(draw, note_lines, (style.MARGIN, notes_top), _NOTE, style.SOFT)
    draw_side(draw, facts, side)
    return picture


def _draw_lines(
    draw: ImageDraw.ImageDraw, lines: Sequence[str], corner: tuple[int, int], size: int, colour: str
) -> None:
    for number, line in enumerate(lines):
        draw.text((corner[0], corner[1] + number * line_height(size)), line, colour, font(size, text=line))


def _draw_head(draw: ImageDraw.ImageDraw, facts: FrameFacts) -> None:
    width = style.WIDTH - 2 * style.MARGIN
    for size in _SIZES["title"]:
        title = font(size, bold=True, text=facts.title)
        small = font(max(10, round(size * 0.6)), text=facts.subtitle)
        if title.getlength(facts.title) + 24 + small.getlength(facts.subtitle) <= width:
            break
    draw.text((style.MARGIN, style.HEAD / 2), facts.title, style.INK, title, anchor="lm")
    draw.text((style.WIDTH - style.MARGIN, style.HEAD / 2), facts.subtitle, style.SOFT, small, anchor="rm")


def why_no_path(facts: FrameFacts, front: Image.Image | None) -> str | None:
    """Return the reason why no path is drawn on the road; None where one is drawn."""
    if not len(facts.trajectory):
        return "the record has no trajectory"
    metres, seconds = path_length(facts.trajectory), len(facts.trajectory) * STEP
    if front is None:
        return "the front image is missing"
    if not facts.camera.sees(front.size):
        return (
            f"the front image is {front.width} x {front.height}, which is not the aspect ratio of {facts.camera.name}"
        )
    strip = ribbon(facts.trajectory, facts.camera, style.FRONT)
    if not strip.pieces:
        return f"the car does not move ({metres:.1f} m in {seconds:g} s)"
    if all(piece[:, 1].min() >= style.FRONT[1] for piece in strip.pieces):
        return f"it ends before the part of the road that the camera sees ({metres:.1f} m in {seconds:g} s)"
    return None


def _notes(facts: FrameFacts, has_path: bool) -> list[str]:
    texts = [
        facts.title,
        facts.subtitle,
        facts.command or "",
        facts.answer or "",
        *facts.notes,
        *facts.reasons.values(),
    ]
    undrawable = undrawable_note([*texts, *(text for _, text in facts.descriptions)])
    notes = [*([undrawable] if undrawable else []), *_path_notes(facts), *facts.notes]
    if not has_path:
        return notes
    seconds, metres = len(facts.trajectory) * STEP, path_length(facts.trajectory)
    driven = (
        f"The {facts.path_name}: {metres:.1f} m in {seconds:g} s, one line every {STEP:g} s. It is projected onto a flat road "
        f"with the calibration of a typical car ({facts.camera.name})."
    )
    return [driven, *notes]


def _path_notes(facts: FrameFacts) -> list[str]:
    """Return a sentence on the predicted path, if there is one."""
    if not len(facts.predicted_path):
        return []
    metres, seconds = path_length(facts.predicted_path), len(facts.predicted_path) * STEP
    text = f"Predicted path, the narrow black strip: {metres:.1f} m in {seconds:g} s"
    if len(facts.trajectory) == len(facts.predicted_path):
        text += f"; it ends {math.dist(facts.predicted_path[-1], facts.trajectory[-1]):.1f} m from the driven one"
    return [f"{text}."]


def _front(image: Image.Image | None, facts: FrameFacts, has_path: bool) -> Image.Image:
    tile = _view(image, "front", style.FRONT, facts.reasons.get("front"), label=False)
    if image is not None and has_path:
        box = _contained(image.size, style.FRONT)
        inside = ribbon(facts.trajectory, facts.camera, (box[2] - box[0], box[3] - box[1]))
        colour = style.SPEED_COLOURS[facts.predicted.speed] if facts.predicted else style.UNJUDGED
        part = tile.crop(box)
        _draw_ribbon(part, inside, colour)
        tile.paste(part, box[:2])
        if inside.end is not None and 0 <= inside.end[0] <= part.width and inside.end[1] <= part.height:
            _label_end(ImageDraw.Draw(tile), inside, box, f"{len(facts.trajectory) * STEP:g} s")
    if image is not None and len(facts.predicted_path) and facts.camera.sees(image.size):
        box = _contained(image.size, style.FRONT)
        part = tile.crop(box)
        _draw_ribbon(part, ribbon(facts.predicted_path, facts.camera, part.size, _PREDICTED_WIDTH), style.INK)
        tile.paste(part, box[:2])
    _label(tile, "front", 18)
    return tile


def _contained(size: tuple[int, int], room: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return (left, top, right, bottom) of an image scaled to the room, with its aspect ratio kept."""
    scale = min(room[0] / size[0], room[1] / size[1])
    width, height = (max(1, round(edge * scale)) for edge in size)
    left, top = (room[0] - width) // 2, (room[1] - height) // 2
    return left, top, left + width, top + height


def _view(
    image: Image.Image | None, view: str, size: tuple[int, int], reason: str | None, label: bool = True
) -> Image.Image:
    """Return a tile with the image of a view, or a grey tile with the reason why it is missing."""
    tile = Image.new("RGB", size, style.TILE)
    if image is None:
        _explain(tile, reason or "the record names no such image")
    else:
        box = _contained(image.size, size)
        shape = (box[2] - box[0], box[3] - box[1])
        tile.paste(ImageOps.fit(image.convert("RGB"), shape, Image.Resampling.LANCZOS), box[:2])
    if label:
        _label(tile, view, 14)
    return tile


def _explain(tile: Image.Image, reason: str) -> None:
    draw = ImageDraw.Draw(tile)
    draw.rectangle((0, 0, tile.width - 1, tile.height - 1), outline=style.LINE)
    room, top = tile.width - 20, 34
    sizes = _SIZES["front" if tile.width > 600 else "tile"]
    size = fit([reason], room, tile.height - top - 8, sizes)
    # A reason that does not fit is printed in the notes below the views.
    lines = wrap(reason if size else "cannot be read", font(size or sizes[-1], text=reason), room)
    height = len(lines) * line_height(size or sizes[-1])
    start = top + max(0, (tile.height - top - 8 - height) // 2)
    _draw_lines(draw, lines, (10, start), size or sizes[-1], style.INK)


def _label(tile: Image.Image, name: str, size: int) -> None:
    face = font(size, bold=True)
    width, height = round(face.getlength(name)) + size, round(size * 1.7)
    chip = Image.new("RGB", (width, height), "#000000")
    under = tile.crop((0, 0, width, height))
    tile.paste(Image.blend(under, chip, 0.62), (0, 0))
    ImageDraw.Draw(tile).text((width / 2, height / 2), name, "#ffffff", face, anchor="mm")


def _draw_ribbon(picture: Image.Image, strip: Ribbon, colour: str) -> None:
    """Draw a translucent ribbon onto a picture, in place."""
    size = (picture.width * _OVERSAMPLING, picture.height * _OVERSAMPLING)
    fill, lines = Image.new("L", size), Image.new("L", size)
    for piece in strip.pieces:
        ImageDraw.Draw(fill).polygon([tuple(corner) for corner in piece * _OVERSAMPLING], fill=138)
    draw = ImageDraw.Draw(lines)
    for piece in strip.pieces:
        for start, end in ((0, 1), (3, 2)):
            draw.line(
                [tuple(piece[start] * _OVERSAMPLING), tuple(piece[end] * _OVERSAMPLING)],
                fill=235,
                width=2 * _OVERSAMPLING,
            )
    for rung in strip.rungs:
        draw.line([tuple(corner) for corner in rung * _OVERSAMPLING], fill=215, width=2 * _OVERSAMPLING)
    for mask, paint in ((fill, colour), (lines, "#ffffff")):
        picture.paste(paint, (0, 0, *picture.size), mask.resize(picture.size, Image.Resampling.BOX))


def _label_end(draw: ImageDraw.ImageDraw, strip: Ribbon, box: tuple[int, int, int, int], text: str) -> None:
    x, y = strip.end[0] + box[0], strip.end[1] + box[1]
    face = font(17, bold=True)
    half = face.getlength(text) / 2 + 4
    x = min(max(x, box[0] + half), box[2] - half)
    draw.text((x, y - 5), text, "#ffffff", face, anchor="ms", stroke_width=2, stroke_fill="#000000")


def _draw_legend(draw: ImageDraw.ImageDraw, facts: FrameFacts, top: int, no_path_reason: str | None) -> None:
    corner = (style.MARGIN, top)
    if no_path_reason:
        draw.text(corner, f"No path is drawn on the road: {no_path_reason}.", style.SOFT, font(_NOTE))
        return
    if facts.predicted is None:
        draw.text(corner, f"On the road: the {facts.path_name}; no plan was predicted.", style.INK, font(_NOTE))
        return
    text = f"On the road: the {facts.path_name}, in the colour of the predicted SPEED"
    draw.text(corner, text, style.INK, font(_NOTE))
    x = corner[0] + font(_NOTE).getlength(text) + 22
    for speed, colour in style.SPEED_COLOURS.items():
        chosen = speed == facts.predicted.speed
        face = font(_NOTE, bold=chosen)
        draw.rectangle((x, top + 2, x + 22, top + 16), fill=colour, outline=style.INK if chosen else None, width=2)
        draw.text((x + 30, top), speed, style.INK if chosen else style.SOFT, face)
        x += 30 + face.getlength(speed) + 22
