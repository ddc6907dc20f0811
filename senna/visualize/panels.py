"""The column next to the views: verdict, content of the question, probabilities, descriptions."""

from PIL import ImageDraw

from senna.meta_actions import ALL_META_ACTIONS, PATHS, SPEEDS, MetaAction
from senna.visualize.facts import FrameFacts
from senna.visualize.style import BAR, INK, LINE, RIGHT, SOFT, TILE, mark_of, tint
from senna.visualize.text import fit, font, line_height, wrap

_HEADING, _PLAIN, _LARGE = 16, 18, 20
_CELL, _NAME_WIDTH, _SUM_WIDTH = 42, 112, 50  # sizes in the table of probabilities, pixels
_DESCRIPTION = (19, 18, 17, 16, 15, 14, 13, 12)


def draw_side(draw: ImageDraw.ImageDraw, facts: FrameFacts, box: tuple[int, int, int, int]) -> int:
    """Draw the column into a box (left, top, right, bottom) and return its end, below the box where the texts need it."""
    x, y, right, bottom = box
    width = right - x
    y = _verdict(draw, facts, x, y, width)
    y = _question(draw, facts, x, y + 14, width)
    y = _chart(draw, facts, x, y + 14, width)
    return _descriptions(draw, facts, x, y + 14, width, bottom)


def _heading(draw: ImageDraw.ImageDraw, text: str, x: int, y: int, width: int) -> int:
    draw.line((x, y, x + width, y), fill=LINE, width=1)
    return _paragraph(draw, text, x, y + 7, width, _HEADING, SOFT, bold=True) + 3


def _heading_height(text: str, width: int) -> int:
    return 7 + len(wrap(text, font(_HEADING, bold=True), width)) * line_height(_HEADING) + 3


def _percent(value: float | None) -> str:
    return "" if value is None else f"{_number(value)} %"


def _number(value: float) -> str:
    """Return per cent as text; values that would round to 0 or 100 are marked."""
    if 0 < value < 0.0005:
        return "<0.1"
    return ">99.9" if 0.9995 <= value < 1 else f"{100 * value:.1f}"


def _paragraph(
    draw: ImageDraw.ImageDraw, text: str, x: int, y: int, width: int, size: int, colour: str = INK, bold: bool = False
) -> int:
    """Draw wrapped text and return the y coordinate of its end."""
    face = font(size, bold, text)
    for line in wrap(text, face, width):
        draw.text((x, y), line, colour, face)
        y += line_height(size)
    return y


def _verdict(draw: ImageDraw.ImageDraw, facts: FrameFacts, x: int, y: int, width: int) -> int:
    sign, word, colour = mark_of(facts.correct)
    badge = f"{sign} {word}"
    face = font(19, bold=True)
    wide = face.getlength(badge) + 28
    draw.rounded_rectangle((x + width - wide, y, x + width, y + 36), 8, fill=colour)
    draw.text((x + width - wide / 2, y + 18), badge, "#ffffff", face, anchor="mm")
    if facts.correct is False and facts.predicted and facts.truth:
        parts = [
            f"{name} {'✓' if predicted == true else '✗'}"
            for name, predicted, true in zip(("SPEED", "PATH"), facts.predicted, facts.truth, strict=True)
        ]
        draw.text((x + width - wide - 14, y + 18), "   ".join(parts), SOFT, font(_PLAIN), anchor="rm")
    draw.text((x, y + 18), "Plan for the next 3 s", SOFT, font(_HEADING, bold=True), anchor="lm")
    y += 48
    if facts.predicted is None and facts.answer is not None:
        y = _paragraph(draw, "predicted: no meta-action, but", x, y, width, _PLAIN, SOFT)
        y = _paragraph(draw, f"“{facts.answer.strip()}”", x, y, width, _PLAIN, colour, bold=True) + 6
    else:
        y = _plan(draw, "predicted", facts.predicted, "not asked", facts, colour, (x, y), width)
    return _plan(draw, facts.truth_name, facts.truth, "not in the record", facts, RIGHT, (x, y), width)


def _plan(
    draw: ImageDraw.ImageDraw,
    name: str,
    plan: MetaAction | None,
    absent: str,
    facts: FrameFacts,
    colour: str,
    corner: tuple[int, int],
    width: int,
) -> int:
    """Draw a line with a name, a plan and its probability."""
    x, y = corner
    draw.text((x, y + 16), name, SOFT, font(_PLAIN), anchor="lm")
    if plan is None:
        draw.text((x + 106, y + 16), absent, SOFT, font(_PLAIN), anchor="lm")
    else:
        draw.text((x + 106, y + 16), str(plan), colour, font(_LARGE, bold=True), anchor="lm")
        draw.text((x + width, y + 16), _percent(facts.probability(plan)), INK, font(_PLAIN), anchor="rm")
    return y + 36


def _question(draw: ImageDraw.ImageDraw, facts: FrameFacts, x: int, y: int, width: int) -> int:
    y = _heading(draw, "In the question", x, y, width)
    speed = "not known" if facts.speed is None else f"{facts.speed:.1f} m/s ({3.6 * facts.speed:.0f} km/h)"
    y = _paragraph(draw, f"speed now: {speed}", x, y, width, _PLAIN)
    return _paragraph(draw, f"route: {facts.command or 'not known'}", x, y, width, _PLAIN)


def _chart(draw: ImageDraw.ImageDraw, facts: FrameFacts, x: int, y: int, width: int) -> int:
    """Draw all twenty probabilities as bars in a table of SPEED and PATH, so that each has a fixed position in a film."""
    y = _heading(draw, "Probability of each meta-action, %", x, y, width)
    if facts.probabilities is None:
        return _paragraph(draw, "not known: the model did not score the meta-actions", x, y, width, _PLAIN, SOFT)
    table = dict(zip(ALL_META_ACTIONS, map(float, facts.probabilities), strict=True))
    name, head, total = font(13), font(12), font(13, bold=True)
    left, wide = x + _NAME_WIDTH, (width - _NAME_WIDTH - _SUM_WIDTH) // len(PATHS)
    for column, path in enumerate(PATHS):
        lines = path.replace("_", "_\n")
        middle = left + column * wide + wide / 2
        draw.text((middle, y + 18), lines, SOFT, head, anchor="mm", align="center", spacing=3)
    draw.text((x + width, y + 18), "sum", SOFT, head, anchor="rm")
    y += 40
    for speed in SPEEDS:
        draw.text((x, y + _CELL / 2), speed, SOFT, name, anchor="lm")
        for column, path in enumerate(PATHS):
            corner = (left + column * wide, y)
            _cell(draw, facts, MetaAction(speed, path), table[speed, path], corner, wide - 4)
        of_speed = sum(table[speed, path] for path in PATHS)
        draw.text((x + width, y + _CELL / 2), _number(of_speed), INK, total, anchor="rm")
        y += _CELL + 4
    draw.text((x, y + 10), "sum", SOFT, head, anchor="lm")
    for column, path in enumerate(PATHS):
        of_path = sum(table[speed, path] for speed in SPEEDS)
        draw.text((left + column * wide + wide / 2, y + 10), _number(of_path), INK, total, anchor="mm")
    y += 24
    if facts.outside is not None:
        text = f"{_percent(max(0.0, facts.outside))} of the probability is outside these twenty, which are scaled to 100 %."
        y = _paragraph(draw, text, x, y + 2, width, 13, SOFT)
    return y


def _cell(
    draw: ImageDraw.ImageDraw,
    facts: FrameFacts,
    action: MetaAction,
    probability: float,
    corner: tuple[int, int],
    wide: int,
) -> None:
    x, y = corner
    is_predicted, is_true = action == facts.predicted, action == facts.truth
    bar = tint(mark_of(facts.correct)[2]) if is_predicted else BAR
    draw.rectangle((x, y, x + wide, y + _CELL), fill=TILE)
    if probability >= 0.005:
        draw.rectangle((x, y, x + wide * probability, y + _CELL), fill=bar)
    edge = RIGHT if is_true else mark_of(facts.correct)[2] if is_predicted else None
    if edge:
        draw.rectangle((x, y, x + wide, y + _CELL), outline=edge, width=3 if is_predicted else 2)
    word = "both" if is_predicted and is_true else "predicted" if is_predicted else facts.truth_name if is_true else ""
    middle = x + wide / 2
    draw.text((middle, y + (14 if word else _CELL / 2)), _number(probability), INK, font(15, bool(word)), anchor="mm")
    draw.text((middle, y + 30), word, INK, font(11), anchor="mm")


def _descriptions(draw: ImageDraw.ImageDraw, facts: FrameFacts, x: int, y: int, width: int, bottom: int) -> int:
    """Draw the descriptions in the largest font size that fits above ``bottom``, else in the smallest."""
    if not facts.descriptions:
        y = _heading(draw, "Description of the front view", x, y, width)
        return _paragraph(draw, "none in the record; use --describe to generate one", x, y, width, _PLAIN, SOFT)
    heads = sum(_heading_height(heading, width) + 12 for heading, _ in facts.descriptions)
    texts = [text for _, text in facts.descriptions]
    size = fit(texts, width, bottom - y - heads, _DESCRIPTION) or _DESCRIPTION[-1]
    for heading, text in facts.descriptions:
        y = _heading(draw, heading, x, y, width)
        y = _paragraph(draw, text, x, y, width, size) + 12
    return y
