"""The probability of each of the twenty meta-actions, from one forward: a prompt and its images once, the answers as branches.

Letters: F frames of a batch, n places in the trees of their answers (104 a frame with Vicuna's tokenizer), W tokens that
occur in an answer.
"""

from collections.abc import Mapping, Sequence
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
PACK_TOKENS = 4096  # of a row of branches and prefixes: three to four frames


@dataclass(frozen=True)
class PlanScores:
    """What a model says of a frame's twenty meta-actions, in the order of ``ALL_META_ACTIONS``.

    Attributes:
        log_probs: float64 (20,), log P(answer and its end | prompt): the sum over the answer's tokens and the terminator,
            without which a short answer would win. Not normalised: what is missing to 1 is the probability of other texts.
        greedy: where the likeliest token leads at each fork of the tree of the twenty.
        left_tree: None where greedy decoding, free to say anything, says the same; else what it begins with instead, up to
            the first token that no meta-action has there.
    """

    log_probs: np.ndarray
    greedy: MetaAction
    left_tree: str | None

    @property
    def best(self) -> MetaAction:
        """The likeliest meta-action."""
        return ALL_META_ACTIONS[int(self.log_probs.argmax())]

    @property
    def probabilities(self) -> np.ndarray:
        """float64 (20,), of each, given that it is one of them."""
        likelihoods = np.exp(self.log_probs - self.log_probs.max())
        return likelihoods / likelihoods.sum()


class PlanScorer:
    """Scores plan questions. Encoding needs no model, so that a data loader's workers can do it.

    Args:
        version: the prompt format (`senna.data.conversation.TEMPLATES`).
        ending: what follows a meta-action in an answer of the data the model was trained on.
        pack_attention: how branches attend (`senna.model.packed_attention.PACKED`), set on the model; what it computes
            else stays as with ``sdpa``.

    Raises UsageError where the model's attention cannot be set.
    """

    def __init__(
        self,
        model: SennaLlavaLlamaForCausalLM,
        tokenizer: PreTrainedTokenizerBase,
        version: str = "v1",
        ending: str = "\n",
        pack_attention: str = "auto",
    ) -> None:
        use_packed_attention(model, pack_attention)
        self.model, self.encoder = model, AnswerEncoder(tokenizer, version, ending)
        self._pad = tokenizer.pad_token_id or 0

    def __call__(self, questions: Sequence[Turns], images: Sequence[torch.Tensor]) -> list[PlanScores]:
        """Scores of F frames: their conversations up to the answer, and their images, (V, 3, H, W) each; V may be 0.

        Raises DataError for turns that are no question, ValueError where <image> and images differ in number.
        """
        frames = [{**self.encoder(turns), "images": views} for turns, views in zip(questions, images, strict=True)]
        return self.score(self.collate(frames))

    def collate(self, frames: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """A packed batch of frames: what an `AnswerEncoder` returns, and ``images`` float32 (V, 3, H, W).

        Beside `PackCollator`'s fields it has ``answers``, those of each frame.
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

    @torch.inference_mode()
    def score(self, batch: Mapping[str, Any]) -> list[PlanScores]:
        """Scores of the F frames of a batch of `collate`."""
        device = self.model.device
        packed = {name: batch[name] for name in ("layout", "num_records")}
        for name in ("input_ids", "source", "position_ids", "labels", "target_places", "target_records"):
            packed[name] = batch[name].to(device)
        if batch["images"] is not None:
            packed["images"] = batch["images"].to(device, self.model.dtype)
        logits = self.model(**packed).logits.float()  # (n, vocabulary)
        tokens = sorted({token for answers in batch["answers"] for answer in answers for token in answer})
        likeliest = logits.argmax(-1).tolist()
        of_tree = (logits[:, tokens] - logits.logsumexp(-1, keepdim=True)).double().cpu().numpy()  # (n, W) log P
        places = {token: place for place, token in enumerate(tokens)}
        # Trees need not stand in the order of frames, nor answers in theirs.
        rows = iter(batch["target_records"].argsort(stable=True).tolist())
        found = []
        for answers in batch["answers"]:
            tree = {}
            for start in starts_once(answers):
                row = next(rows)
                tree[start] = Fork({token: of_tree[row, place] for token, place in places.items()}, likeliest[row])
            log_probs = np.array([sum(tree[a[:i]].log_probs[a[i]] for i in range(len(a))) for a in answers])
            chosen, said = walk(answers, tree)
            left = None if said is None else self.encoder.tokenizer.decode(said)
            found.append(PlanScores(log_probs, ALL_META_ACTIONS[chosen], left))
        return found


class AnswerEncoder:
    """A plan question as twenty records, one an answer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, version: str = "v1", ending: str = "\n") -> None:
        if not tokenizer.eos_token:
            raise UsageError("the tokenizer has no eos token, which ends every answer")
        self.tokenizer, self.version, self.ending = tokenizer, version, ending

    def __call__(self, question: Turns) -> dict[str, Any]:
        """The `answer_tree` of a question: the turns up to the answer. Raises DataError."""
        return answer_tree(
            [{**self._encode(question, action), "kind": 0, "sample": str(action)} for action in ALL_META_ACTIONS]
        )

    def _encode(self, question: Turns, action: MetaAction) -> dict[str, torch.Tensor]:
        turns = [*question, {"from": "gpt", "value": f"{action}{self.ending}"}]
        rendered = render(turns, self.version, self.tokenizer.eos_token)
        return encode_rendered(type(rendered)(rendered.text, rendered.targets[-1:]), self.tokenizer)


def answer_tree(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Records that differ in their answers alone, samples as of `ConversationDataset`, as a frame without images.

    Answers that begin alike share what follows the beginning, so it is a target in the first of them only: every place of
    the tree of answers is asked for once.

    Returns:
        ``records``, and ``answers``: the tokens of each one's answer, its terminator included.
    """
    answers = [tuple(record["input_ids"][record["labels"] != IGNORE_INDEX].tolist()) for record in records]
    known: set[Tokens] = set()
    pruned = []
    for record, answer in zip(records, answers, strict=True):
        repeated = torch.tensor([start in known for start in starts_of(answer)])
        targets = (record["labels"] != IGNORE_INDEX).nonzero()[:, 0]
        pruned.append({**record, "labels": record["labels"].index_fill(0, targets[repeated], IGNORE_INDEX)})
        known.update(starts_of(answer))
    return {"records": pruned, "answers": answers}


class Fork(NamedTuple):
    """What the model says may follow one beginning of an answer."""

    log_probs: Mapping[int, float]  # of every token that occurs in an answer
    likeliest: int  # of all tokens


def starts_of(answer: Tokens) -> list[Tokens]:
    """What an answer may have said before each of its tokens."""
    return [answer[:depth] for depth in range(len(answer))]


def starts_once(answers: Sequence[Tokens]) -> list[Tokens]:
    """The beginnings of all answers, each once, by first appearance: the places of their tree."""
    return list(dict.fromkeys(start for answer in answers for start in starts_of(answer)))


def walk(answers: Sequence[Tokens], tree: Mapping[Tokens, Fork]) -> tuple[int, Tokens | None]:
    """The greedy way through the tree of answers, none of which begins another, as each ends with a terminator.

    Returns:
        Which answer, and None or what greedy decoding says where it leaves the tree: the tokens up to the first that no
        answer has there.
    """
    said, left = (), None
    while said not in answers:
        fork = tree[said]
        children = {answer[len(said)] for answer in answers if answer[: len(said)] == said}
        if left is None and fork.likeliest not in children:
            left = (*said, fork.likeliest)
        said = (*said, max(sorted(children), key=fork.log_probs.__getitem__))
    return answers.index(said), left


def answer_ending(answer: str) -> str:
    """What follows the meta-action in a recorded answer, for `PlanScorer`: the newline of ``KEEP, STRAIGHT\\n``."""
    return answer[len(answer.rstrip()) :]
