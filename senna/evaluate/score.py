"""Probabilities of the twenty meta-actions from one forward pass: prompt and images once, the answers as branches of a tree.

Letters: F frames of a batch, n positions in the trees of their answers (104 per frame with Vicuna's tokenizer), W tokens that
occur in an answer.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from senna.data.collate import PackCollator
from senna.data.conversation import render
from senna.data.tokenize import encode_rendered
from senna.errors import UsageError
from senna.meta_actions import ALL_META_ACTIONS, MetaAction
from senna.model.config import IGNORE_INDEX
from senna.model.packed_attention import use_packed_attention
from senna.model.senna_llava_llama import SennaLlavaLlamaForCausalLM

Turns = Sequence[Mapping[str, str]]
Tokens = tuple[int, ...]
PACK_TOKENS = 4096  # length of a packed row: three to four frames


@dataclass(frozen=True)
class PlanScores:
    """The scores of a frame's twenty meta-actions, in the order of ``ALL_META_ACTIONS``.

    Attributes:
        log_probs: float64 (20,), log P(answer and terminator | prompt): the sum over the answer's tokens and the
            terminator, without which short answers would be favoured. Not normalized: the remaining probability belongs to
            other texts.
        greedy: the meta-action of greedy decoding restricted to the twenty answers.
        left_tree: None if unrestricted greedy decoding gives the same answer; else the beginning of its text, up to the
            first token that continues none of the answers.
    """

    log_probs: np.ndarray
    greedy: MetaAction
    left_tree: str | None

    @property
    def best(self) -> MetaAction:
        """The most probable meta-action."""
        return ALL_META_ACTIONS[int(self.log_probs.argmax())]


class PlanScorer:
    """Scores plan questions. Its ``encoder`` needs no model, so data loader workers can use it.

    Args:
        version: the prompt format (`senna.data.conversation.TEMPLATES`).
        ending: the text after the meta-action in an answer of the training data.
        pack_attention: attention for the branches (`senna.model.packed_attention.PACKED`), set on the model; other calls of
            the model still compute what they compute with ``sdpa``. None: the model has one already.
        forward: is called instead of the model, for example a wrapper of it; default: the model.

    Raises:
        UsageError: the model's attention cannot be set.
    """

    def __init__(
        self,
        model: SennaLlavaLlamaForCausalLM,
        tokenizer: PreTrainedTokenizerBase,
        version: str = "v1",
        ending: str = "\n",
        pack_attention: str | None = "auto",
        forward: Callable[..., Any] | None = None,
    ) -> None:
        if pack_attention is not None:
            use_packed_attention(model, pack_attention)
        self.model, self.encoder = model, AnswerEncoder(tokenizer, version, ending)
        self._forward = forward or model
        self._pad: Any = tokenizer.pad_token_id or 0

    def __call__(self, questions: Sequence[Turns], images: Sequence[torch.Tensor]) -> list[PlanScores]:
        """Return the scores of F frames.

        Args:
            questions: the conversations up to the answer.
            images: (V, 3, H, W) for each frame; V may be 0.

        Raises:
            DataError: the turns are not a question.
            ValueError: the numbers of <image> and of images differ.
        """
        frames = [{**self.encoder(turns), "images": views} for turns, views in zip(questions, images, strict=True)]
        return self.score(self.collate(frames))

    def collate(self, frames: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return a packed batch of frames.

        Args:
            frames: the outputs of an `AnswerEncoder`, with ``images`` (V, 3, H, W).

        Returns:
            The fields of `PackCollator`, and ``answers``, those of each frame.
        """
        for number, frame in enumerate(frames):
            placeholders = int((frame["records"][0]["input_ids"] < 0).sum())
            if placeholders != len(frame["images"]):
                raise ValueError(f"frame {number}: {placeholders} <image> in the text, {len(frame['images'])} images")
        per_image = self.model.config.mm_adapter_tokens
        longest = max(
            len(record["input_ids"]) + per_image * len(frame["images"])
            for frame in frames
            for record in frame["records"]
        )
        limit = max(PACK_TOKENS, longest)  # an answer is never cut off
        packed = PackCollator(self._pad, limit, per_image, limit)(frames)
        return {**packed, "answers": [frame["answers"] for frame in frames]}

    @torch.no_grad()  # not inference_mode: a training run validates with it and goes on
    def score(self, batch: Mapping[str, Any]) -> list[PlanScores]:
        """Return the scores of the F frames of a batch of `collate`."""
        device = self.model.device
        packed = {name: batch[name] for name in ("layout", "num_records")}
        for name in ("input_ids", "source", "position_ids", "labels", "target_positions", "target_records"):
            packed[name] = batch[name].to(device)
        if batch["images"] is not None:
            packed["images"] = batch["images"].to(device)
        logits = self._forward(**packed).logits.float()  # (n, vocabulary)
        tokens = sorted({token for answers in batch["answers"] for answer in answers for token in answer})
        most_likely = logits.argmax(-1).tolist()
        log_probs_nW = (logits[:, tokens] - logits.logsumexp(-1, keepdim=True)).double().cpu().numpy()
        column_of = {token: column for column, token in enumerate(tokens)}
        # The packed rows may contain the frames, and a frame's answers, in another order.
        rows = iter(batch["target_records"].argsort(stable=True).tolist())
        scores = []
        for answers in batch["answers"]:
            tree = {}
            for prefix in tree_prefixes(answers):
                row = next(rows)
                log_probs = {token: log_probs_nW[row, column] for token, column in column_of.items()}
                tree[prefix] = Fork(log_probs, most_likely[row])
            sums = [sum(tree[answer[:i]].log_probs[answer[i]] for i in range(len(answer))) for answer in answers]
            chosen, left = walk(answers, tree)
            left_tree = None if left is None else str(self.encoder.tokenizer.decode(list(left)))
            scores.append(PlanScores(np.array(sums), ALL_META_ACTIONS[chosen], left_tree))
        return scores


class AnswerEncoder:
    """Encodes a plan question as twenty records, one for each answer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, version: str = "v1", ending: str = "\n") -> None:
        if not tokenizer.eos_token:
            raise UsageError("the tokenizer has no eos token", remedy="set one; it terminates every answer")
        self.tokenizer, self.version, self.ending = tokenizer, version, ending
        self._eos = str(tokenizer.eos_token)

    def __call__(self, question: Turns) -> dict[str, Any]:
        """Return the `answer_tree` of a question, the turns up to the answer. Raises DataError."""
        return answer_tree(self.records(question))

    def records(self, question: Turns) -> list[dict[str, Any]]:
        """Return a record for each answer, in the order of ``ALL_META_ACTIONS``. Raises DataError."""
        return [{**self._encode(question, action), "kind": 0, "sample": str(action)} for action in ALL_META_ACTIONS]

    def _encode(self, question: Turns, action: MetaAction) -> dict[str, torch.Tensor]:
        turns = [*question, {"from": "gpt", "value": f"{action}{self.ending}"}]
        rendered = render(turns, self.version, self._eos)
        return encode_rendered(type(rendered)(rendered.text, rendered.targets[-1:]), self.tokenizer)


def answer_tree(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return a frame, without images, of records that differ in their answers only.

    Answers with a common beginning share the tokens after it. They are targets in the first of these answers only, so that
    every position of the tree is computed once.

    Args:
        records: samples of `ConversationDataset`.

    Returns:
        ``records``, and ``answers``: the tokens of each record's answer with its terminator.
    """
    answers = [tuple(record["input_ids"][record["labels"] != IGNORE_INDEX].tolist()) for record in records]
    known: set[Tokens] = set()
    pruned = []
    for record, answer in zip(records, answers, strict=True):
        repeated = torch.tensor([prefix in known for prefix in answer_prefixes(answer)])
        targets = (record["labels"] != IGNORE_INDEX).nonzero()[:, 0]
        pruned.append({**record, "labels": record["labels"].index_fill(0, targets[repeated], IGNORE_INDEX)})
        known.update(answer_prefixes(answer))
    return {"records": pruned, "answers": answers}


class Fork(NamedTuple):
    """The predicted next token after one prefix of an answer.

    Attributes:
        log_probs: token -> log probability, for the tokens that occur in an answer.
        most_likely: the most probable token of the vocabulary.
    """

    log_probs: Mapping[int, float]
    most_likely: int


def answer_prefixes(answer: Tokens) -> list[Tokens]:
    """Return the tokens before each token of an answer."""
    return [answer[:depth] for depth in range(len(answer))]


def tree_prefixes(answers: Sequence[Tokens]) -> list[Tokens]:
    """Return the distinct prefixes of all answers in order of appearance, one for each position of their tree."""
    return list(dict.fromkeys(prefix for answer in answers for prefix in answer_prefixes(answer)))


def walk(answers: Sequence[Tokens], tree: Mapping[Tokens, Fork]) -> tuple[int, Tokens | None]:
    """Decode greedily within the tree of answers. No answer is a prefix of another, since each has a terminator.

    Returns:
        The index of the answer, and None or, if unrestricted greedy decoding leaves the tree, its tokens up to the first one
        that continues no answer.
    """
    decoded, left = (), None
    while decoded not in answers:
        fork = tree[decoded]
        children = {answer[len(decoded)] for answer in answers if answer[: len(decoded)] == decoded}
        if left is None and fork.most_likely not in children:
            left = (*decoded, fork.most_likely)
        decoded = (*decoded, max(sorted(children), key=fork.log_probs.__getitem__))
    return answers.index(decoded), left


def answer_ending(answer: str) -> str:
    """Return the text after the meta-action of a recorded answer, ``ending`` of `PlanScorer`: often a newline."""
    return answer[len(answer.rstrip()) :]
