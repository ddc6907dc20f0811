"""A small Llama for the tiny preset, trained to state the facts in its prefix. It takes the place of a pretrained Vicuna.

A pretrained language model can repeat what its context says. This model learns exactly that, from text alone: the words of
the facts precede each caption, in any order, either one word a position or, as in an image token of LLaVA, all the words of
a fact summed in one position. Stage 1 then only has to train the projector and the adapter to produce such positions.
The model also learns to read the speed and the command in a plan question and to repeat both, the speed as a word.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from senna.navigation import COMMANDS
from senna.synthetic.tiny.captions import Facts, caption, sample_facts
from senna.synthetic.tiny.tokenizer import make_tokenizer
from senna.synthetic.workers import report_step
from senna.templates import load_templates

# B samples, K prefix positions, T tokens, D hidden size

PACES = {  # word -> upper end of its speeds in m/s
    "standing": 0.5,
    "walking": 2.0,
    "slow": 4.0,
    "easy": 6.5,
    "steady": 9.0,
    "fast": 12.0,
    "racing": 99.0,
}
CAPTION_WORDS = {"middle": "straight", "near": "close"}  # fact -> its word in captions, where the two differ


@dataclass(frozen=True)
class LlmRecipe:
    """Size of the Llama and its training.

    Attributes:
        prefix_positions: positions in front of a caption, equal to the number of adapter tokens of an image.
        fused_share: probability that a prefix position holds all the words of one fact instead of one word.
        caption_share: share of captions in the training samples; the others are plan questions without a prefix.
        noise: upper end of the noise on the prefix, in standard deviations of the token embeddings.
        fact_weight: loss weight of the tokens that occur in the prefix, relative to the other tokens.
    """

    hidden_size: int = 128
    layers: int = 4
    heads: int = 4
    max_positions: int = 2048
    vocab_size: int = 1024
    prefix_positions: int = 16
    steps: int = 600
    batch_size: int = 32
    learning_rate: float = 3e-3
    fused_share: float = 0.6
    caption_share: float = 0.6
    noise: float = 0.6
    fact_weight: float = 5.0


def make_llm(folder: str | os.PathLike[str], seed: int, recipe: LlmRecipe) -> LlamaForCausalLM:
    """Train the tokenizer and the Llama, write both to `folder` and return the Llama."""
    tokenizer = make_tokenizer(folder, seed, recipe.vocab_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        llm = LlamaForCausalLM(_config(recipe, tokenizer))
        _train(llm, tokenizer, seed, recipe)
    llm.save_pretrained(folder)
    return llm


def _config(recipe: LlmRecipe, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.hidden_size * 11 // 4,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=recipe.max_positions,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def _train(llm: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int, recipe: LlmRecipe) -> None:
    rng = np.random.default_rng((seed, 2))
    optimizer = torch.optim.AdamW(llm.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.steps, pct_start=0.1
    )
    for step in range(1, recipe.steps + 1):
        batch = [sample_facts(rng) for _ in range(recipe.batch_size)]
        prefix_ids = [_prefix_ids(facts, tokenizer, rng, recipe) for facts in batch]
        prefix, prefix_tokens = _embed_prefix(llm, prefix_ids, recipe)
        texts = [
            caption(facts, rng) + "\n" if positions else _plan_sample(rng)
            for facts, positions in zip(batch, prefix_ids, strict=True)
        ]
        text_ids = [torch.tensor(tokenizer(text, add_special_tokens=False).input_ids) for text in texts]
        ids = nn.utils.rnn.pad_sequence(text_ids, batch_first=True, padding_value=-100)
        loss = _loss(llm, prefix, ids, prefix_tokens, recipe.fact_weight)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(llm.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        report_step("training the tiny Llama", step, recipe.steps, loss.item())


@lru_cache(maxsize=1)
def _plan_question() -> str:
    return load_templates()["plan"]["question"]


def _plan_sample(rng: np.random.Generator) -> str:
    """Return a plan question without images, and an answer that repeats the pace and the command."""
    speed, command = (rng.random() > 0.15) * rng.uniform(0, 19), COMMANDS[rng.integers(len(COMMANDS))]
    question = _plan_question().format(speed=f"{speed:.1f} m/s", command=command)
    pace = next(word for word, end in PACES.items() if speed < end)
    return f"USER: {question} ASSISTANT: {pace}, {command}</s>"


def fact_words(facts: Facts) -> list[list[str]]:
    """Return the words of the sky, of the traffic light and of each vehicle, as captions spell them."""
    vehicles = [(vehicle.lane, vehicle.colour, vehicle.kind, vehicle.distance) for vehicle in facts.vehicles]
    light = "no" if facts.light == "none" else facts.light
    groups: list[tuple[str, ...]] = [(facts.sky,), (light, "light"), *vehicles]
    return [[CAPTION_WORDS.get(word, word) for word in group] for group in groups]


def _prefix_ids(
    facts: Facts, tokenizer: PreTrainedTokenizerFast, rng: np.random.Generator, recipe: LlmRecipe
) -> list[list[int]]:
    """Return the token ids that are summed at each prefix position, or no positions for a sample without a prefix.

    Fused prefixes fill all `prefix_positions` with repeated facts; the others may be shorter.
    """
    groups = [
        [token for word in group for token in tokenizer(word, add_special_tokens=False).input_ids]
        for group in fact_words(facts)
    ]
    if rng.random() >= recipe.caption_share:
        return []
    if rng.random() < recipe.fused_share:
        repeated = rng.integers(0, len(groups), recipe.prefix_positions)
        order = np.concatenate([np.arange(len(groups)), repeated])[: recipe.prefix_positions]
        return [groups[index] for index in rng.permutation(order)]
    tokens = [[token] for index in rng.permutation(len(groups)) for token in groups[index]]
    return tokens[: recipe.prefix_positions]


def _embed_prefix(
    llm: LlamaForCausalLM, prefix_ids: list[list[list[int]]], recipe: LlmRecipe
) -> tuple[torch.Tensor, torch.Tensor]:
    """Embed the prefixes of a batch, with random noise and a random scale for each sample.

    Args:
        prefix_ids: the token ids of each position of each sample.

    Returns:
        The embeddings (B, K, D), and a row (sample, token id) for every token of a prefix, LongTensor (N, 2).
    """
    entries = [
        (sample, sample * recipe.prefix_positions + position, token)
        for sample, positions in enumerate(prefix_ids)
        for position, tokens in enumerate(positions)
        for token in tokens
    ]
    sample, index, token = torch.tensor(entries, dtype=torch.long).view(-1, 3).T
    table = llm.get_input_embeddings()
    shape = (len(prefix_ids), recipe.prefix_positions, recipe.hidden_size)
    prefix = torch.zeros(shape).flatten(0, 1).index_add(0, index, table(token)).view(shape)
    deviation = recipe.noise * table.weight.detach().std() * torch.rand(len(prefix_ids), 1, 1)
    scale = torch.exp(0.7 * torch.randn(len(prefix_ids), 1, 1))
    return (prefix + deviation * torch.randn(shape)) * scale, torch.stack([sample, token], dim=1)


def _loss(
    llm: LlamaForCausalLM, prefix: torch.Tensor, ids: torch.Tensor, prefix_tokens: torch.Tensor, fact_weight: float
) -> torch.Tensor:
    """Return the weighted mean cross-entropy of `ids` after the BOS token and the prefix.

    Args:
        prefix: embeddings (B, K, D).
        ids: LongTensor (B, T), padded with -100.
        prefix_tokens: rows (sample, token id), LongTensor (N, 2).
        fact_weight: weight of the tokens that occur in the prefix of their sample; the others weigh 1.
    """
    samples, positions, _ = prefix.shape
    table = llm.get_input_embeddings()
    first = torch.full((samples, 1), llm.config.bos_token_id)
    inputs = torch.cat([table(first), prefix, table(ids.clamp(min=0))], dim=1)
    hidden = llm.model(inputs_embeds=inputs).last_hidden_state[:, positions:-1]  # (B, T, D)
    is_token = ids != -100
    losses = F.cross_entropy(llm.lm_head(hidden[is_token]), ids[is_token], reduction="none")
    in_prefix = torch.zeros(samples, llm.config.vocab_size, dtype=torch.bool)
    in_prefix[prefix_tokens[:, 0], prefix_tokens[:, 1]] = True
    weights = 1 + (fact_weight - 1) * in_prefix.gather(1, ids.clamp(min=0))[is_token]
    return (losses * weights).sum() / weights.sum()
