"""Tokenizers of model folders. They encode as in LLaVA's training, on the current transformers."""

import json
from pathlib import Path

import sentencepiece
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, LlamaTokenizer, PreTrainedTokenizerBase

from senna.errors import UsageError, first_line

SPACE = "▁"  # SentencePiece's mark for a space


def load_tokenizer(
    path: str | Path, model_max_length: int | None = None, padding_side: str = "right"
) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model folder or hub name. It pads with unk as LLaVA does, else with pad, else with eos.

    Raises UsageError if there is none, or if it has no eos token or gives no offsets.
    """
    options = {} if model_max_length is None else {"model_max_length": model_max_length}
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(path), padding_side=padding_side, trust_remote_code=False, **options
        )
    except (OSError, ValueError) as error:
        raise UsageError(
            f"no tokenizer can be loaded from {path}: {first_line(error)}",
            remedy="copy tokenizer.json or tokenizer.model, and tokenizer_config.json, from the model",
        ) from error
    check_tokenizer(tokenizer)
    tokenizer.pad_token = tokenizer.unk_token or tokenizer.pad_token or tokenizer.eos_token
    rank_merges_by_score(tokenizer.backend_tokenizer, tokenizer)
    if should_have_bos(tokenizer):
        tokenizer.add_bos_token = True
    if hasattr(tokenizer, "legacy"):
        tokenizer.init_kwargs["legacy"] = tokenizer.legacy  # transformers 5 does not save it otherwise
    return tokenizer


def should_have_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return True for a Llama tokenizer that leaves BOS to the default: on in LLaVA's training, off in transformers 5."""
    return _sentencepiece_file(tokenizer) is not None and "add_bos_token" not in tokenizer.init_kwargs


def _sentencepiece_file(tokenizer: PreTrainedTokenizerBase) -> Path | None:
    """Return the tokenizer.model that a Llama tokenizer was converted from; None if there is none."""
    source = getattr(tokenizer, "vocab_file", None)
    if not isinstance(tokenizer, LlamaTokenizer) or not source or not Path(source).is_file():
        return None
    return Path(source)


def rank_merges_by_score(backend: Tokenizer, tokenizer: PreTrainedTokenizerBase) -> None:
    """Sort the merges by the scores in tokenizer.model, in place.

    transformers 5 converts tokenizer.model with merges in the order of their ids. In Llama's vocabulary, runs of spaces have
    low ids but the lowest scores, so that every text with two spaces in a row would be encoded differently.
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
    """Raise UsageError for a tokenizer that gives no offsets or has no eos token."""
    name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
    if not getattr(tokenizer, "is_fast", False):
        raise UsageError(
            f"the tokenizer {name} gives no offsets", remedy="use a tokenizer.json, or a Llama tokenizer.model"
        )
    if tokenizer.eos_token is None:
        raise UsageError(
            f"the tokenizer {name} has no eos token, so that no answer could end",
            remedy="set one in tokenizer_config.json",
        )
