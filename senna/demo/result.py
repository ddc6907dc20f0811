"""The HTML of an answer: a problem, a growing text, or the twenty meta-actions as bars in a grid of SPEED by PATH."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape

import numpy as np

from senna.decision import BALANCED, GREEDY, LIKELIEST, MOST_PROBABLE, Decision, decide
from senna.meta_actions import ALL_META_ACTIONS, SPEEDS, MetaAction, parse_meta_action

COLUMNS = (
    "LEFT_TURN",
    "LEFT_CHANGE",
    "STRAIGHT",
    "RIGHT_CHANGE",
    "RIGHT_TURN",
)  # in the order of the road, left to right
NOTHING_YET = '<p class="hint">The answer appears here.</p>'


_CHOSEN = {LIKELIEST: "most probable", BALANCED: "balanced decision", GREEDY: "greedy decision"}


@dataclass(frozen=True)
class Result:
    """An answer in progress.

    Attributes:
        question: the question without the image block.
        views: the views that the model gets.
        log_probs: (20,) log-probabilities for a plan question (`PlanScores.log_probs`).
        text: the greedy text so far; None before it begins.
        truth: the ground-truth plan of an example.
        seconds: the total time; None while the answer is growing.
        greedy: the meta-action of greedy decoding, with ``log_probs``.
        decision: the rule that decides.
    """

    question: str
    views: Sequence[str]
    log_probs: np.ndarray | None = None
    text: str | None = None
    truth: MetaAction | None = None
    seconds: float | None = None
    greedy: MetaAction | None = None
    decision: Decision = MOST_PROBABLE

    def but(self, **changes) -> "Result":
        """Return a copy with some values changed."""
        return replace(self, **changes)


@dataclass(frozen=True)
class Bar:
    """A cell of the grid. ``height`` is relative to the highest bar, and ``is_best`` marks the decision."""

    action: MetaAction
    probability: float
    height: float
    is_best: bool


def grid(
    log_probs: np.ndarray, decision: Decision = MOST_PROBABLE, greedy: MetaAction | None = None
) -> list[list[Bar]]:
    """Return rows of SPEEDS and columns of COLUMNS; the probabilities of the rule sum to 1 over the twenty."""
    probabilities = np.exp(decision.log_probs(log_probs))
    shares = dict(zip(ALL_META_ACTIONS, probabilities.tolist(), strict=True))
    highest, decided = max(shares.values()), decide(log_probs, decision, greedy)
    return [
        [
            Bar(action, shares[action], shares[action] / highest, action == decided)
            for action in (MetaAction(speed, path) for path in COLUMNS)
        ]
        for speed in SPEEDS
    ]


def percent(share: float) -> str:
    """Return ``63 %``; ``<1 %`` for a share that would round to 0."""
    return f"{'<1' if 0 < share < 0.005 else f'{100 * share:.0f}'}\N{NARROW NO-BREAK SPACE}%"


def draw_problem(message: str) -> str:
    """Return the HTML of a message in place of an answer."""
    return f'<div class="problem" role="alert"><b>Not yet.</b> {escape(message)}</div>'


def is_over(html: str | None) -> bool:
    """Return whether HTML from ``draw`` or ``draw_problem`` is a problem or a finished answer."""
    return 'class="problem"' in (html or "") or 'data-done="true"' in (html or "")


def draw(result: Result) -> str:
    """Return the HTML of an answer in progress."""
    parts = [] if result.log_probs is None else [_draw_plan(result)]
    if result.text is not None:
        parts.append(_draw_text(result))
    waiting = "" if parts else '<p class="hint">The model is processing the images …</p>'
    seen = "the front view" if len(result.views) == 1 else f"{len(result.views)} views"
    took = "" if result.seconds is None else f" Answered in {result.seconds:.1f} s."
    return (
        f'<div class="answer" data-done="{str(result.seconds is not None).lower()}">{"".join(parts)}{waiting}'
        f'<details class="asked"><summary>The question, about {seen}.{took}</summary><p>{escape(result.question)}</p>'
        "</details></div>"
    )


def _draw_text(result: Result) -> str:
    caret = "" if result.seconds is not None else '<span class="caret" aria-hidden="true"></span>'
    text = escape((result.text or "").strip())
    if not text and result.seconds is not None:
        text = '<span class="hint">The model gave no text.</span>'
    if result.log_probs is None:
        return f'<p class="answer-text" aria-live="polite">{text}{caret}</p>'
    return f'<p class="small">Greedy text:</p><p class="answer-text plan">{text}{caret}</p>{_verdict(result)}'


def _verdict(result: Result) -> str:
    """Return a remark where the greedy text differs from the decision."""
    if result.seconds is None or result.log_probs is None:
        return ""
    decoded = parse_meta_action(result.text or "")
    if decoded is None:
        return '<p class="small">The text is not one of the twenty meta-actions; the bars compare only these.</p>'
    if decoded != decide(result.log_probs, result.decision, result.greedy):
        return f'<p class="small">The greedy text differs from the {_CHOSEN[result.decision.name]} of the twenty.</p>'
    return ""


def _draw_plan(result: Result) -> str:
    assert result.log_probs is not None
    rows = grid(result.log_probs, result.decision, result.greedy)
    best = next(bar for row in rows for bar in row if bar.is_best)
    outside = max(0.0, 1.0 - float(np.exp(result.log_probs).sum()))
    head = "".join(f'<span class="path">{_spaced(path)}</span>' for path in COLUMNS)
    body = "".join(
        f'<span class="speed">{escape(row[0].action.speed)}</span>{"".join(_cell(bar, result.truth) for bar in row)}'
        for row in rows
    )
    truth = "" if result.truth is None else '<span><i class="key truth"></i>ground truth</span>'
    return (
        f'<p class="winner"><b>{escape(str(best.action))}</b><span>{escape(percent(best.probability))}</span></p>'
        f'<div class="grid" role="img" aria-label="{escape(_description(rows))}"><span class="corner"></span>{head}{body}</div>'
        f'<p class="legend"><span><i class="key best"></i>{_CHOSEN[result.decision.name]}</span>{truth}'
        f"<span>bars relative to the most probable</span></p>"
        f'<p class="small">{escape(percent(outside))} of the model’s probability is on other texts than these twenty.</p>'
    )


def _cell(bar: Bar, truth: MetaAction | None) -> str:
    classes = "cell" + " best" * bar.is_best + " truth" * (bar.action == truth)
    driven = "<em>driven</em>" if bar.action == truth else ""
    return (
        f'<span class="{classes}" title="{escape(str(bar.action))}: {100 * bar.probability:.2f} %">{driven}'
        f'<i class="bar" style="height:{100 * bar.height:.1f}%"></i><b>{escape(percent(bar.probability))}</b></span>'
    )


def _spaced(path: str) -> str:
    return escape(path).replace("_", "<br>")


def _description(rows: Sequence[Sequence[Bar]]) -> str:
    """Return the chart as text for screen readers, the most probable meta-action first."""
    bars = sorted((bar for row in rows for bar in row), key=lambda bar: -bar.probability)
    return "; ".join(f"{bar.action} {percent(bar.probability)}" for bar in bars)
