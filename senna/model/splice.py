"""Putting view tokens where ``<image>`` stands, for a whole batch in one gather.

B samples, T prompt tokens, N images in the batch, K tokens a view, L spliced length, D LLM width.
"""

from dataclasses import dataclass

import torch

from senna.model.config import IGNORE_INDEX, IMAGE_TOKEN_INDEX


@dataclass(frozen=True)
class SplicePlan:
    """Where every position of the spliced batch comes from."""

    source: torch.Tensor  # (B, L) row of the table [B * T text embeddings, N * K view tokens, one row of zeros]
    attention_mask: torch.Tensor  # (B, L) bool
    labels: torch.Tensor | None  # (B, L)

    @property
    def position_ids(self) -> torch.Tensor:
        """(B, L) positions counted over real tokens only; 0 at padding."""
        return (self.attention_mask.cumsum(1) - 1).clamp(min=0)


def check_image_counts(is_image: torch.Tensor, images_per_sample: list[int]) -> None:
    """A sample must hold as many ``<image>`` as images, or every later sample of the batch would see wrong ones.

    Raises ValueError that names the samples by their place in the batch.
    """
    placeholders = is_image.sum(1).tolist()
    wrong = [
        f"sample {row}: {tokens} <image> in the text, {images} images"
        for row, (tokens, images) in enumerate(zip(placeholders, images_per_sample, strict=True))
        if tokens != images
    ]
    if wrong:
        raise ValueError("the number of <image> differs from the number of images: " + "; ".join(wrong))


def plan_splice(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    labels: torch.Tensor | None,
    images_per_sample: list[int],
    tokens_per_image: int,
    max_length: int | None,
    padding_side: str,
) -> SplicePlan:
    """Lay out the spliced batch.

    Args: ``input_ids`` (B, T) with -200 for an image; ``attention_mask`` (B, T), true at real tokens, which may stand on
    either side; ``labels`` (B, T) with -100 where there is no target; ``images_per_sample`` B counts.
    Sequences are cut to ``max_length`` after the splice; view tokens get the label -100.
    """
    batch, width = input_ids.shape
    device = input_ids.device
    valid = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    is_image = valid & (input_ids == IMAGE_TOKEN_INDEX)
    check_image_counts(is_image, images_per_sample)

    spans = torch.where(is_image, tokens_per_image, valid.long())  # (B, T) positions each token takes
    ends = spans.cumsum(1)
    lengths = ends[:, -1] if width else ends.new_zeros(batch)
    longest = int(lengths.max()) if max_length is None else min(int(lengths.max()), max_length)
    lengths = lengths.clamp(max=longest)

    position = torch.arange(longest, device=device).expand(batch, longest)  # (B, L) counted from each sample's start
    if padding_side == "left":
        position = position - (longest - lengths)[:, None]
    mask = (position >= 0) & (position < lengths[:, None])
    position = position.clamp(min=0)

    token = torch.searchsorted(ends, position.contiguous(), right=True).clamp(max=max(width - 1, 0))  # (B, L)
    from_image = is_image.gather(1, token)
    within = position - (ends - spans).gather(1, token)
    image_rank = is_image.flatten().cumsum(0).view(batch, width) - 1  # (B, T) which of the N images
    view_row = batch * width + image_rank.gather(1, token) * tokens_per_image + within
    text_row = torch.arange(batch, device=device)[:, None] * width + token
    zeros_row = batch * width + sum(images_per_sample) * tokens_per_image
    source = torch.where(from_image, view_row, text_row).where(mask, zeros_row)

    spliced_labels = None
    if labels is not None:
        spliced_labels = labels.gather(1, token).where(mask & ~from_image, IGNORE_INDEX)
    return SplicePlan(source, mask, spliced_labels)


def splice_embeddings(plan: SplicePlan, text: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
    """(B, T, D) text embeddings and (N, K, D) view tokens, N may be 0 -> (B, L, D), zero at padding."""
    table = torch.cat([text.flatten(0, 1), views.flatten(0, 1).to(text.dtype), text.new_zeros(1, text.shape[-1])])
    return table.index_select(0, plan.source.flatten()).unflatten(0, plan.source.shape)
