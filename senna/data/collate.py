"""Collators: from samples to one batch. The letters of shapes are those of `senna.data.batch`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

import torch

from senna.data.batch import (
    BadSample,
    BatchCounts,
    FrameRecord,
    FrameSample,
    PackedBatch,
    PackedRows,
    PaddedBatch,
    Sample,
)
from senna.data.frame_packing import CutRecord, build_rows, cut_record, even_bins, pack_trees
from senna.model.config import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from senna.model.layout import Tree


@dataclass(frozen=True)
class Collator:
    """Cut, pad and stack the samples of ``ConversationDataset`` into a ``PaddedBatch``.

    A row is cut so that no token starts at ``max_length`` or later, counted with ``tokens_per_image`` tokens for every
    ``<image>``. The model keeps exactly these tokens after the splice, so the labels that are not ``IGNORE_INDEX`` are the
    targets that it sees. The first token of a row is never a target, because no token precedes it.

    Padding, and a sample that could not be used, is a row with one padding token, no target and no image. It needs one
    token because attention over zero positions is NaN.
    """

    pad_token_id: int
    max_length: int
    tokens_per_image: int
    padding_side: str = "right"

    def __call__(self, samples: Sequence[Sample | BadSample]) -> PaddedBatch:
        rows = [self._row(sample) for sample in samples]
        longest = max(len(row.input_ids) for row in rows)
        input_ids = torch.full((len(rows), longest), self.pad_token_id)  # (B, T)
        labels = torch.full((len(rows), longest), IGNORE_INDEX)  # (B, T)
        attention_mask = torch.zeros((len(rows), longest), dtype=torch.bool)  # (B, T)
        for number, row in enumerate(rows):
            length = len(row.input_ids)
            columns = slice(None, length) if self.padding_side == "right" else slice(longest - length, None)
            input_ids[number, columns] = torch.from_numpy(row.input_ids)
            labels[number, columns] = torch.from_numpy(row.labels)
            attention_mask[number, columns] = True
        lengths = [int(row.sizes.sum()) for row in rows]
        kinds = torch.tensor([sample.get("kind", -1) for sample in samples])  # (B,)
        is_target = labels[:, 1:] != IGNORE_INDEX  # (B, T - 1)
        return {
            "input_ids": input_ids,
            "labels": labels,
            "attention_mask": attention_mask,
            "images": _images(samples, (input_ids == IMAGE_TOKEN_INDEX).sum(1).tolist()),
            "kinds": kinds,
            "counts": BatchCounts(
                samples=[sample["sample"] for sample in samples if sample["sample"]],
                bad_samples=[sample["error"] for sample in samples if "error" in sample],
                records=int((kinds >= 0).sum()),
                targets=int(is_target.sum()),
                records_with_targets=int(is_target.any(dim=1).sum()),
                tokens=sum(lengths),
                unpacked_tokens=sum(lengths),
                positions=len(rows) * max(lengths),
                cut=sum(row.lost_targets for row in rows),
                images=int((input_ids == IMAGE_TOKEN_INDEX).sum()),
                pairs=sum(length * (length + 1) // 2 for length in lengths),
            ),
        }

    def _row(self, sample: Sample | BadSample) -> CutRecord:
        """Return a row, cut to length, with at least one token."""
        if "error" not in sample and len(sample["input_ids"]):
            input_ids, labels = sample["input_ids"], sample["labels"]
        else:
            input_ids, labels = torch.tensor([self.pad_token_id]), torch.tensor([IGNORE_INDEX])  # (1,) each
        return cut_record(input_ids, labels, self.max_length, self.tokens_per_image)


@dataclass(frozen=True)
class PackCollator:
    """Pack the items of ``FrameDataset`` into a ``PackedBatch``: a frame's images and shared tokens occur once.

    See ``pack_trees`` for the tokens that records share. Records are cut as ``Collator`` cuts them. There are as many rows
    as are needed to hold at most ``pack_max_tokens`` tokens each, and padding is at the ends of rows only. A batch without
    a record that can be used is one padding token.

    Raises ValueError if ``pack_max_tokens`` is below ``max_length``.
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

    def __call__(self, frames: Sequence[FrameSample]) -> PackedBatch:
        records, kinds, first_images, trees, images, num_images = [], [], [], [], [], 0
        for frame in frames:
            usable = [sample for sample in frame["records"] if _is_usable(sample)]
            cut = [self._cut(sample) for sample in usable]
            seen = max((int((record.input_ids == IMAGE_TOKEN_INDEX).sum()) for record in cut), default=0)
            records += cut
            trees += pack_trees(records, self.pack_max_tokens, range(len(records) - len(cut), len(records)))
            kinds += [sample["kind"] for sample in usable]
            first_images += [num_images] * len(cut)
            images.append(frame["images"][:seen])  # (V, 3, H, W)
            num_images += seen
        bins = even_bins([tree.size for tree in trees], self.pack_max_tokens)
        rows = [[trees[number] for number in members] for members in bins]
        packed = self._no_rows()
        if rows:
            packed = build_rows(records, rows, first_images, num_images, self.tokens_per_image, self.pad_token_id)
        samples = [sample for frame in frames for sample in frame["records"]]
        return {
            **packed,
            "images": torch.cat([views for views in images if len(views)]) if num_images else None,  # (N, 3, H, W)
            "num_records": len(records),
            "kinds": torch.tensor(kinds, dtype=torch.long),  # (R,)
            "counts": BatchCounts(
                samples=[sample["sample"] for sample in samples],
                bad_samples=[sample["error"] for sample in samples if "error" in sample],
                records=len(records),
                targets=len(packed["target_records"]),
                records_with_targets=len(packed["target_records"].unique()),
                tokens=sum(tree.size for tree in trees),
                unpacked_tokens=sum(int(record.sizes.sum()) for record in records),
                positions=packed["source"].numel(),
                cut=sum(record.lost_targets for record in records),
                images=num_images,
                pairs=sum(tree.visible_pairs for tree in packed["layout"]) if rows else 0,
            ),
        }

    def _cut(self, sample: FrameRecord) -> CutRecord:
        return cut_record(sample["input_ids"], sample["labels"], self.max_length, self.tokens_per_image)

    def _no_rows(self) -> PackedRows:
        """Return one row with one padding token and no target."""
        no_targets = torch.empty(0, dtype=torch.long)  # (0,)
        return {
            "input_ids": torch.tensor([[self.pad_token_id]]),  # (1, 1)
            "source": torch.tensor([[0]]),  # (1, 1)
            "position_ids": torch.tensor([[0]]),  # (1, 1)
            "labels": torch.tensor([[IGNORE_INDEX]]),  # (1, 1)
            "target_positions": no_targets,
            "target_records": no_targets,
            "layout": (Tree(row=0, start=0, prefix=1),),
        }


def _is_usable(sample: FrameRecord | BadSample) -> TypeGuard[FrameRecord]:
    return "error" not in sample and len(sample["input_ids"]) > 0


def _images(samples: Sequence[Sample | BadSample], counts: list[int]) -> torch.Tensor | list[torch.Tensor]:
    """Return the first ``counts[row]`` images of each row, whose placeholders were not cut off, as in ``PaddedBatch``."""
    any_images = next(
        (sample["images"] for sample in samples if "error" not in sample), torch.empty(0, 3, 0, 0, dtype=torch.uint8)
    )  # (V, 3, H, W)
    rows = [
        any_images[:0] if "error" in sample else sample["images"][:count]
        for sample, count in zip(samples, counts, strict=True)
    ]
    return torch.stack(rows) if len(set(counts)) == 1 else rows
