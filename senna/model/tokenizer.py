"""Tokenizers of model folders, as LLaVA used them, on today's transformers."""

import json
from pathlib import Path

import sentencepiece
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, LlamaTokenizer, PreTrainedTokenizerBase

from senna.errors import UsageError

SPACE = "▁"  # how SentencePiece writes a space


def load_tokenizer(
    path: str | Path, model_max_length: int | None = None, padding_side: str = "right"
) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or hub name, padding with unk as LLaVA does (else with pad, else with eos).

    Raises ``UsageError`` when there is none, or one without an eos or without offsets.
    """
    options = {} if model_max_length is None else {"model_max_length": model_max_length}
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), padding_side=padding_side, **options)
    except (OSError, ValueError) as error:
        raise UsageError(f"no tokenizer can be loaded from {path}: {_first_line(error)}") from error
    check_tokenizer(tokenizer)
    tokenizer.pad_token = tokenizer.unk_token or tokenizer.pad_token or tokenizer.eos_token
    rank_merges_by_score(tokenizer.backend_tokenizer, tokenizer)
    if should_have_bos(tokenizer):
        tokenizer.add_bos_token = True
    if hasattr(tokenizer, "legacy"):
        tokenizer.init_kwargs["legacy"] = tokenizer.legacy  # transformers 5 forgets it when it saves
    return tokenizer


def should_have_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a Llama tokenizer leaves the BOS to the default: on while LLaVA was trained, off in transformers 5."""
    return _sentencepiece_file(tokenizer) is not None and "add_bos_token" not in tokenizer.init_kwargs


def _sentencepiece_file(tokenizer: PreTrainedTokenizerBase) -> Path | None:
    """The tokenizer.model that a Llama tokenizer was converted from, if there is one."""
    source = getattr(tokenizer, "vocab_file", None)
    is_there = isinstance(tokenizer, LlamaTokenizer) and source and Path(source).is_file()
    return Path(source) if is_there else None


def rank_merges_by_score(backend: Tokenizer, tokenizer: PreTrainedTokenizerBase) -> None:
    """Order the merges by the scores in tokenizer.model, in place.

    transformers 5 converts tokenizer.model with merges in the order of the ids; in Llama's vocabulary the runs of
    spaces have low ids but the lowest score, so that every text with two spaces in a row would come out different.
    """
    source = _sentencepiece_file(tokenizer)
    if source is None:
        return
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(source))
    scores = {pieces.id_to_piece(index): pieces.get_score(index) for index in range(pieces.get_piece_size())}
    model = json.loads(backend.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    ranked = sorted(merges, key=lambda pair: -scores.get(pair[0] + pair[1], float("-inf")))
    if ranked != merges:
        backend.model = models.BPE(
            vocab=model["vocab"],
            merges=ranked,
            unk_token=model["unk_token"],
            fuse_unk=model["fuse_unk"],
            byte_fallback=model["byte_fallback"],
        )


def check_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise UsageError for a tokenizer without offsets or without an eos."""
    name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
    if not getattr(tokenizer, "is_fast", False):
        raise UsageError(f"the tokenizer {name} gives no offsets; use a tokenizer.json, or a Llama tokenizer.model")
    if tokenizer.eos_token is None:
        raise UsageError(f"the tokenizer {name} has no eos token, so that no answer could end; set one in its config")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
