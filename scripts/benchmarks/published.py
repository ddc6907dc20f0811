"""What the published training step and greedy decoding compute, written anew: baselines of `train` and `evaluate`.

They give the same loss and text as ours and take the ways around that ours leaves out. B samples, V views each, P patches,
K tokens a view, T tokens of a sample after the splice, L the longest's, C tower width, D LLM width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import DynamicCache

from senna.model import IGNORE_INDEX, IMAGE_TOKEN_INDEX, SennaLlavaLlamaForCausalLM

from .models import MAX_LENGTH


def collate(samples: list[dict[str, Any]], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Ids (B, T) and labels, padded, and images (B, V, 3, H, W)."""
    pad = nn.utils.rnn.pad_sequence
    return {
        "input_ids": pad([s["input_ids"] for s in samples], batch_first=True, padding_value=pad_token_id),
        "labels": pad([s["labels"] for s in samples], batch_first=True, padding_value=IGNORE_INDEX),
        "lengths": torch.tensor([len(s["input_ids"]) for s in samples]),
        "images": torch.stack([s["images"] for s in samples]),
    }


def loss_of(model: SennaLlavaLlamaForCausalLM, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The mean cross-entropy of a batch of `collate`; the model's attention must be `eager`."""
    views = _view_tokens(model, batch["images"])
    spliced = [
        _splice(model, ids[:length], labels[:length], of_sample)
        for ids, labels, length, of_sample in zip(
            batch["input_ids"], batch["labels"], batch["lengths"], views, strict=True
        )
    ]
    pad = nn.utils.rnn.pad_sequence
    embeds = pad([embeds for embeds, _ in spliced], batch_first=True)  # (B, L, D)
    labels = pad([labels for _, labels in spliced], batch_first=True, padding_value=IGNORE_INDEX)
    mask = pad([torch.ones(len(labels), dtype=torch.bool) for _, labels in spliced], batch_first=True)
    hidden = model.model(inputs_embeds=embeds, attention_mask=mask).last_hidden_state
    logits = model.lm_head(hidden).float()  # (B, L, vocabulary): at every place, target or not
    before, after = logits[:, :-1].contiguous(), labels[:, 1:].contiguous()
    return F.cross_entropy(before.view(-1, before.shape[-1]), after.view(-1), ignore_index=IGNORE_INDEX)


@torch.inference_mode()
def greedy(model: SennaLlavaLlamaForCausalLM, prompts: torch.Tensor, images: torch.Tensor, count: int) -> torch.Tensor:
    """LongTensor (B, count): the likeliest tokens after prompts (B, T) of one length; the attention must be `eager`."""
    views = _view_tokens(model, images)
    embeds = torch.stack(
        [_splice(model, ids, ids, of_sample)[0] for ids, of_sample in zip(prompts, views, strict=True)]
    )
    cache, tokens = DynamicCache(), []
    for _ in range(count):
        hidden = model.model(inputs_embeds=embeds, past_key_values=cache, use_cache=True).last_hidden_state
        logits = model.lm_head(hidden).float()  # (B, T, vocabulary): of the whole prompt at first
        tokens.append(logits[:, -1].argmax(-1))
        embeds = model.model.embed_tokens(tokens[-1][:, None])
    return torch.stack(tokens, dim=1)


def _view_tokens(model: SennaLlavaLlamaForCausalLM, images: torch.Tensor) -> list[list[torch.Tensor]]:
    """(B, V, 3, H, W) -> for each sample V times (K, D): all of the tower's layers, all of their outputs kept; then image by
    image through projector and adapter."""
    parts = model.model
    tower = parts.vision_tower.vision_tower.vision_model
    with torch.no_grad():
        outputs = tower(images.flatten(0, 1).to(tower.dtype), output_hidden_states=True)
    features = outputs.hidden_states[-2][:, 1:].unflatten(0, images.shape[:2])  # (B, V, P, C)
    return [[parts.img_adapter(parts.mm_projector(view[None]))[0] for view in sample] for sample in features]


def _splice(
    model: SennaLlavaLlamaForCausalLM, ids: torch.Tensor, labels: torch.Tensor, views: list[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings (T, D) and labels (T,) of a sample: piece of text by piece of text, the views between them."""
    embeds, targets, start = [], [], 0
    places = (ids == IMAGE_TOKEN_INDEX).nonzero()[:, 0].tolist()
    for place, view in zip([*places, len(ids)], [*views, None], strict=True):
        embeds.append(model.model.embed_tokens(ids[start:place]))
        targets.append(labels[start:place])
        if view is not None:
            embeds.append(view)
            targets.append(labels.new_full((len(view),), IGNORE_INDEX))
        start = place + 1
    return torch.cat(embeds)[:MAX_LENGTH], torch.cat(targets)[:MAX_LENGTH]
