"""A small Llama for the tiny preset, trained to state the facts in its prefix. It takes the place of a pretrained Vicuna.

A pretrained language model can repeat what its context says. This model learns exactly that, from text alone: the words of
the facts precede each caption, in any order, either one word a position or, as in an image token of LLaVA, all the words of
a fact summed in one position. Stage 1 then only has to train the projector and the adapter to produce such positions.
It also learns driving questions: six views with facts, a question, an answer (`imagined_frames`). Without this, stage 2 would
first have to teach their form, and the model would forget to read images while it does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from senna.data.tokenize import encode_conversation
from senna.kinds import PLAN, TRAJECTORY
from senna.model.config import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from senna.synthetic.tiny.captions import Facts, conversations, sample_facts
from senna.synthetic.tiny.imagined_frames import ask, imagine, imagine_front, imagine_motion
from senna.synthetic.tiny.recipes import LlmRecipe
from senna.synthetic.tiny.tokenizer import make_tokenizer
from senna.synthetic.workers import report_step
from senna.templates import load_templates
from senna.trajectory import format_trajectory
from senna.views import image_block

# B samples, K prefix positions, T tokens, D hidden size

CAPTION_WORDS = {"middle": "straight", "near": "close"}  # fact -> its word in captions, where the two differ


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
    """Train on short texts, then on these and on questions with the facts of views.

    In long prompts alone, the model would not find the command to turn left or right: not in 450 steps, in short ones in 60.
    All stay in each step to the end: trained one after the other, the last make it forget the first.
    """
    rng = np.random.default_rng((seed, 2))

    def short_loss() -> torch.Tensor:
        plans = [_plan_sample(tokenizer, rng, recipe) for _ in range(recipe.short_batch_size)]
        motions = [_motion_sample(tokenizer, rng) for _ in range(recipe.motion_batch_size)]
        kinds = [TRAJECTORY if number % 3 else PLAN for number in range(recipe.question_batch_size)]
        questions = [_question_sample(tokenizer, rng, recipe, kind) for kind in kinds]
        return torch.stack([_loss(llm, part, recipe) for part in (plans, motions, questions)]).sum()

    def whole_loss() -> torch.Tensor:
        front = [_front_sample(tokenizer, rng, recipe) for _ in range(recipe.batch_size)]
        driving = [_driving_sample(tokenizer, rng, recipe) for _ in range(recipe.driving_batch_size)]
        return short_loss() + _loss(llm, front, recipe) + _loss(llm, driving, recipe)

    _optimize(llm, short_loss, recipe.short_steps, recipe.learning_rate)
    _optimize(llm, whole_loss, recipe.steps, recipe.learning_rate)


def _optimize(llm: LlamaForCausalLM, loss_of: Callable[[], torch.Tensor], steps: int, learning_rate: float) -> None:
    optimizer = torch.optim.AdamW(llm.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    for step in range(1, steps + 1):
        loss = loss_of()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(llm.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        report_step("training the tiny Llama", step, steps, loss.item())


_templates = cache(load_templates)


@dataclass
class _Sample:
    """A text with facts at some of its positions.

    Attributes:
        tokens: the tokens of each position with their shares; a position is the sum of their embeddings.
        is_fact: whether a position has facts; these get noise.
        weight: the loss weight of predicting a position.
    """

    tokens: list[list[tuple[int, float]]] = field(default_factory=list)
    is_fact: list[bool] = field(default_factory=list)
    weight: list[float] = field(default_factory=list)

    def add_token(self, token: int, weight: float = 0.0) -> None:
        """Append a position with one token of the text."""
        self.tokens.append([(token, 1.0)])
        self.is_fact.append(False)
        self.weight.append(weight)

    def add_facts(self, positions: Sequence[list[tuple[int, float]]]) -> None:
        """Append positions with facts."""
        self.tokens += positions
        self.is_fact += [True] * len(positions)
        self.weight += [0.0] * len(positions)


def _front_sample(tokenizer: PreTrainedTokenizerFast, rng: np.random.Generator, recipe: LlmRecipe) -> _Sample:
    """Return one of the questions of stage 1, about a front view with facts, and its answer."""
    has_layout = rng.random() < recipe.layout_share
    facts = imagine_front(rng)[0] if has_layout else sample_facts(rng)
    positions = _single_words if not has_layout and rng.random() < recipe.word_share else _view_positions
    questions = conversations(facts, rng)
    kind = "light" if rng.random() < recipe.light_share else "layout" if rng.random() < 0.5 else "caption"
    turns = questions.get(kind) or questions.get("caption") or questions["layout"]
    return _sample(turns, [positions(_groups(facts, tokenizer), rng, recipe)], tokenizer, recipe.fact_weight)


def _question_sample(
    tokenizer: PreTrainedTokenizerFast, rng: np.random.Generator, recipe: LlmRecipe, kind: str
) -> _Sample:
    """Return a question for a plan about the front view alone, or one for a trajectory without views, and its answer."""
    front, frame = imagine_front(rng)
    question, answer = ask(rng, frame, _templates(), kind)
    views = [front] if kind == PLAN else []
    turns = [
        {"from": "human", "value": (image_block(("front",)) if views else "") + question},
        {"from": "gpt", "value": answer},
    ]
    return _sample(turns, [_view_positions(_groups(view, tokenizer), rng, recipe) for view in views], tokenizer)


def _plan_sample(tokenizer: PreTrainedTokenizerFast, rng: np.random.Generator, recipe: LlmRecipe) -> _Sample:
    """Return the facts of a front view, speed and command in short, and the plan: a tenth of the question's tokens."""
    front, frame = imagine_front(rng)
    facts = _view_positions(_groups(front, tokenizer), rng, recipe)
    return _short_sample(tokenizer, f"{frame.speed:.1f} m/s, {frame.command}:", f"{frame.plan}", facts)


def _motion_sample(tokenizer: PreTrainedTokenizerFast, rng: np.random.Generator) -> _Sample:
    """Return speed, command and plan in short, and the trajectory: half as many tokens as the question for it."""
    frame = imagine_motion(rng)
    stated = f"{frame.speed:.1f} m/s, {frame.command}, {frame.plan}:"
    return _short_sample(tokenizer, stated, format_trajectory(frame.future))


def _short_sample(
    tokenizer: PreTrainedTokenizerFast, stated: str, answer: str, facts: Sequence[list[tuple[int, float]]] = ()
) -> _Sample:
    """Return a sample without a prompt format."""
    sample = _Sample()
    sample.add_token(cast(int, tokenizer.bos_token_id))
    sample.add_facts(facts)
    for token in tokenizer(stated, add_special_tokens=False).input_ids:
        sample.add_token(token)
    targets = tokenizer(answer, add_special_tokens=False).input_ids
    for token in targets:
        sample.add_token(token, 1 / len(targets))
    return sample


def _driving_sample(tokenizer: PreTrainedTokenizerFast, rng: np.random.Generator, recipe: LlmRecipe) -> _Sample:
    """Return a driving question about six views with facts, and its answer, in the prompt format of stages 2 and 3."""
    views, frame = imagine(rng)
    share = rng.random()
    kind = (
        PLAN
        if share < recipe.plan_share
        else TRAJECTORY
        if share < recipe.plan_share + recipe.trajectory_share
        else None
    )
    if kind == TRAJECTORY and rng.random() < recipe.other_views_share:
        views, _ = imagine(rng)
    question, answer = ask(rng, frame, _templates(), kind)
    turns = [{"from": "human", "value": image_block() + question}, {"from": "gpt", "value": answer}]
    return _sample(turns, [_view_positions(_groups(view, tokenizer), rng, recipe) for view in views], tokenizer)


def _sample(
    turns: Sequence[dict[str, str]],
    images: Sequence[list[list[tuple[int, float]]]],
    tokenizer: PreTrainedTokenizerFast,
    fact_weight: float = 1.0,
) -> _Sample:
    """Return a conversation whose images are positions with facts. The weights of its answer add up to 1.

    Args:
        fact_weight: weight of tokens of the answer that occur in the facts, relative to its other tokens.
    """
    encoded = encode_conversation(turns, tokenizer)
    is_target = encoded["labels"] != IGNORE_INDEX
    stated = {token for image in images for position in image for token, _ in position}
    weights = [fact_weight if token in stated else 1.0 for token in encoded["input_ids"][is_target].tolist()]
    total, weight, image = sum(weights), iter(weights), iter(images)
    sample = _Sample()
    for token, counts in zip(encoded["input_ids"].tolist(), is_target.tolist(), strict=True):
        if token == IMAGE_TOKEN_INDEX:
            sample.add_facts(next(image))
        else:
            sample.add_token(token, next(weight) / total if counts else 0.0)
    return sample


def fact_words(facts: Facts) -> list[list[str]]:
    """Return the words of the sky, of the traffic light, of each vehicle, as captions spell them, and of the layout."""
    vehicles = [(vehicle.lane, vehicle.colour, vehicle.kind, vehicle.distance) for vehicle in facts.vehicles]
    light = "no" if facts.light == "none" else str(facts.light)
    groups: list[tuple[str, ...]] = [(facts.sky,), (light, "light"), *vehicles]
    words = [[CAPTION_WORDS.get(word, word) for word in group] for group in groups]
    return words if facts.layout is None else words + [[word] for word in facts.layout.words()]


def _single_words(
    groups: list[list[int]], rng: np.random.Generator, recipe: LlmRecipe
) -> list[list[tuple[int, float]]]:
    """Return positions with one word each, of at most `prefix_positions` words."""
    words = [[(token, 1.0)] for index in rng.permutation(len(groups)) for token in groups[index]]
    return words[: recipe.prefix_positions]


def _view_positions(
    groups: list[list[int]], rng: np.random.Generator, recipe: LlmRecipe
) -> list[list[tuple[int, float]]]:
    """Return `prefix_positions` positions that each hold one fact, or a mixture of all as an adapter may give it."""
    if rng.random() < recipe.mixed_share:
        shares = rng.dirichlet([0.4] * len(groups), recipe.prefix_positions) * min(len(groups), 2)
    else:
        repeated = rng.integers(0, len(groups), recipe.prefix_positions)
        order = np.concatenate([np.arange(len(groups)), repeated])[: recipe.prefix_positions]
        shares = np.eye(len(groups))[rng.permutation(order)]
    return [
        [(token, float(share)) for group, share in zip(groups, row, strict=True) if share > 0 for token in group]
        for row in shares
    ]


def _groups(facts: Facts, tokenizer: PreTrainedTokenizerFast) -> list[list[int]]:
    return [
        [token for word in group for token in tokenizer(word, add_special_tokens=False).input_ids]
        for group in fact_words(facts)
    ]


def _loss(llm: LlamaForCausalLM, samples: Sequence[_Sample], recipe: LlmRecipe) -> torch.Tensor:
    """Return the weighted mean cross-entropy of the targets."""
    length, hidden = max(len(sample.tokens) for sample in samples), recipe.hidden_size
    entries = [
        (row * length + position, token, share)
        for row, sample in enumerate(samples)
        for position, tokens in enumerate(sample.tokens)
        for token, share in tokens
    ]
    place, token = torch.tensor([entry[:2] for entry in entries], dtype=torch.long).T
    share = torch.tensor([entry[2] for entry in entries])[:, None]
    table = llm.get_input_embeddings()
    embeds = (
        torch.zeros(len(samples) * length, hidden)
        .index_add(0, place, table(token) * share)
        .view(len(samples), length, hidden)
    )
    is_fact, weights = (
        nn.utils.rnn.pad_sequence([torch.tensor(getattr(sample, name)) for sample in samples], batch_first=True)
        for name in ("is_fact", "weight")
    )  # (B, T)
    embeds = torch.where(is_fact[..., None], _disturbed(embeds, table.weight, recipe.noise), embeds)
    outputs = llm.model(inputs_embeds=embeds).last_hidden_state  # (B, T, D)
    rows, positions = weights.nonzero().T  # (M,)
    ids = torch.zeros(len(samples) * length, dtype=torch.long).scatter(0, place, token).view(len(samples), length)
    logits = llm.lm_head(outputs[rows, positions - 1])  # (M, vocabulary)
    losses = F.cross_entropy(logits, ids[rows, positions], reduction="none")
    weights = weights[rows, positions]
    return (losses * weights).sum() / weights.sum()


def _disturbed(embeds: torch.Tensor, table: torch.Tensor, noise: float) -> torch.Tensor:
    """Return embeddings (B, T, D) with random noise and a random scale for each sample, as a new projector would give."""
    samples = len(embeds)
    deviation = noise * table.detach().std() * torch.rand(samples, 1, 1)
    scale = torch.exp(0.7 * torch.randn(samples, 1, 1))
    return (embeds + deviation * torch.randn(embeds.shape)) * scale
