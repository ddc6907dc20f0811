"""Samples of random tokens and pixels whose lengths are real ones."""

import itertools

import torch

from senna.evaluate.score import answer_tree
from senna.model.config import IGNORE_INDEX, IMAGE_TOKEN_INDEX

from .models import Geometry

Item = dict

# A frame of nuScenes mini (sample 8092909473464f80b9f791a4d31ddcb8) as `senna convert --captioner annotations` writes it, in
# tokens of Vicuna's tokenizer: all that stage 2 asks about it. With 128 tokens a view it has 13,843 tokens one by one and
# 3,391 packed.
TEXT_BEFORE_VIEWS = (43, 12, 13, 11, 12, 10)  # before each of the six; the BOS and the system's text are in the first
AFTER_VIEWS = 2  # the line's end behind the last view is the same in all, so it is shared too
VRU, MOTION, DESCRIPTION, EXPLANATION = (
    [(48, 18)],
    [(304, 78), (192, 34), (355, 100), (170, 23), (281, 67)],
    [(59, 66), (60, 61), (60, 64), (60, 54), (60, 87), (59, 76)],
    [(70, 40)],
)
QUESTIONS = [*VRU, *MOTION, *DESCRIPTION, *EXPLANATION]
"""(tokens behind the last view up to the answer, tokens of the answer with its `</s>`)"""

PLAN_QUESTION = 43 + 12 + 13 + 11 + 12 + 10 + 102  # tokens of the plan's prompt, views not counted
SPEED_PIECES = ("K E EP", "A CC EL ER ATE", "DE CE L ER ATE", "ST OP")
PATH_PIECES = ("ST RA IGHT", "R IGHT _ T URN", "R IGHT _ CH ANGE", "LEFT _ T URN", "LEFT _ CH ANGE")
"""What Vicuna's tokenizer cuts the meta-actions into, in the order of `ALL_META_ACTIONS`; then come a newline and `</s>`."""

# {tokens of a caption, its newline included: how many}
DRAWN_CAPTIONS = {21: 44, 22: 113, 23: 185, 24: 264, 25: 159, 32: 96, 33: 256, 34: 219, 35: 127, 36: 73}
"""The 1,536 captions of the embedded default, by its own tokenizer."""
REAL_CAPTIONS = {
    5: 1, 6: 1, 7: 9, 8: 17, 9: 26, 10: 38, 11: 39, 12: 50, 13: 53, 14: 59, 15: 65, 16: 49, 17: 37, 18: 33, 19: 24, 20: 26,
    21: 17, 22: 15, 23: 10, 24: 5, 25: 8, 26: 6, 27: 4, 28: 4, 29: 3, 30: 1, 31: 4, 32: 1, 33: 1, 34: 1, 38: 1, 40: 1, 47: 1,
}  # fmt: skip
"""600 of Flickr8k and 10 of LLaVA-Pretrain, by Vicuna's tokenizer."""


def frame(geometry: Geometry, pixels: torch.Tensor, generator: torch.Generator) -> Item:
    """A frame as `FrameDataset` gives it: six images (6, 3, H, W) and 13 records that share all up to the question."""
    starts = [_text(count, geometry, generator) for count in TEXT_BEFORE_VIEWS]
    view = torch.tensor([IMAGE_TOKEN_INDEX])
    shared = [part for start in starts for part in (start, view)] + [_text(AFTER_VIEWS, geometry, generator)]
    records = []
    for number, (question, answer) in enumerate(QUESTIONS):
        own = _text(question - AFTER_VIEWS + answer, geometry, generator)
        records.append(_sample(torch.cat([*shared, own]), answer, f"question {number}"))
    return {"records": records, "images": pixels}


def answers() -> list[tuple[int, ...]]:
    """The twenty as tokens: a number for each piece."""
    texts = [f"{speed} , {path} newline end".split() for speed in SPEED_PIECES for path in PATH_PIECES]
    numbers = {piece: number for number, piece in enumerate(sorted({piece for text in texts for piece in text}))}
    return [tuple(numbers[piece] for piece in text) for text in texts]


def plan_frame(geometry: Geometry, pixels: torch.Tensor, generator: torch.Generator) -> Item:
    """A plan question as `PlanScorer` collates it: its twenty answers as records, and six images (6, 3, H, W)."""
    starts = [_text(count, geometry, generator) for count in TEXT_BEFORE_VIEWS]
    rest = _text(PLAN_QUESTION - sum(TEXT_BEFORE_VIEWS), geometry, generator)
    view = torch.tensor([IMAGE_TOKEN_INDEX])
    shared = torch.cat([part for start in starts for part in (start, view)] + [rest])
    whole = [(torch.cat([shared, torch.tensor(answer)]), len(answer)) for answer in answers()]
    records = [_sample(ids, count, f"answer {number}") for number, (ids, count) in enumerate(whole)]
    return {**answer_tree(records), "images": pixels}


def captions(
    lengths: dict[int, int], count: int, geometry: Geometry, pixels: torch.Tensor, generator: torch.Generator
) -> list[Item]:
    """`count` captions as `FrameDataset` gives them, their lengths drawn from `lengths`; `pixels` (count, 3, H, W)."""
    shares = torch.tensor(list(lengths.values()), dtype=torch.float)
    drawn = torch.multinomial(shares, count, replacement=True, generator=generator)
    items = []
    for number, which in enumerate(drawn.tolist()):
        length = list(lengths)[which]
        ids = torch.cat(
            [_text(1, geometry, generator), torch.tensor([IMAGE_TOKEN_INDEX]), _text(length, geometry, generator)]
        )
        items.append({"records": [_sample(ids, length, f"caption {number}")], "images": pixels[number : number + 1]})
    return items


def one_by_one(frames: list[Item]) -> list[Item]:
    """The samples of frames as `ConversationDataset` gives them: each with all the images of its frame."""
    return [{**record, "images": frame["images"]} for frame in frames for record in frame["records"]]


def batches(samples: list[Item], size: int) -> list[list[Item]]:
    """Batches of like length, as the length-grouped order of training makes them; the smaller one has the longest, which
    leaves the least to pad."""
    ordered = iter(sorted(samples, key=lambda sample: len(sample["input_ids"])))
    return list(iter(lambda: list(itertools.islice(ordered, size)), []))


def _text(count: int, geometry: Geometry, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(geometry.vocabulary, (count,), generator=generator)


def _sample(input_ids: torch.Tensor, answer: int, name: str) -> Item:
    labels = torch.full_like(input_ids, IGNORE_INDEX)
    labels[-answer:] = input_ids[-answer:]
    return {"input_ids": input_ids, "labels": labels, "kind": 0, "sample": name}
