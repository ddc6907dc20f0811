"""Replacement of each ``<image>`` token by the tokens of its view, for a batch at once, in one gather.

Shapes: B samples, T prompt tokens, N images in the batch, K tokens per view, L spliced length, D LLM width.
"""

from dataclasses import dataclass

import torch

from senna.model.config import IGNORE_INDEX, IMAGE_TOKEN_INDEX


@dataclass(frozen=True)
class Splice:
    """The origin of every position of a spliced batch.

    Attributes:
        source: (B, L) row numbers of the table [B * T text embeddings, N * K view tokens, one row of zeros].
        attention_mask: (B, L) bool, False at padding.
        position_ids: (B, L), counted from the first real token; 0 at padding on the left. They continue at padding on the
            right: transformers takes a repeated position for the start of a packed sequence and would build a mask.
        labels: (B, L), -100 without a target; None if the batch has no labels.
    """

    source: torch.Tensor
    attention_mask: torch.Tensor
    position_ids: torch.Tensor
    labels: torch.Tensor | None


def check_image_counts(is_image: torch.Tensor, images_per_sample: list[int]) -> None:
    """Raise ValueError if a sample has fewer or more ``<image>`` tokens than images.

    Otherwise every later sample of the batch would get wrong images. The message names samples by their index in the batch.
    """
    placeholders = is_image.sum(1).tolist()
    wrong = [
        f"sample {row}: {tokens} <image> in the text, {images} images"
        for row, (tokens, images) in enumerate(zip(placeholders, images_per_sample, strict=True))
        if tokens != images
    ]
    if wrong:
        raise ValueError("the number of <image> differs from the number of images: " + "; ".join(wrong))


def compute_splice(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    labels: torch.Tensor | None,
    images_per_sample: list[int],
    tokens_per_image: int,
    max_length: int | None,
    padding_side: str,
) -> Splice:
    """Compute the splice of a batch. View tokens get the label -100.

    Args:
        input_ids: (B, T), -200 for an image.
        attention_mask: (B, T), nonzero at real tokens; padding may be on either side. None: all tokens are real.
        labels: (B, T), -100 without a target.
        images_per_sample: B counts.
        tokens_per_image: K.
        max_length: sequences are cut to this length after the splice; None: never.
        padding_side: "left" or "right", of the spliced batch.

    Raises:
        ValueError: a sample has fewer or more ``<image>`` tokens than images.
    """
    batch, width = input_ids.shape
    device = input_ids.device
    valid = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()  # (B, T)
    is_image = valid & (input_ids == IMAGE_TOKEN_INDEX)  # (B, T)
    check_image_counts(is_image, images_per_sample)

    spans = torch.where(is_image, tokens_per_image, valid.long())  # (B, T) spliced tokens per prompt token
    ends = spans.cumsum(1)  # (B, T)
    lengths = ends[:, -1] if width else ends.new_zeros(batch)  # (B,)
    longest = int(lengths.max()) if max_length is None else min(int(lengths.max()), max_length)  # L
    lengths = lengths.clamp(max=longest)  # (B,)

    position = torch.arange(longest, device=device).expand(batch, longest)  # (B, L) counted from each sample's start
    if padding_side == "left":
        position = position - (longest - lengths)[:, None]
    mask = (position >= 0) & (position < lengths[:, None])  # (B, L)
    position = position.clamp(min=0)  # (B, L)

    token = torch.searchsorted(ends, position.contiguous(), right=True).clamp(max=max(width - 1, 0))  # (B, L)
    from_image = is_image.gather(1, token)  # (B, L)
    within = position - (ends - spans).gather(1, token)  # (B, L) offset inside the view
    image_index = is_image.flatten().cumsum(0).view(batch, width) - 1  # (B, T) which of the N images
    view_row = batch * width + image_index.gather(1, token) * tokens_per_image + within  # (B, L)
    text_row = torch.arange(batch, device=device)[:, None] * width + token  # (B, L)
    zeros_row = batch * width + sum(images_per_sample) * tokens_per_image
    source = torch.where(from_image, view_row, text_row).where(mask, zeros_row)  # (B, L)

    spliced_labels = None
    if labels is not None:
        spliced_labels = labels.gather(1, token).where(mask & ~from_image, IGNORE_INDEX)  # (B, L)
    return Splice(source, mask, position, spliced_labels)


def splice_embeddings(source: torch.Tensor, text: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
    """Gather the embeddings of a spliced batch.

    Args:
        source: (B, L), see `Splice`.
        text: (B, T, D) embeddings of the prompt tokens.
        views: (N, K, D) view tokens; N may be 0.

    Returns:
        (B, L, D), zero at padding.
    """
    zeros = text.new_zeros(1, text.shape[-1])  # (1, D)
    table = torch.cat([text.flatten(0, 1), views.flatten(0, 1).to(text.dtype), zeros])  # (B * T + N * K + 1, D)
    return table.index_select(0, source.flatten()).unflatten(0, source.shape)  # (B, L, D)
