"""BLEU-4, ROUGE-L and CIDEr of descriptions and explanations against the recorded texts, as in COCO's caption evaluation.

The figures are computed by pycocoevalcap. Its own tokenizer needs Java; ours lower-cases the text and keeps words and
numbers, which drops punctuation as COCO does. Figures may differ from those of the Java tokenizer in the third digit.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from senna.evaluate.metrics.bootstrap import Interval, Scenes, interval, mean_interval
from senna.scripts_without_blanks import separate

MISSING = "BLEU, ROUGE and CIDEr need the package pycocoevalcap: pip install -c constraints.txt -e '.[evaluate]'"
_WORD = re.compile(r"[^\W_]+(?:['’.-][^\W_]+)*")


def score_captions(truth: Sequence[str], predicted: Sequence[str | None], scenes: Scenes) -> dict[str, Any]:
    """Return the figures of N texts; None is an empty answer.

    CIDEr weights word groups by how rare they are in these ground truths: it is 0 with one record.

    Returns:
        ``bleu4`` (of the corpus), ``rouge_l`` and ``cider`` (means over answers; CIDEr from 0 to 10), ``words`` and
        ``words_true`` (mean lengths), ``empty`` (fraction). Without pycocoevalcap ``skipped``, a sentence, replaces the
        first three.
    """
    answers, references = [words(text or "") for text in predicted], [words(text) for text in truth]
    return {
        **_scores(references, answers, scenes),
        "words": float(np.mean([len(text.split()) for text in answers])),
        "words_true": float(np.mean([len(text.split()) for text in references])),
        "empty": float(np.mean([not text for text in answers])),
    }


def words(text: str) -> str:
    """Return the words of a text in lower case, separated by one blank; Chinese and Japanese characters are words."""
    return " ".join(_WORD.findall(separate(text.lower())))


def _scores(references: Sequence[str], answers: Sequence[str], scenes: Scenes) -> dict[str, Any]:
    try:
        from pycocoevalcap.bleu.bleu_scorer import BleuScorer
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge
    except ImportError:
        return {"skipped": MISSING}
    true = {number: [text] for number, text in enumerate(references)}
    predicted = {number: [text] for number, text in enumerate(answers)}
    bleu = BleuScorer(n=4)
    for answer, reference in zip(answers, references, strict=True):
        bleu += (answer, [reference])
    return {
        "bleu4": _bleu(bleu.ctest, scenes),
        "rouge_l": mean_interval(scenes, Rouge().compute_score(true, predicted)[1]),
        "cider": mean_interval(scenes, Cider().compute_score(true, predicted)[1]),
    }


def _bleu(counts: Sequence[dict[str, Any]], scenes: Scenes) -> Interval:
    """Return BLEU-4 (Papineni et al. 2002) of the corpus with its interval, from pycocoevalcap's counts per answer."""
    sums = scenes.sums([[*count["correct"], *count["guess"], count["testlen"], *count["reflen"]] for count in counts])
    return interval(bleu4(sums[:, :4], sums[:, 4:8], sums[:, 8], sums[:, 9]))


def bleu4(
    matched: NDArray[np.float64],
    predicted: NDArray[np.float64],
    length: NDArray[np.float64],
    true_length: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the geometric mean of the precisions of n-grams, n = 1 to 4, times the brevity penalty: (...).

    The small constants are pycocoevalcap's: they give 0 for an answer without any matching n-gram.

    Args:
        matched, predicted: (..., 4), n-grams of the answers that match, and all of them.
        length, true_length: (...), words of the answers and of the ground truths.
    """
    precision = np.prod((matched + 1e-15) / (predicted + 1e-9), axis=-1) ** 0.25
    relative_length = (length + 1e-15) / (true_length + 1e-9)
    return precision * np.exp(np.minimum(0.0, 1.0 - 1.0 / relative_length))
