"""Samples of random tokens and pixels, with the lengths of real samples."""

import itertools

import torch

from senna.evaluate.score import answer_tree
from senna.model.config import IGNORE_INDEX, IMAGE_TOKEN_INDEX

from .models import Geometry

Item = dict

# Token counts, by Vicuna's tokenizer, of the stage 2 records of a frame of nuScenes mini (sample
# 8092909473464f80b9f791a4d31ddcb8) from `senna convert --captioner annotations`. With 128 tokens a view, they take 13,843
# tokens unpacked and 3,391 packed.
TEXT_BEFORE_VIEWS = (43, 12, 13, 11, 12, 10)  # the first includes BOS and the system prompt
AFTER_VIEWS = 2  # the line break after the last view, which all questions share
VRU, MOTION, DESCRIPTION, EXPLANATION = (
    [(48, 18)],
    [(304, 78), (192, 34), (355, 100), (170, 23), (281, 67)],
    [(59, 66), (60, 61), (60, 64), (60, 54), (60, 87), (59, 76)],
    [(70, 40)],
)
QUESTIONS = [*VRU, *MOTION, *DESCRIPTION, *EXPLANATION]
"""Pairs of (tokens from the last view to the answer, tokens of the answer including `</s>`)."""

PLAN_QUESTION = 43 + 12 + 13 + 11 + 12 + 10 + 102  # tokens of the prompt of the plan, without views
SPEED_PIECES = ("K E EP", "A CC EL ER ATE", "DE CE L ER ATE", "ST OP")
PATH_PIECES = ("ST RA IGHT", "R IGHT _ T URN", "R IGHT _ CH ANGE", "LEFT _ T URN", "LEFT _ CH ANGE")
"""The tokens of the meta-actions by Vicuna's tokenizer, in the order of `ALL_META_ACTIONS`; a newline and `</s>` follow."""

# {tokens of a caption, including its newline: number of captions}
DRAWN_CAPTIONS = {21: 44, 22: 113, 23: 185, 24: 264, 25: 159, 32: 96, 33: 256, 34: 219, 35: 127, 36: 73}
"""The 1,536 captions of the tiny preset, by its own tokenizer."""
REAL_CAPTIONS = {
    5: 1, 6: 1, 7: 9, 8: 17, 9: 26, 10: 38, 11: 39, 12: 50, 13: 53, 14: 59, 15: 65, 16: 49, 17: 37, 18: 33, 19: 24, 20: 26,
    21: 17, 22: 15, 23: 10, 24: 5, 25: 8, 26: 6, 27: 4, 28: 4, 29: 3, 30: 1, 31: 4, 32: 1, 33: 1, 34: 1, 38: 1, 40: 1, 47: 1,
}  # fmt: skip
"""600 captions of Flickr8k and 10 of LLaVA-Pretrain, by Vicuna's tokenizer."""


def frame(geometry: Geometry, pixels: torch.Tensor, generator: torch.Generator) -> Item:
    """Return a frame in the form of `FrameDataset`: images (6, 3, H, W) and 13 records with a common prefix."""
    starts = [_text(count, geometry, generator) for count in TEXT_BEFORE_VIEWS]
    view = torch.tensor([IMAGE_TOKEN_INDEX])
    shared = [part for start in starts for part in (start, view)] + [_text(AFTER_VIEWS, geometry, generator)]
    records = []
    for number, (question, answer) in enumerate(QUESTIONS):
        own = _text(question - AFTER_VIEWS + answer, geometry, generator)
        records.append(_sample(torch.cat([*shared, own]), answer, f"question {number}"))
    return {"records": records, "images": pixels}


def answers() -> list[tuple[int, ...]]:
    """Return the twenty meta-actions as token ids, with an id for each distinct piece of text."""
    texts = [f"{speed} , {path} newline end".split() for speed in SPEED_PIECES for path in PATH_PIECES]
    ids = {piece: index for index, piece in enumerate(sorted({piece for text in texts for piece in text}))}
    return [tuple(ids[piece] for piece in text) for text in texts]


def plan_frame(geometry: Geometry, pixels: torch.Tensor, generator: torch.Generator) -> Item:
    """Return a plan question in the form that `PlanScorer` collates: twenty answers as records, and images (6, 3, H, W)."""
    starts = [_text(count, geometry, generator) for count in TEXT_BEFORE_VIEWS]
    rest = _text(PLAN_QUESTION - sum(TEXT_BEFORE_VIEWS), geometry, generator)
    view = torch.tensor([IMAGE_TOKEN_INDEX])
    shared = torch.cat([part for start in starts for part in (start, view)] + [rest])
    sequences = [(torch.cat([shared, torch.tensor(answer)]), len(answer)) for answer in answers()]
    records = [_sample(ids, count, f"answer {number}") for number, (ids, count) in enumerate(sequences)]
    return {**answer_tree(records), "images": pixels}


def captions(
    lengths: dict[int, int], count: int, geometry: Geometry, pixels: torch.Tensor, generator: torch.Generator
) -> list[Item]:
    """Return `count` captions in the form of `FrameDataset`, with images `pixels` (count, 3, H, W).

    Args:
        lengths: {tokens of a caption: frequency}, from which the lengths are drawn.
    """
    shares = torch.tensor(list(lengths.values()), dtype=torch.float)
    drawn = torch.multinomial(shares, count, replacement=True, generator=generator)
    items = []
    for number, index in enumerate(drawn.tolist()):
        length = list(lengths)[index]
        ids = torch.cat(
            [_text(1, geometry, generator), torch.tensor([IMAGE_TOKEN_INDEX]), _text(length, geometry, generator)]
        )
        items.append({"records": [_sample(ids, length, f"caption {number}")], "images": pixels[number : number + 1]})
    return items


def unpack_samples(frames: list[Item]) -> list[Item]:
    """Return the samples of frames in the form of `ConversationDataset`: each with all the images of its frame."""
    return [{**record, "images": frame["images"]} for frame in frames for record in frame["records"]]


def batches(samples: list[Item], size: int) -> list[list[Item]]:
    """Return batches of similar length, as length-grouped sampling makes them.

    The longest samples are in the last batch, which may be smaller, so that padding is minimal.
    """
    ordered = iter(sorted(samples, key=lambda sample: len(sample["input_ids"])))
    return list(iter(lambda: list(itertools.islice(ordered, size)), []))


def _text(count: int, geometry: Geometry, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(geometry.vocabulary, (count,), generator=generator)


def _sample(input_ids: torch.Tensor, answer: int, name: str) -> Item:
    labels = torch.full_like(input_ids, IGNORE_INDEX)
    labels[-answer:] = input_ids[-answer:]
    return {"input_ids": input_ids, "labels": labels, "kind": 0, "sample": name}
