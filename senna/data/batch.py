"""The types of samples and batches.

Letters: T tokens of a record, V views of a record, H, W height and width of the vision tower's input in pixels; B rows, L
positions of a packed row, R records, N images, n text tokens and M targets of a batch; K view tokens per image.
"""

from dataclasses import dataclass
from typing import TypedDict

import torch

from senna.errors import DataError
from senna.model.layout import Layout


class Sample(TypedDict):
    """A record, encoded, with its images; nothing is truncated."""

    input_ids: torch.Tensor  # LongTensor (T,); IMAGE_TOKEN_INDEX for each <image>
    labels: torch.Tensor  # LongTensor (T,); IGNORE_INDEX outside the answers
    images: torch.Tensor  # uint8 (V, 3, H, W), in the order of the prompt; V may be 0
    kind: int  # index in the kind_names of the records; -1 for padding
    sample: str  # the name of the record; "" for padding


class TextSample(TypedDict):
    """A record, encoded, before its images are read. Other fields are as in `Sample`."""

    input_ids: torch.Tensor  # LongTensor (T,)
    labels: torch.Tensor  # LongTensor (T,)
    paths: list[str]  # paths of the V images, in the order of the prompt
    kind: int
    sample: str


class FrameRecord(TypedDict):
    """A record of a frame, encoded; its images are those of the frame. Fields are as in `Sample`."""

    input_ids: torch.Tensor  # LongTensor (T,)
    labels: torch.Tensor  # LongTensor (T,)
    kind: int
    sample: str


class BadSample(TypedDict):
    """A record that cannot be used."""

    sample: str  # the name of the record
    error: DataError  # names the file and the record


class FrameSample(TypedDict):
    """All records of a frame, and the images that they have in common."""

    records: list[FrameRecord | BadSample]
    images: torch.Tensor  # uint8 (V, 3, H, W)


@dataclass(frozen=True)
class BatchCounts:
    """The numbers of a batch for the log and for the divisor of the loss; the model does not use them.

    They are counted here, on the host: counting on a device would make the host wait for it. A dataclass and not a dict, so
    that nothing of it is moved to the device.

    Attributes:
        samples: names of all records, without padding.
        bad_samples: the errors of the records that could not be used.
        records: number of records that are used.
        targets: number of target tokens.
        records_with_targets: number of records that have a target token.
        tokens: tokens that the model processes, with view tokens, without padding.
        unpacked_tokens: tokens of the same records without packing, each record by itself.
        positions: positions in the rows, with padding.
        cut: number of records that lost targets to ``max_length``.
        images: number of images that are encoded.
        pairs: number of (query, key) pairs of tokens that attention admits.
    """

    samples: list[str]
    bad_samples: list[DataError]
    records: int
    targets: int
    records_with_targets: int
    tokens: int
    unpacked_tokens: int
    positions: int
    cut: int
    images: int
    pairs: int


class PaddedBatch(TypedDict):
    """A batch with one record in each row. Rows are padded with ``pad_token_id``."""

    input_ids: torch.Tensor  # LongTensor (B, T)
    labels: torch.Tensor  # LongTensor (B, T)
    attention_mask: torch.Tensor  # bool (B, T); from the lengths, since a text may contain the token of the padding
    images: torch.Tensor | list[torch.Tensor]  # uint8 (B, V, 3, H, W), or a list of (V_i, 3, H, W) if V differs
    kinds: torch.Tensor  # LongTensor (B,); -1 for padding and for records that could not be used
    counts: BatchCounts


class PackedRows(TypedDict):
    """The tensors of a packed batch of B rows with L positions, in which a frame's shared tokens occur once."""

    input_ids: torch.Tensor  # LongTensor (1, n): the text tokens, at least one
    source: torch.Tensor  # LongTensor (B, L): row of the table [n text embeddings, N * K view tokens, one row of zeros]
    position_ids: torch.Tensor  # LongTensor (B, L): a branch counts on from what it continues; 0 at padding
    labels: torch.Tensor  # LongTensor (B, L): IGNORE_INDEX, or the target at this position
    target_positions: torch.Tensor  # LongTensor (M,): ascending flat positions (row * L + column) before the targets
    target_records: torch.Tensor  # LongTensor (M,): the index of the record that each target belongs to
    layout: Layout  # the trees


class PackedBatch(PackedRows):
    """A batch of packed frames."""

    images: torch.Tensor | None  # uint8 (N, 3, H, W); None without images
    num_records: int  # R
    kinds: torch.Tensor  # LongTensor (R,), without records that could not be used
    counts: BatchCounts
