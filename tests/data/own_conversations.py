"""Conversations of our own with stored ids, labels and batches: ``tests/golden/own_conversations.json``.

The stored values were written by ``python -m tests.data.own_conversations`` with code that gives the published code's ids
and labels in all of its 104 and 92 cases (``tests/data/test_tokenize.py``). ``reference_ids`` computes ids and targets
independently, with SentencePiece and the rules of the published stack.
"""

import json
import shutil
import tempfile
from pathlib import Path

import sentencepiece
import torch

from senna.data.collate import Collator
from senna.data.conversation import render
from senna.data.tokenize import encode_conversation
from senna.model.config import IMAGE_TOKEN_INDEX
from senna.model.tokenizer import load_tokenizer
from senna.views import image_block
from tests.helpers.paths import GOLDEN
from tests.helpers.small_tokenizers import TEXTS, llama_folder

TOKENIZER, STORED = GOLDEN / "own_tokenizer", GOLDEN / "own_conversations.json"
BOS, EOS = 1, 2


def turns(*texts: str) -> list[dict[str, str]]:
    """Return questions and answers in turn."""
    return [{"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(texts)]


CASES = {
    "six_images": ("v1", turns(image_block() + "You drive at 8.0 m/s. What is your plan?", "KEEP, STRAIGHT\n")),
    "several_turns": (
        "v1",
        turns(
            image_block() + "Is a car ahead?",
            "Yes, a white car.",
            "Is it parked?",
            "No.",
            "Your plan?",
            "STOP, STRAIGHT",
        ),
    ),
    "image_in_a_later_turn": (
        "v1",
        turns("Look at two lanes.", "Yes.", "<image>\nWhich lane is free?", "The left lane."),
    ),
    "no_image": ("v1", turns("What does a red light mean?", "Stop and wait.")),
    "empty_answer": ("v1", turns("<image>\nWhat is ahead?", "")),
    "question_last": ("v1", turns("<image>\nWhat is ahead?", "A lead vehicle.", "What else?")),
    "spaces_and_unicode": ("v1", turns("<image>\nWhat  is   ahead?", "Zürich:  two 🚗 ahead\n\nand a lane")),
    "role_words_in_answer": ("v1", turns("What is written there?", "USER: stop ASSISTANT: wait")),
    "caption": ("plain", turns("Describe the scene.\n<image>", "a white car parked ahead of two cyclists")),
    "caption_of_two_images": ("plain", turns("<image>\nCompare.\n<image>", "the lanes are alike")),
}
BATCH = ("six_images", "no_image", "several_turns")
"""The rows of the stored batches."""

BATCHES = {
    "right": {"max_length": 2048, "tokens_per_image": 1, "padding_side": "right"},
    "left": {"max_length": 2048, "tokens_per_image": 1, "padding_side": "left"},
    "truncated": {"max_length": 240, "tokens_per_image": 1, "padding_side": "right"},
    "truncated_with_view_tokens": {"max_length": 258, "tokens_per_image": 4, "padding_side": "right"},
}


def encoded(tokenizer, name: str) -> tuple[list[int], list[int]]:
    """Return the ids and labels of a case by the code under test."""
    version, conversation = CASES[name]
    result = encode_conversation(conversation, tokenizer, version)
    return result["input_ids"].tolist(), result["labels"].tolist()


def batch(tokenizer, name: str) -> dict[str, list]:
    """Return a batch of the rows ``BATCH`` by the code under test."""
    rows = []
    for case in BATCH:
        version, conversation = CASES[case]
        sample = encode_conversation(conversation, tokenizer, version)
        rows.append({**sample, "images": torch.zeros(6, 3, 1, 1), "kind": 0, "sample": case})
    result = Collator(tokenizer.pad_token_id, **BATCHES[name])(rows)
    return {key: result[key].tolist() for key in ("input_ids", "labels", "attention_mask")}


def reference_ids(text: str, legacy: bool) -> list[int]:
    """Return the ids that the published stack gives for a text with ``<image>`` and ``</s>``, computed with SentencePiece.

    The published code tokenizes each chunk between images by itself and drops all BOS but the first. Its tokenizer splits a
    chunk at ``</s>``, and SentencePiece adds a prefix space to each part; with ``legacy=False`` the tokenizer removes this
    space from a part that follows ``</s>`` and does not start with a space.
    """
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(TOKENIZER / "tokenizer.model"))
    ids = [BOS]
    for number, chunk in enumerate(text.split("<image>")):
        ids += [IMAGE_TOKEN_INDEX] if number else []
        for part_number, part in enumerate(chunk.split("</s>")):
            ids += [EOS] if part_number else []
            tokens = pieces.encode(part, out_type=str) if part else []
            if part_number and not legacy and not part.startswith(" ") and tokens:
                first = tokens[0].removeprefix("▁")
                tokens = [first, *tokens[1:]] if first else tokens[1:]
            ids += [pieces.piece_to_id(token) for token in tokens]
    return ids


def reference_targets(name: str, legacy: bool) -> list[bool]:
    """Return which tokens of a case are targets: those by which the text grows with each answer and its end."""
    version, conversation = CASES[name]
    rendered = render(conversation, version, "</s>")
    is_target = [False] * len(reference_ids(rendered.text, legacy))
    for start, stop in rendered.targets:
        before, after = (len(reference_ids(rendered.text[:end], legacy)) for end in (start, stop))
        is_target[before:after] = [True] * (after - before)
    return is_target


def make_tokenizer() -> None:
    """Train the tokenizer in ``tests/golden``, in whose vocabulary "USER" is a token without a prefix space."""
    with tempfile.TemporaryDirectory() as folder:
        made = llama_folder(Path(folder) / "llama", texts=[*TEXTS, *["(USER) (ASSISTANT)"] * 20])
        TOKENIZER.mkdir(exist_ok=True)
        for file in ("tokenizer.model", "tokenizer_config.json"):
            shutil.copy(made / file, TOKENIZER / file)


def main() -> None:
    make_tokenizer()
    stored = {}
    for legacy in (False, True):
        tokenizer = load_tokenizer(TOKENIZER)
        tokenizer.legacy = legacy
        cases = {name: dict(zip(("input_ids", "labels"), encoded(tokenizer, name), strict=True)) for name in CASES}
        stored["legacy" if legacy else "current"] = cases
    tokenizer = load_tokenizer(TOKENIZER)
    stored["batches"] = {name: batch(tokenizer, name) for name in BATCHES}
    STORED.write_text(json.dumps(stored) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
