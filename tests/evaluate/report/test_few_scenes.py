"""A warning where intervals come from few scenes, on every output that shows them."""

import pytest

from senna.evaluate.metrics.evaluate_predictions import evaluate_predictions
from senna.evaluate.report.compare_page import comparison_page
from senna.evaluate.report.comparison import Run, compare
from senna.evaluate.report.console import comparison_text, headline
from senna.evaluate.report.report_page import write_report
from tests.evaluate.pages import LEFT, STOP, STRAIGHT, plan


def predictions_of(scenes: int) -> list[dict]:
    truths = [(STRAIGHT, LEFT, STOP)[index % 3] for index in range(2 * scenes)]
    return [plan(index, truth, truth, scene=f"s{index // 2}") for index, truth in enumerate(truths)]


@pytest.mark.parametrize(("scenes", "warns"), [(1, False), (2, True), (49, True), (50, False)])
def test_intervals_from_few_scenes_come_with_a_warning(tmp_path, scenes, warns):
    predictions = predictions_of(scenes)
    metrics = evaluate_predictions(predictions, run={"model": "m"})
    page = write_report(tmp_path, metrics, predictions, lambda row: [None] * 6).read_text(encoding="utf-8")
    runs = [Run(name, tmp_path / name, metrics, predictions) for name in ("first", "other")]
    differences = [compare(predictions, predictions)]
    shown = (headline(metrics), page, comparison_text(runs, differences), comparison_page(runs, differences))
    assert [f"Only {scenes} scenes" in text for text in shown] == [warns] * 4
