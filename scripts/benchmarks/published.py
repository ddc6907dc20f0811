"""The computations of the published training step and greedy decoding, reimplemented as baselines of `train` and `evaluate`.

They give the same loss and text as ours, with the extra work that ours avoids. B samples, V views each, P patches, K tokens a
view, T tokens of a sample after the splice, L tokens of the longest sample, C tower width, D LLM width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import DynamicCache

from senna.model import IGNORE_INDEX, IMAGE_TOKEN_INDEX, SennaLlavaLlamaForCausalLM

from .models import MAX_LENGTH


def collate(samples: list[dict[str, Any]], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Return padded ids and labels (B, T), lengths (B,) and images (B, V, 3, H, W)."""
    pad = nn.utils.rnn.pad_sequence
    return {
        "input_ids": pad([s["input_ids"] for s in samples], batch_first=True, padding_value=pad_token_id),
        "labels": pad([s["labels"] for s in samples], batch_first=True, padding_value=IGNORE_INDEX),
        "lengths": torch.tensor([len(s["input_ids"]) for s in samples]),
        "images": torch.stack([s["images"] for s in samples]),
    }


def loss_of(model: SennaLlavaLlamaForCausalLM, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the mean cross-entropy of a batch from `collate`. The attention of the model must be `eager`."""
    views = _view_tokens(model, batch["images"])
    spliced = [
        _splice(model, ids[:length], labels[:length], sample_views)
        for ids, labels, length, sample_views in zip(
            batch["input_ids"], batch["labels"], batch["lengths"], views, strict=True
        )
    ]
    pad = nn.utils.rnn.pad_sequence
    embeds = pad([embeds for embeds, _ in spliced], batch_first=True)  # (B, L, D)
    labels = pad([labels for _, labels in spliced], batch_first=True, padding_value=IGNORE_INDEX)
    mask = pad([torch.ones(len(labels), dtype=torch.bool) for _, labels in spliced], batch_first=True)
    hidden = model.model(inputs_embeds=embeds, attention_mask=mask).last_hidden_state
    logits = model.lm_head(hidden).float()  # (B, L, vocabulary), at all positions
    predictions, targets = logits[:, :-1].contiguous(), labels[:, 1:].contiguous()
    return F.cross_entropy(predictions.view(-1, predictions.shape[-1]), targets.view(-1), ignore_index=IGNORE_INDEX)


@torch.inference_mode()
def greedy(model: SennaLlavaLlamaForCausalLM, prompts: torch.Tensor, images: torch.Tensor, count: int) -> torch.Tensor:
    """Decode `count` tokens greedily after prompts (B, T) of equal length, LongTensor (B, count).

    The attention of the model must be `eager`.
    """
    views = _view_tokens(model, images)
    embeds = torch.stack(
        [_splice(model, ids, ids, sample_views)[0] for ids, sample_views in zip(prompts, views, strict=True)]
    )
    cache, tokens = DynamicCache(), []
    for _ in range(count):
        hidden = model.model(inputs_embeds=embeds, past_key_values=cache, use_cache=True).last_hidden_state
        logits = model.lm_head(hidden).float()  # (B, T, vocabulary); T is 1 after the first step
        tokens.append(logits[:, -1].argmax(-1))
        embeds = model.model.embed_tokens(tokens[-1][:, None])
    return torch.stack(tokens, dim=1)


def _view_tokens(model: SennaLlavaLlamaForCausalLM, images: torch.Tensor) -> list[list[torch.Tensor]]:
    """Encode images (B, V, 3, H, W) to V tensors (K, D) for each sample.

    All layers of the tower are run and all their outputs kept; projector and adapter run image by image.
    """
    parts = model.model
    tower = parts.vision_tower.vision_tower.vision_model
    with torch.no_grad():
        outputs = tower(images.flatten(0, 1).to(tower.dtype), output_hidden_states=True)
    features = outputs.hidden_states[-2][:, 1:].unflatten(0, images.shape[:2])  # (B, V, P, C)
    return [[parts.img_adapter(parts.mm_projector(view[None]))[0] for view in sample] for sample in features]


def _splice(
    model: SennaLlavaLlamaForCausalLM, ids: torch.Tensor, labels: torch.Tensor, views: list[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the embeddings (T, D) and labels (T,) of a sample, with the views between the pieces of text."""
    embeds, targets, start = [], [], 0
    image_positions = (ids == IMAGE_TOKEN_INDEX).nonzero()[:, 0].tolist()
    for position, view in zip([*image_positions, len(ids)], [*views, None], strict=True):
        embeds.append(model.model.embed_tokens(ids[start:position]))
        targets.append(labels[start:position])
        if view is not None:
            embeds.append(view)
            targets.append(labels.new_full((len(view),), IGNORE_INDEX))
        start = position + 1
    return torch.cat(embeds)[:MAX_LENGTH], torch.cat(targets)[:MAX_LENGTH]
