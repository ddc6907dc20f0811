"""Samples to one batch. B rows, T tokens, V images a row, H, W pixels; of packed batches see ``PackCollator``."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from senna.data.frame_packing import CutRecord, cut_record, even_bins, lay_out, plan_trees
from senna.model.config import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from senna.model.layout import Tree

Sample = dict[str, Any]


@dataclass(frozen=True)
class Collator:
    """Cuts, pads and stacks the samples of ``ConversationDataset``.

    Returns:
        ``input_ids``, ``labels`` LongTensor (B, T); ``attention_mask`` bool (B, T), made from the lengths, since a real
        token may have the padding's id; ``images`` float32 (B, V, 3, H, W), or where V differs a list of (V_i, 3, H, W);
        ``kinds`` LongTensor (B,), -1 for padding and what could not be used. For the log: ``samples`` the names, without
        padding's; ``bad_samples`` the messages of those that could not be used; ``tokens`` how many the model sees, view
        tokens included, padding not; ``unpacked_tokens`` the same; ``places`` what they take with padding; ``cut`` how
        many samples lost targets to ``max_length``.

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
        longest = max(len(row.input_ids) for row in rows)
        input_ids = torch.full((len(rows), longest), self.pad_token_id)
        labels = torch.full((len(rows), longest), IGNORE_INDEX)
        attention_mask = torch.zeros((len(rows), longest), dtype=torch.bool)
        for number, row in enumerate(rows):
            length = len(row.input_ids)
            place = slice(None, length) if self.padding_side == "right" else slice(longest - length, None)
            input_ids[number, place] = torch.from_numpy(row.input_ids)
            labels[number, place] = torch.from_numpy(row.labels)
            attention_mask[number, place] = True
        lengths = [int(row.sizes.sum()) for row in rows]
        return {
            "input_ids": input_ids,
            "labels": labels,
            "attention_mask": attention_mask,
            "images": _images(samples, (input_ids == IMAGE_TOKEN_INDEX).sum(1).tolist()),
            "kinds": torch.tensor([sample.get("kind", -1) for sample in samples]),
            "samples": [sample["sample"] for sample in samples if sample["sample"]],
            "bad_samples": [sample["error"] for sample in samples if "error" in sample],
            "tokens": sum(lengths),
            "unpacked_tokens": sum(lengths),
            "places": len(rows) * max(lengths),
            "cut": sum(row.lost_targets for row in rows),
        }

    def _row(self, sample: Sample) -> CutRecord:
        """A row, cut to length; never empty."""
        usable = "error" not in sample and len(sample["input_ids"])
        input_ids = sample["input_ids"] if usable else torch.tensor([self.pad_token_id])
        labels = sample["labels"] if usable else torch.tensor([IGNORE_INDEX])
        return cut_record(input_ids, labels, self.max_length, self.tokens_per_image)


@dataclass(frozen=True)
class PackCollator:
    """Packs the frames of ``FrameDataset``: each frame's images and shared tokens stand once (see ``plan_trees``).

    Returns, for N images, K tokens an image, R records, n text tokens, B rows of L places:
        ``input_ids`` LongTensor (1, n): the text tokens of the batch, at least one;
        ``source`` LongTensor (B, L): the row of the table [n text embeddings, N * K view tokens, a row of zeros] that
        stands at a place, the zeros at padding;
        ``position_ids`` LongTensor (B, L): a branch counts on from its prefix; 0 at padding;
        ``labels`` LongTensor (B, L): ``IGNORE_INDEX`` or the target at that place;
        ``target_places`` LongTensor: ascending, flat (row * L + column), the places before the targets;
        ``target_records`` LongTensor: which of the R records each target is of;
        ``images`` float32 (N, 3, H, W), None without images; ``layout`` where the trees stand;
        ``num_records`` R; ``kinds`` LongTensor (R,), of the records that can be used. For the log: ``samples`` the names of all,
        ``bad_samples`` the messages of the others, ``tokens`` how many stand in the rows, ``places`` B * L,
        ``unpacked_tokens`` how many the same records have one by one, ``cut`` how many records lost targets to
        ``max_length``.

    Records are cut as ``Collator`` cuts them. Padding stands at the ends of rows only, and rows are as many as are needed
    to hold at most ``pack_max_tokens`` each. A batch without a record that can be used is one padding token.
    """

    pad_token_id: int
    max_length: int
    tokens_per_image: int
    pack_max_tokens: int

    def __post_init__(self) -> None:
        if self.pack_max_tokens < self.max_length:
            raise ValueError(
                f"pack_max_tokens={self.pack_max_tokens} does not hold a record of {self.max_length} tokens"
            )

    def __call__(self, frames: Sequence[Sample]) -> dict[str, Any]:
        records, kinds, first_views, trees, images, views = [], [], [], [], [], 0
        for frame in frames:
            usable = [sample for sample in frame["records"] if "error" not in sample and len(sample["input_ids"])]
            cut = [self._cut(sample) for sample in usable]
            seen = max((int((record.input_ids == IMAGE_TOKEN_INDEX).sum()) for record in cut), default=0)
            for tree in plan_trees(cut, self.pack_max_tokens):
                trees.append(tree._replace(records=tuple(len(records) + number for number in tree.records)))
            records += cut
            kinds += [sample["kind"] for sample in usable]
            first_views += [views] * len(cut)
            images.append(frame["images"][:seen])
            views += seen
        rows = [
            [trees[number] for number in row] for row in even_bins([tree.size for tree in trees], self.pack_max_tokens)
        ]
        laid_out = self._nothing()
        if rows:
            laid_out = lay_out(records, rows, first_views, views, self.tokens_per_image, self.pad_token_id)
        everything = [sample for frame in frames for sample in frame["records"]]
        return {
            **laid_out,
            "images": torch.cat([some for some in images if len(some)]) if views else None,
            "num_records": len(records),
            "kinds": torch.tensor(kinds, dtype=torch.long),
            "samples": [sample["sample"] for sample in everything],
            "bad_samples": [sample["error"] for sample in everything if "error" in sample],
            "tokens": sum(tree.size for tree in trees),
            "places": laid_out["source"].numel(),
            "unpacked_tokens": sum(int(record.sizes.sum()) for record in records),
            "cut": sum(record.lost_targets for record in records),
        }

    def _cut(self, sample: Sample) -> CutRecord:
        return cut_record(sample["input_ids"], sample["labels"], self.max_length, self.tokens_per_image)

    def _nothing(self) -> dict[str, Any]:
        """A batch of one padding token and no target."""
        nowhere = torch.empty(0, dtype=torch.long)
        return {
            "input_ids": torch.tensor([[self.pad_token_id]]),
            "source": torch.tensor([[0]]),
            "position_ids": torch.tensor([[0]]),
            "labels": torch.tensor([[IGNORE_INDEX]]),
            "target_places": nowhere,
            "target_records": nowhere,
            "layout": (Tree(0, 0, 1),),
        }


def _images(samples: Sequence[Sample], counts: list[int]) -> torch.Tensor | list[torch.Tensor]:
    """Each row's first ``counts[row]`` images: those whose placeholder was not cut off."""
    with_images = next((sample["images"] for sample in samples if "error" not in sample), torch.empty(0, 3, 0, 0))
    rows = [
        with_images[:0] if "error" in sample else sample["images"][:count]
        for sample, count in zip(samples, counts, strict=True)
    ]
    return torch.stack(rows) if len(set(counts)) == 1 else rows
