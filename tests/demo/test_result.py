"""The chart of the twenty meta-actions and the text next to it."""

import re
from html import unescape

import numpy as np
import pytest

from senna.demo.result import COLUMNS, Result, draw, draw_problem, grid, percent
from senna.meta_actions import ALL_META_ACTIONS, PATHS, SPEEDS, MetaAction
from senna.views import VIEWS

# The k-th of the twenty has k / 210 of their probability; half of the total probability is on other texts.
SHARES = np.arange(1, 21) / 210
LOG_PROBS = np.log(SHARES / 2)


def cells(html: str) -> dict[str, str]:
    """Return meta-action -> the percentage in its cell."""
    found = re.findall(r'title="([A-Z_]+, [A-Z_]+): [\d.]+ %">.*?<b>([^<]*)</b>', html)
    return {action: unescape(share) for action, share in found}


def test_each_action_is_in_its_row_of_speed_and_column_of_path():
    rows = grid(LOG_PROBS)
    assert [row[0].action.speed for row in rows] == list(SPEEDS)
    assert all([bar.action.path for bar in row] == list(COLUMNS) for row in rows)
    assert sorted(COLUMNS) == sorted(PATHS)
    shown = {bar.action: bar.probability for row in rows for bar in row}
    assert [shown[action] for action in ALL_META_ACTIONS] == pytest.approx(SHARES.tolist())


def test_only_the_most_probable_is_marked_and_has_the_full_height():
    bars = [bar for row in grid(LOG_PROBS) for bar in row]
    assert [str(bar.action) for bar in bars if bar.is_best] == ["STOP, LEFT_CHANGE"]  # the last of the twenty
    heights = {bar.action: bar.height for bar in bars}
    assert heights[ALL_META_ACTIONS[19]] == 1.0
    assert heights[ALL_META_ACTIONS[4]] == pytest.approx(5 / 20)


def test_log_probabilities_too_small_for_exp_are_shown():
    bars = [bar for row in grid(LOG_PROBS - 2000) for bar in row]
    assert sum(bar.probability for bar in bars) == pytest.approx(1)


def test_the_page_shows_the_twenty_probabilities_and_the_rest():
    html = draw(Result("plan?", VIEWS, LOG_PROBS, "STOP, LEFT_CHANGE", seconds=1.25))
    shown = cells(html)
    assert list(shown) == [f"{speed}, {path}" for speed in SPEEDS for path in COLUMNS]
    assert shown["STOP, LEFT_CHANGE"] == percent(20 / 210) == "10\N{NARROW NO-BREAK SPACE}%"
    assert shown["KEEP, STRAIGHT"] == percent(1 / 210) == "<1\N{NARROW NO-BREAK SPACE}%"
    assert f"<b>STOP, LEFT_CHANGE</b><span>{percent(20 / 210)}</span>" in html
    assert f"{percent(0.5)} of the model’s probability is on other texts" in html
    assert "Answered in 1.2 s" in html
    assert "ground truth" not in html


def test_the_ground_truth_is_marked_in_words_too():
    html = draw(Result("plan?", VIEWS, LOG_PROBS, truth=MetaAction("KEEP", "LEFT_TURN")))
    assert re.findall(r'class="cell truth" title="([^:]*):', html) == ["KEEP, LEFT_TURN"]
    assert html.count("<em>driven</em>") == 1


@pytest.mark.parametrize(
    ("text", "remark"),
    [
        ("STOP, LEFT_CHANGE\n", None),
        ("KEEP, STRAIGHT", "differs from the most probable"),
        ("KEEP, STOP", "not one of the twenty"),
    ],
)
def test_a_text_that_differs_from_the_bars_is_remarked_once_the_answer_is_complete(text, remark):
    growing = Result("plan?", VIEWS, LOG_PROBS, text)
    verdicts = ("differs from the most probable", "not one of the twenty")
    assert not any(verdict in draw(growing) for verdict in verdicts)
    assert [verdict for verdict in verdicts if verdict in draw(growing.but(seconds=1.0))] == (
        [remark] if remark else []
    )


def test_text_of_visitors_and_models_is_escaped():
    html = draw(Result("<script>q</script>", ("front",), None, "<img src=x>", seconds=1.0))
    assert "<script>" not in html
    assert "<img" not in html
    assert "&lt;img src=x&gt;" in html
    assert "the front view" in html
    assert "<b>Not yet.</b> &lt;i&gt;" in draw_problem("<i>")
