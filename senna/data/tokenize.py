"""From text to token ids and labels, with the ids that the published code gives.

The text is cut at ``<image>``; every piece is tokenised by itself, and only the first carries a BOS. Labels come from
the tokens' places in the text (offsets of the fast tokenizer), never from lengths of texts tokenised a second time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from tokenizers import Tokenizer, normalizers
from transformers import LlamaTokenizer, PreTrainedTokenizerBase

from senna.data.conversation import Rendered, render
from senna.model.config import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from senna.model.tokenizer import SPACE, check_tokenizer, rank_merges_by_score, should_have_bos
from senna.views import IMAGE_TOKEN


def encode_prompt(text: str, tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """Token ids of a text, LongTensor (T,); each ``<image>`` is ``IMAGE_TOKEN_INDEX``. Never truncates."""
    ids, _ = _encode(text, tokenizer)
    return torch.tensor(ids, dtype=torch.long)


def encode_conversation(
    conversations: Sequence[Mapping[str, str]], tokenizer: PreTrainedTokenizerBase, version: str = "v1"
) -> dict[str, torch.Tensor]:
    """Token ids and labels of a record's conversation, not truncated.

    Args:
        conversations: ``[{"from": "human" | "gpt", "value": str}, ...]``.
        tokenizer: a fast tokenizer with an eos, which ends every answer of the chat formats.
        version: ``"v1"`` (also ``"vicuna_v1"``) or ``"plain"``; ``senna.data.conversation.TEMPLATES`` has all.

    Returns:
        ``{"input_ids", "labels"}``: LongTensor (T,) each; labels are ``IGNORE_INDEX`` but for answers.

    Raises:
        DataError: the turns do not fit the format; the message names the turn.
        UsageError: unknown version, or a tokenizer that cannot be used.
    """
    check_tokenizer(tokenizer)
    return encode_rendered(render(conversations, version, tokenizer.eos_token), tokenizer)


def encode_rendered(rendered: Rendered, tokenizer: PreTrainedTokenizerBase) -> dict[str, torch.Tensor]:
    """Ids and labels of a rendered prompt: a token is a target when it starts inside one of the target spans."""
    ids, starts = _encode(rendered.text, tokenizer)
    input_ids, places = torch.tensor(ids, dtype=torch.long), torch.tensor(starts, dtype=torch.long)
    is_target = torch.zeros(len(ids), dtype=torch.bool)
    for start, stop in rendered.targets:
        is_target |= (places >= start) & (places < stop)
    is_target &= input_ids != IMAGE_TOKEN_INDEX
    return {"input_ids": input_ids, "labels": input_ids.masked_fill(~is_target, IGNORE_INDEX)}


@dataclass(frozen=True)
class _Encoder:
    """What encoding needs of a tokenizer. The backend is a copy of our own: the tokenizer's truncation and padding,
    which any call of it may leave behind, do not reach here, and its owner does not see our rules."""

    backend: Tokenizer
    bos: tuple[int, ...]
    added: frozenset[int]
    drops_prefix: bool
    vocabulary: int


_ENCODERS: WeakKeyDictionary[PreTrainedTokenizerBase, _Encoder] = WeakKeyDictionary()


def _encoder(tokenizer: PreTrainedTokenizerBase) -> _Encoder:
    known = _ENCODERS.get(tokenizer)
    if known is None or known.vocabulary != len(tokenizer):
        known = _ENCODERS[tokenizer] = _build_encoder(tokenizer)
    return known


def _build_encoder(tokenizer: PreTrainedTokenizerBase) -> _Encoder:
    check_tokenizer(tokenizer)
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    starts_with_bos = tokenizer("").input_ids[:1] == [tokenizer.bos_token_id] or should_have_bos(tokenizer)
    is_sentencepiece = isinstance(tokenizer, LlamaTokenizer) and backend.token_to_id(SPACE) is not None
    if is_sentencepiece:
        rank_merges_by_score(backend, tokenizer)
        # transformers 5 adds no prefix space to a text that starts with a space; SentencePiece does.
        backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
        backend.pre_tokenizer = None
    return _Encoder(
        backend=backend,
        bos=(tokenizer.bos_token_id,) if starts_with_bos else (),
        added=frozenset(backend.get_added_tokens_decoder()),
        drops_prefix=is_sentencepiece and not getattr(tokenizer, "legacy", False),
        vocabulary=len(tokenizer),
    )


def _encode(text: str, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Ids, and where in the text each token starts (-1 for the BOS)."""
    encoder = _encoder(tokenizer)
    ids, starts = list(encoder.bos), [-1] * len(encoder.bos)
    place = 0
    for number, chunk in enumerate(text.split(IMAGE_TOKEN)):
        if number:
            ids.append(IMAGE_TOKEN_INDEX)
            starts.append(place - len(IMAGE_TOKEN))
        chunk_ids, chunk_starts = _encode_chunk(chunk, encoder)
        ids += chunk_ids
        starts += [place + start for start in chunk_starts]
        place += len(chunk) + len(IMAGE_TOKEN)
    return ids, starts


def _encode_chunk(chunk: str, encoder: _Encoder) -> tuple[list[int], list[int]]:
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
    """A token less its prefix space: with ``legacy`` off, text after a special token has none.

    The published stack tokenises with the space and then cuts it off the first token, so that ``USER`` after ``</s>``
    is ``US``, ``ER`` although ``USER`` is a token too. None: nothing is left. The token stays where the rest is none.
    """
    piece = backend.id_to_token(token)
    if piece == SPACE:
        return None
    bare = backend.token_to_id(piece.removeprefix(SPACE))
    return token if bare is None else bare
