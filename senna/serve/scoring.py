"""Log-probabilities of the twenty meta-actions from a vLLM engine: the prompt once, then the answers behind it.

A row is the position of a token; the logits of row i predict the token of row i + 1.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from vllm.exceptions import GenerationError
from vllm.sampling_params import RequestOutputKind, SamplingParams

from senna.evaluate.score import AnswerEncoder, Fork, PlanScores, Tokens, Turns, answer_prefixes, walk
from senna.meta_actions import ALL_META_ACTIONS
from senna.serve.tokenizer import image_token_id

LogProbs = dict[Tokens, dict[int, float]]
"""Prefix of an answer -> token -> log P(token | prompt, prefix)."""


class EngineScorer:
    """Scores plan questions with the engine of a server.

    The first answer is computed alone, so that its prompt is in the prefix cache when the others follow. vLLM gives
    log-probabilities only for rows that it computes, and a question that was asked before has the first tokens of some
    answers in the cache too. The tokens after these are asked for one by one.
    """

    def __init__(self, engine: Any) -> None:
        self.engine, self.renderer = engine, engine.renderer
        self.tokenizer = self.renderer.plain_tokenizer
        self._placeholder = image_token_id(self.tokenizer)

    async def __call__(
        self, question: Turns, images: Sequence[np.ndarray], request: str, version: str = "v1", ending: str = "\n"
    ) -> tuple[PlanScores, int]:
        """Return the scores of a question, and the number of tokens of its prompt.

        Args:
            question: the conversation up to the answer.
            images: uint8 (H, W, 3), resized.
            request: a name that no other request of the engine has.

        Raises:
            DataError: the turns are not a question.
            VLLMValidationError: the prompt is too long, or has another number of ``<image>`` than of images.
        """
        encoder = AnswerEncoder(self.tokenizer, version, ending)
        frame = await asyncio.to_thread(encoder, question)
        answers: list[Tokens] = frame["answers"]
        ids = [
            record["input_ids"].masked_fill(record["input_ids"] < 0, self._placeholder).tolist()
            for record in frame["records"]
        ]
        prompt = ids[0][: len(ids[0]) - len(answers[0])]
        read = _Reader(self.engine, self.renderer, images, request)
        outputs = [await read.answer(ids[0])]
        outputs += await asyncio.gather(*(read.answer(tokens) for tokens in ids[1:]))
        log_probs: LogProbs = {}
        most_likely: dict[Tokens, int] = {}
        for answer, output in zip(answers, outputs, strict=True):
            for prefix, row in _computed_rows(answer, output):
                log_probs.setdefault(prefix, {}).update({token: entry.logprob for token, entry in row.items()})
                most_likely[prefix] = max(row, key=lambda token: row[token].logprob)
        missing = _missing_tokens(answers, log_probs)
        found = await asyncio.gather(*(read.next([*prompt, *prefix], tokens) for prefix, tokens in missing.items()))
        for prefix, row in zip(missing, found, strict=True):
            log_probs.setdefault(prefix, {}).update({token: entry.logprob for token, entry in row.items()})
            most_likely[prefix] = max(row, key=lambda token: row[token].logprob)
        tree = {prefix: Fork(log_probs[prefix], most_likely[prefix]) for prefix in log_probs}
        prompt_tokens = len(outputs[0].prompt_token_ids) - len(answers[0])
        return _scores(answers, tree, self.tokenizer), prompt_tokens


class _Reader:
    """Sends the requests of one question."""

    def __init__(self, engine: Any, renderer: Any, images: Sequence[np.ndarray], request: str) -> None:
        self.engine, self.renderer, self.images, self.request = engine, renderer, list(images), request
        self._sent = 0

    async def answer(self, tokens: list[int]) -> Any:
        """Return the output for a prompt with an answer, with the log-probabilities of the rows that were computed."""
        return await self._run(tokens, prompt_logprobs=1, skip_reading_prefix_cache=False)

    async def next(self, tokens: list[int], wanted: list[int]) -> Mapping[int, Any]:
        """Return log-probabilities of the next token: of the wanted ones, and of the most likely one."""
        output = await self._run(tokens, logprobs=len(wanted), logprob_token_ids=wanted)
        return output.outputs[0].logprobs[0]

    async def _run(self, tokens: list[int], **options: Any) -> Any:
        """Return the output for a prompt. The first one sends the pixels, the others refer to them by their hashes.

        The engine answers "error" if its cache has lost the pixels in between; they are then sent again.
        """
        prompt = {"prompt_token_ids": tokens, **({"multi_modal_data": {"image": self.images}} if self.images else {})}
        params = SamplingParams(
            max_tokens=1,
            temperature=0,
            detokenize=False,
            flat_logprobs=True,  # a few lists instead of two objects for each token of the prompt
            output_kind=RequestOutputKind.FINAL_ONLY,
            **options,
        )
        for sends_pixels in (self._sent == 0, True):
            self._sent += 1
            (rendered,) = await self.renderer.render_cmpl_async([prompt], skip_mm_cache=sends_pixels)
            final: Any = None
            async for output in self.engine.generate(rendered, params, f"{self.request}-{self._sent}"):
                final = output
            if final.outputs[0].finish_reason not in ("error", "abort"):  # without log-probabilities
                return final
        raise GenerationError("the engine could not compute an answer; its log has the reason")


def _computed_rows(answer: Tokens, output: Any) -> list[tuple[Tokens, Mapping[int, Any]]]:
    """Return (prefix, log-probabilities of the next token) of an answer's tokens whose rows were computed, not cached.

    The rows are counted from the end, since some versions of vLLM leave the cached ones out.
    """
    length, cached = len(output.prompt_token_ids), output.num_cached_tokens or 0
    rows = []
    for depth, prefix in enumerate(answer_prefixes(answer)):
        behind = len(answer) - depth  # rows from the token after the prefix to the end
        if length - behind - 1 >= cached:
            rows.append((prefix, output.prompt_logprobs[-behind]))
    return rows


def _missing_tokens(answers: Sequence[Tokens], log_probs: LogProbs) -> dict[Tokens, list[int]]:
    """Return, for each prefix of an answer, the next tokens whose log-probability is not known."""
    missing: dict[Tokens, list[int]] = {}
    for answer in answers:
        for prefix, token in zip(answer_prefixes(answer), answer, strict=True):
            if token not in log_probs.get(prefix, {}) and token not in missing.get(prefix, []):
                missing.setdefault(prefix, []).append(token)
    return missing


def _scores(answers: Sequence[Tokens], tree: Mapping[Tokens, Fork], tokenizer: Any) -> PlanScores:
    sums = [sum(tree[answer[:i]].log_probs[answer[i]] for i in range(len(answer))) for answer in answers]
    chosen, left = walk(answers, tree)
    left_tree = None if left is None else str(tokenizer.decode(list(left)))
    return PlanScores(np.array(sums), ALL_META_ACTIONS[chosen], left_tree)
