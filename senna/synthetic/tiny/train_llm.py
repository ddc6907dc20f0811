"""A small Llama that has learnt to say what it is told: it stands for a pretrained Vicuna.

A language model of books can retell what stands before the question. This one learns just that, from text alone: in
front of each caption go the words of its facts, in any order, either one after another or, as an image token of LLaVA
holds them, several in one place. The projector and the adapter of stage 1 then need only put such words there. It also
learns to read a question that says how fast a car drives and where its route goes: to say both again, the speed in a word.
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

# B captions, K places for words in front of a caption, T tokens, D hidden size

PACES = {
    "standing": 0.5,
    "walking": 2.0,
    "slow": 4.0,
    "easy": 6.5,
    "steady": 9.0,
    "fast": 12.0,
    "racing": 99.0,
}  # to m/s
MIDDLE_WORDS = {"middle": "straight", "near": "close"}  # facts whose word in a caption is another


@dataclass(frozen=True)
class ReadingRecipe:
    """Geometry of the Llama and the length of its training. `places` is the number of adapter tokens it expects."""

    hidden_size: int = 128
    layers: int = 4
    heads: int = 4
    max_positions: int = 2048
    vocab_size: int = 1024
    places: int = 16
    steps: int = 600
    batch_size: int = 32
    learning_rate: float = 3e-3
    fused: float = 0.6
    told: float = 0.6
    noise: float = 0.6
    emphasis: float = 5.0


def make_llm(folder: str | os.PathLike[str], seed: int, recipe: ReadingRecipe) -> LlamaForCausalLM:
    """Train tokenizer and Llama and write both to `folder`."""
    tokenizer = make_tokenizer(folder, seed, recipe.vocab_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        llm = LlamaForCausalLM(_config(recipe, tokenizer))
        _train(llm, tokenizer, seed, recipe)
    llm.save_pretrained(folder)
    return llm


def _config(recipe: ReadingRecipe, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
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


def _train(llm: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int, recipe: ReadingRecipe) -> None:
    rng = np.random.default_rng((seed, 2))
    optimizer = torch.optim.AdamW(llm.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.steps, pct_start=0.1
    )
    for step in range(1, recipe.steps + 1):
        facts = [sample_facts(rng) for _ in range(recipe.batch_size)]
        places = [_places(f, tokenizer, rng, recipe) for f in facts]
        prefix, told = _prefix(llm, places, recipe)
        texts = [caption(f, rng) + "\n" if p else _retold(rng) for f, p in zip(facts, places, strict=True)]
        captions = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
        ids = nn.utils.rnn.pad_sequence([torch.tensor(c) for c in captions], batch_first=True, padding_value=-100)
        loss = _reading_loss(llm, prefix, ids, told, recipe.emphasis)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(llm.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        report_step("the tiny Llama learns to read", step, recipe.steps, loss.item())


@lru_cache(maxsize=1)
def _plan_question() -> str:
    return load_templates()["plan"]["question"]


def _retold(rng: np.random.Generator) -> str:
    """The question for a plan, without pictures, and what it said."""
    speed, command = (rng.random() > 0.15) * rng.uniform(0, 19), COMMANDS[rng.integers(len(COMMANDS))]
    question = _plan_question().format(speed=f"{speed:.1f} m/s", command=command)
    pace = next(word for word, end in PACES.items() if speed < end)
    return f"USER: {question} ASSISTANT: {pace}, {command}</s>"


def fact_words(facts: Facts) -> list[list[str]]:
    """The words that carry the facts, thing by thing, as captions use them."""
    vehicles = [(vehicle.lane, vehicle.colour, vehicle.kind, vehicle.distance) for vehicle in facts.vehicles]
    light = "no" if facts.light == "none" else facts.light
    things = [(facts.sky,), (light, "light"), *vehicles]
    return [[MIDDLE_WORDS.get(word, word) for word in thing] for thing in things]


def _places(
    facts: Facts, tokenizer: PreTrainedTokenizerFast, rng: np.random.Generator, recipe: ReadingRecipe
) -> list[list[int]]:
    """For each place in front of the caption the token ids that lie there together; at most `places`; none for a row
    that says nothing of a picture."""
    things = [
        [token for word in thing for token in tokenizer(word, add_special_tokens=False).input_ids]
        for thing in fact_words(facts)
    ]
    if rng.random() >= recipe.told:
        return []
    if rng.random() < recipe.fused:
        again = rng.integers(0, len(things), recipe.places)
        order = np.concatenate([np.arange(len(things)), again])[: recipe.places]
        return [things[i] for i in rng.permutation(order)]
    return [[token] for i in rng.permutation(len(things)) for token in things[i]][: recipe.places]


def _prefix(
    llm: LlamaForCausalLM, places: list[list[list[int]]], recipe: ReadingRecipe
) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings (B, K, D) of the words in front, noised and scaled as no word is, and all the told ids by row (N, 2)."""
    told = [(row, row * recipe.places + k, t) for row, ks in enumerate(places) for k, ts in enumerate(ks) for t in ts]
    row, place, token = torch.tensor(told, dtype=torch.long).view(-1, 3).T
    table = llm.get_input_embeddings()
    shape = (len(places), recipe.places, recipe.hidden_size)
    prefix = torch.zeros(shape).flatten(0, 1).index_add(0, place, table(token)).view(shape)
    loudness = recipe.noise * table.weight.detach().std() * torch.rand(len(places), 1, 1)
    scale = torch.exp(0.7 * torch.randn(len(places), 1, 1))
    return (prefix + loudness * torch.randn(shape)) * scale, torch.stack([row, token], dim=1)


def _reading_loss(
    llm: LlamaForCausalLM, prefix: torch.Tensor, ids: torch.Tensor, told: torch.Tensor, emphasis: float
) -> torch.Tensor:
    """Cross entropy of the captions `ids` (B, T; -100 pads) after [BOS, prefix]; words that were told weigh `emphasis`."""
    rows, places, _ = prefix.shape
    table = llm.get_input_embeddings()
    first = torch.full((rows, 1), llm.config.bos_token_id)
    inputs = torch.cat([table(first), prefix, table(ids.clamp(min=0))], dim=1)
    hidden = llm.model(inputs_embeds=inputs).last_hidden_state[:, places:-1]  # (B, T, D)
    real = ids != -100
    losses = F.cross_entropy(llm.lm_head(hidden[real]), ids[real], reduction="none")
    was_told = torch.zeros(rows, llm.config.vocab_size, dtype=torch.bool)
    was_told[told[:, 0], told[:, 1]] = True
    weights = 1 + (emphasis - 1) * was_told.gather(1, ids.clamp(min=0))[real]
    return (losses * weights).sum() / weights.sum()
