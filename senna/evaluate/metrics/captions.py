"""Descriptions and explanations against the recorded ones: BLEU-4, ROUGE-L and CIDEr as COCO's caption evaluation has them.

The figures are pycocoevalcap's. Its own splitting into words needs Java; ours lower-cases and keeps words and numbers,
which drops punctuation as COCO does, so figures may differ from the Java tool's in the third digit.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from senna.evaluate.metrics.bootstrap import Interval, Scenes, interval, mean_interval

MISSING = "BLEU, ROUGE and CIDEr need the package pycocoevalcap: pip install 'senna[evaluate]'"
_WORD = re.compile(r"[^\W_]+(?:['’.-][^\W_]+)*")


def score_captions(truth: Sequence[str], told: Sequence[str], scenes: Scenes) -> dict[str, Any]:
    """bleu4 (of the corpus), rouge_l and cider (means over N answers; CIDEr from 0 to 10), words, words_true, empty.

    CIDEr weighs word groups by how rare they are in these truths: with one record it is 0. Without pycocoevalcap there is
    ``skipped``, a sentence, in place of the three.
    """
    answers, references = [words(text) for text in told], [words(text) for text in truth]
    return {
        **_scores(references, answers, scenes),
        "words": float(np.mean([len(text.split()) for text in answers])),
        "words_true": float(np.mean([len(text.split()) for text in references])),
        "empty": float(np.mean([not text for text in answers])),
    }


def words(text: str) -> str:
    """The words of a text, lower-case, a blank between them."""
    return " ".join(_WORD.findall(text.lower()))


def _scores(references: Sequence[str], answers: Sequence[str], scenes: Scenes) -> dict[str, Any]:
    try:
        from pycocoevalcap.bleu.bleu_scorer import BleuScorer
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge
    except ImportError:
        return {"skipped": MISSING}
    true = {number: [text] for number, text in enumerate(references)}
    told = {number: [text] for number, text in enumerate(answers)}
    counts = BleuScorer(n=4)
    for answer, reference in zip(answers, references, strict=True):
        counts += (answer, [reference])
    return {
        "bleu4": _bleu(counts.ctest, scenes),
        "rouge_l": mean_interval(scenes, Rouge().compute_score(true, told)[1]),
        "cider": mean_interval(scenes, Cider().compute_score(true, told)[1]),
    }


def _bleu(counted: Sequence[dict[str, Any]], scenes: Scenes) -> Interval:
    """BLEU-4 (Papineni et al. 2002) of the corpus and of each resample, from pycocoevalcap's counts of each answer."""
    sums = scenes.sums([[*one["correct"], *one["guess"], one["testlen"], *one["reflen"]] for one in counted])
    return interval(bleu4(sums[:, :4], sums[:, 4:8], sums[:, 8], sums[:, 9]))


def bleu4(
    right: NDArray[np.float64], said: NDArray[np.float64], length: NDArray[np.float64], true_length: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Geometric mean of the shares of right groups of 1 to 4 words, (..., 4) of (..., 4), times the penalty of being short.

    The tiny terms are the library's: they keep an answer without any right group at 0.
    """
    precision = np.prod((right + 1e-15) / (said + 1e-9), axis=-1) ** 0.25
    share = (length + 1e-15) / (true_length + 1e-9)
    return precision * np.exp(np.minimum(0.0, 1.0 - 1.0 / share))
