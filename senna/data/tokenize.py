"""From text to token ids and labels, equal to the ids of the published code.

The text is split at ``<image>``; every chunk is tokenized by itself, and only the first starts with a BOS. Labels follow
from the character offsets that the fast tokenizer gives for each token, and not from the lengths of texts that are
tokenized a second time, as in the published code.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypedDict
from weakref import WeakKeyDictionary

import torch
from tokenizers import Tokenizer, normalizers
from transformers import LlamaTokenizer, PreTrainedTokenizerBase

from senna.data.conversation import Rendered, render
from senna.model.config import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from senna.model.tokenizer import SPACE, check_tokenizer, rank_merges_by_score, should_have_bos
from senna.views import IMAGE_TOKEN


class Encoded(TypedDict):
    """Token ids and labels of a conversation."""

    input_ids: torch.Tensor  # LongTensor (T,)
    labels: torch.Tensor  # LongTensor (T,); IGNORE_INDEX for tokens that are not targets


def encode_prompt(text: str, tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """Return the token ids of a text, LongTensor (T,), not truncated; each ``<image>`` is ``IMAGE_TOKEN_INDEX``."""
    ids, _ = _encode(text, tokenizer)
    return torch.tensor(ids, dtype=torch.long)


def encode_conversation(
    conversations: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, version: str = "v1"
) -> Encoded:
    """Return the token ids and labels of a record's conversation, not truncated; only answers are targets.

    Args:
        conversations: ``[{"from": "human" | "gpt", "value": str}, ...]``.
        tokenizer: a fast tokenizer with an eos, which ends every answer of the chat formats.
        version: a key of ``senna.data.conversation.TEMPLATES``, for example ``"v1"`` or ``"plain"``.

    Raises:
        DataError: the turns do not fit the format; the message gives the number of the turn.
        UsageError: the version is unknown, or the tokenizer cannot be used.
    """
    check_tokenizer(tokenizer)
    return encode_rendered(render(conversations, version, str(tokenizer.eos_token)), tokenizer)


def encode_rendered(rendered: Rendered, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    """Return the ids and labels of a rendered prompt: a token is a target if it starts inside a target span."""
    ids, starts = _encode(rendered.text, tokenizer)
    input_ids, offsets = torch.tensor(ids, dtype=torch.long), torch.tensor(starts, dtype=torch.long)
    is_target = torch.zeros(len(ids), dtype=torch.bool)
    for start, stop in rendered.targets:
        is_target |= (offsets >= start) & (offsets < stop)
    is_target &= input_ids != IMAGE_TOKEN_INDEX
    return {"input_ids": input_ids, "labels": input_ids.masked_fill(~is_target, IGNORE_INDEX)}


@dataclass(frozen=True, eq=False)
class _Encoder:
    """A copy of a tokenizer's backend with the rules of encoding.

    It is a copy so that the truncation and padding that a call of the tokenizer leaves behind have no effect here, and so
    that the tokenizer itself does not change.
    """

    backend: Tokenizer
    bos: tuple[int, ...]  # the ids at the start of a text
    added: frozenset[int]  # the ids of added tokens, such as </s>
    drops_prefix: bool  # whether text after an added token has no prefix space
    vocabulary: int  # the size of the vocabulary when the copy was made


_ENCODERS: WeakKeyDictionary[PreTrainedTokenizerBase, _Encoder] = WeakKeyDictionary()


def _encoder(tokenizer: PreTrainedTokenizerBase) -> _Encoder:
    encoder = _ENCODERS.get(tokenizer)
    if encoder is None or encoder.vocabulary != len(tokenizer):
        encoder = _ENCODERS[tokenizer] = _build_encoder(tokenizer)
    return encoder


def _build_encoder(tokenizer: PreTrainedTokenizerBase) -> _Encoder:
    check_tokenizer(tokenizer)
    own_backend: Any = tokenizer.backend_tokenizer
    bos: Any = tokenizer.bos_token_id
    backend = Tokenizer.from_str(own_backend.to_str())
    backend.no_truncation()
    backend.no_padding()
    starts_with_bos = tokenizer("").input_ids[:1] == [bos] or should_have_bos(tokenizer)
    is_sentencepiece = isinstance(tokenizer, LlamaTokenizer) and backend.token_to_id(SPACE) is not None
    if is_sentencepiece:
        rank_merges_by_score(backend, tokenizer)
        # SentencePiece adds a prefix space to a text that starts with a space; transformers 5 does not.
        backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
        backend.pre_tokenizer = None
    return _Encoder(
        backend=backend,
        bos=(bos,) if starts_with_bos else (),
        added=frozenset(backend.get_added_tokens_decoder()),
        drops_prefix=is_sentencepiece and not getattr(tokenizer, "legacy", False),
        vocabulary=len(tokenizer),
    )


def _encode(text: str, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Return the ids of a text, and the character offset at which each token starts (-1 for the BOS)."""
    encoder = _encoder(tokenizer)
    ids, starts = list(encoder.bos), [-1] * len(encoder.bos)
    offset = 0
    for number, chunk in enumerate(text.split(IMAGE_TOKEN)):
        if number:
            ids.append(IMAGE_TOKEN_INDEX)
            starts.append(offset - len(IMAGE_TOKEN))
        chunk_ids, chunk_starts = _encode_chunk(chunk, encoder)
        ids += chunk_ids
        starts += [offset + start for start in chunk_starts]
        offset += len(chunk) + len(IMAGE_TOKEN)
    return ids, starts


@lru_cache(maxsize=256)  # the system prompt and the tags of views are the same in every record
def _encode_chunk(chunk: str, encoder: _Encoder) -> tuple[Sequence[int], Sequence[int]]:
    encoding = encoder.backend.encode(chunk, add_special_tokens=False)
    ids, starts = encoding.ids, [start for start, _ in encoding.offsets]
    if not encoder.drops_prefix or encoder.added.isdisjoint(ids):
        return ids, starts
    kept_ids, kept_starts = [], []
    for number, (token, start) in enumerate(zip(ids, starts, strict=True)):
        if number and ids[number - 1] in encoder.added and token not in encoder.added and chunk[start] not in " ▁":
            token = _without_prefix(token, encoder.backend)
        if token is not None:
            kept_ids.append(token)
            kept_starts.append(start)
    return kept_ids, kept_starts


def _without_prefix(token: int, backend: Tokenizer) -> int | None:
    """Return a token without its prefix space; None if nothing is left.

    With ``legacy=False`` a text after a special token has no prefix space. The published stack tokenizes with the space and
    then removes it from the first token, so ``USER`` after ``</s>`` is ``US``, ``ER`` although ``USER`` is a token too. If
    the rest is not a token, the token is returned unchanged.
    """
    piece = backend.id_to_token(token)
    if piece is None or piece == SPACE:
        return None
    bare = backend.token_to_id(piece.removeprefix(SPACE))
    return token if bare is None else bare
