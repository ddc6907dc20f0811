"""Samples to one batch. B rows, T tokens, V images a row, H, W pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from senna.model.config import IGNORE_INDEX, IMAGE_TOKEN_INDEX

Sample = dict[str, Any]


@dataclass(frozen=True)
class Collator:
    """Cuts, pads and stacks the samples of ``ConversationDataset``.

    Returns:
        ``input_ids``, ``labels`` LongTensor (B, T); ``attention_mask`` bool (B, T), made from the lengths, since a real
        token may have the padding's id; ``images`` float32 (B, V, 3, H, W), or where V differs a list of (V_i, 3, H, W);
        ``kinds`` LongTensor (B,), -1 for padding and what could not be used; ``samples`` the names, without padding's;
        ``bad_samples`` the messages of those that could not be used; ``tokens`` how many the model sees, view tokens
        included, padding not.

    A row is cut so that, with every ``<image>`` standing for ``tokens_per_image`` tokens, no token starts at
    ``max_length`` or later, which is what the model keeps after the splice; so the labels that are not
    ``IGNORE_INDEX`` are the targets it sees. A row's first token is no target, as nothing precedes it.
    A sample that could not be used, and padding, is a row with one padding token and no target or image: one, since
    attention over nothing is not a number.
    """

    pad_token_id: int
    max_length: int
    tokens_per_image: int
    padding_side: str = "right"

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        rows = [self._row(sample) for sample in samples]
        longest = max(len(input_ids) for input_ids, _ in rows)
        input_ids = torch.full((len(rows), longest), self.pad_token_id)
        labels = torch.full((len(rows), longest), IGNORE_INDEX)
        attention_mask = torch.zeros((len(rows), longest), dtype=torch.bool)
        for number, (row_ids, row_labels) in enumerate(rows):
            place = slice(None, len(row_ids)) if self.padding_side == "right" else slice(longest - len(row_ids), None)
            input_ids[number, place] = row_ids
            labels[number, place] = row_labels
            attention_mask[number, place] = True
        views = (input_ids == IMAGE_TOKEN_INDEX).sum(1).tolist()
        tokens = int(attention_mask.sum()) + sum(views) * (self.tokens_per_image - 1)
        return {
            "input_ids": input_ids,
            "labels": labels,
            "attention_mask": attention_mask,
            "images": _images(samples, views),
            "kinds": torch.tensor([sample.get("kind", -1) for sample in samples]),
            "samples": [sample["sample"] for sample in samples if sample["sample"]],
            "bad_samples": [sample["error"] for sample in samples if "error" in sample],
            "tokens": min(tokens, len(rows) * self.max_length),
        }

    def _row(self, sample: Sample) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and labels of a row, cut to length; never empty."""
        if "error" in sample or not len(sample["input_ids"]):
            return torch.tensor([self.pad_token_id]), torch.tensor([IGNORE_INDEX])
        input_ids, labels = sample["input_ids"], sample["labels"].clone()
        labels[0] = IGNORE_INDEX
        sizes = torch.where(input_ids == IMAGE_TOKEN_INDEX, self.tokens_per_image, 1)
        kept = int((sizes.cumsum(0) - sizes < self.max_length).sum())
        return input_ids[:kept], labels[:kept]


def _images(samples: Sequence[Sample], counts: list[int]) -> torch.Tensor | list[torch.Tensor]:
    """Each row's first ``counts[row]`` images: those whose placeholder was not cut off."""
    with_images = next((sample["images"] for sample in samples if "error" not in sample), torch.empty(0, 3, 0, 0))
    rows = [
        with_images[:0] if "error" in sample else sample["images"][:count]
        for sample, count in zip(samples, counts, strict=True)
    ]
    return torch.stack(rows) if len(set(counts)) == 1 else rows
