import math
import sys

import numpy as np
import pytest

from senna.evaluate.metrics.bootstrap import Scenes
from senna.evaluate.metrics.captions import score_captions, words

TRUTH = [
    "A wide road on a sunny day, with a truck ahead in our lane.",
    "Rain at night; the light is red and two pedestrians cross.",
    "An empty street between parked cars, and a cyclist on the left.",
]
PREDICTED = [
    "A wide road on a sunny day with a white truck ahead.",
    "At night the light is green and two pedestrians cross the road.",
    "A street between parked cars.",
]


def by_scene(count):
    return Scenes([f"s{number}" for number in range(count)])


def test_words_are_lower_case_without_punctuation():
    assert words(" A car's door -- 3.5 m, at Left-hand side!\n(Über)") == "a car's door 3.5 m at left-hand side über"


def test_figures_equal_those_of_pycocoevalcap():
    bleu = pytest.importorskip("pycocoevalcap.bleu.bleu", reason="needs the extra: .[evaluate]")
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    found = score_captions(TRUTH, PREDICTED, by_scene(3))
    true = {number: [words(text)] for number, text in enumerate(TRUTH)}
    predicted = {number: [words(text)] for number, text in enumerate(PREDICTED)}
    assert found["bleu4"]["value"] == pytest.approx(bleu.Bleu(4).compute_score(true, predicted, verbose=0)[0][3])
    assert found["rouge_l"]["value"] == pytest.approx(Rouge().compute_score(true, predicted)[0])
    assert found["cider"]["value"] == pytest.approx(Cider().compute_score(true, predicted)[0])
    assert found["bleu4"]["low"] < found["bleu4"]["value"] < found["bleu4"]["high"]


def test_bleu_and_rouge_equal_a_computation_by_hand():
    pytest.importorskip("pycocoevalcap", reason="needs the extra: .[evaluate]")
    # 5 of 6 words, 4 of 5 pairs, 3 of 4 triples and 2 of 3 groups of four match; 6 words, 8 in the ground truth
    found = score_captions(["a b c d e f g h"] * 2, ["a b c d e x"] * 2, by_scene(2))
    expected = (5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** 0.25 * math.exp(1 - 8 / 6)
    assert found["bleu4"] == {name: pytest.approx(expected) for name in ("value", "low", "high")}
    precision, recall, beta = 5 / 6, 5 / 8, 1.2
    rouge = (1 + beta**2) * precision * recall / (recall + beta**2 * precision)
    assert found["rouge_l"] == {name: pytest.approx(rouge) for name in ("value", "low", "high")}
    assert (found["words"], found["words_true"], found["empty"]) == (6, 8, 0)


def test_the_recorded_text_has_the_best_figures_and_an_empty_answer_the_worst():
    pytest.importorskip("pycocoevalcap", reason="needs the extra: .[evaluate]")
    best, worst = (score_captions(TRUTH, predicted, by_scene(3)) for predicted in (TRUTH, [None] * 3))
    assert (best["bleu4"]["value"], best["rouge_l"]["value"]) == (pytest.approx(1), pytest.approx(1))
    assert best["cider"]["value"] == pytest.approx(10)
    assert [worst[name]["value"] for name in ("bleu4", "rouge_l", "cider")] == pytest.approx([0, 0, 0], abs=1e-9)
    assert worst["empty"] == 1
    assert all(np.isfinite(worst[name]["high"]) for name in ("bleu4", "rouge_l", "cider"))


def test_without_pycocoevalcap_the_figures_name_the_package_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocoevalcap.bleu.bleu_scorer", None)
    found = score_captions(TRUTH, PREDICTED, by_scene(3))
    assert "pip install" in found["skipped"]
    assert "bleu4" not in found
    assert found["words"] == pytest.approx((12 + 12 + 5) / 3)


def test_chinese_and_japanese_texts_are_compared_by_characters():
    assert words("前方有Truck，路面湿。") == "前 方 有 truck 路 面 湿"
    assert words("赤いタワー") == "赤 い タ ワ ー"
    pytest.importorskip("pycocoevalcap", reason="needs the extra: .[evaluate]")
    found = score_captions(["前方有一辆卡车。"] * 2, ["前方有一辆汽车。"] * 2, by_scene(2))
    assert 0.5 < found["bleu4"]["value"] < 1
    assert found["words"] == found["words_true"] == 7
