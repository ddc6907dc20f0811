"""Check that a model's tokenizer is present and belongs to that model."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from senna.data.tokenize import encode_conversation
from senna.doctor.context import RunContext
from senna.doctor.findings import FAIL, OK, WARN, Finding
from senna.doctor.hub import is_cached, locate
from senna.doctor.weights import DamagedFile, check_pointer
from senna.model.config import IGNORE_INDEX, SennaConfig
from senna.model.tokenizer import load_tokenizer
from senna.views import image_block

FILES = ("tokenizer.json", "tokenizer.model")
COPY = "copy tokenizer.model or tokenizer.json, and tokenizer_config.json, from the model's original source"
SMALLEST_SHARE = 0.9
"""A vocabulary smaller than this share of the embedding's rows belongs to another model: embeddings are padded to a multiple of
64 or by a few new tokens, but not by a tenth."""
_QUESTION = [
    {"from": "human", "value": image_block(("front",)) + "What is your plan?"},
    {"from": "gpt", "value": "KEEP, STRAIGHT"},
]


def tokenizer(context: RunContext) -> Iterator[Finding]:
    """Check the files, the vocabulary size, the special tokens, and the encoding of one conversation."""
    config = context.config
    if config is None or context.source is None or locate(context.source.lineage[-1]) is None:
        return
    source = context.source.tokenizer
    folder = Path(source)
    files = [folder / name for name in FILES if (folder / name).is_file()]
    if not files and is_cached(folder) and not constants.HF_HUB_OFFLINE:
        message = f"not in the cache ({folder}): a run will download it"
        yield Finding(WARN, "tokenizer", message, "senna download")
        return
    if not files:
        yield Finding(FAIL, "tokenizer", f"{source} holds neither {' nor '.join(FILES)}", COPY)
        return
    try:
        for file in files:
            check_pointer(file)
        loaded = load_tokenizer(source, context.args.model_max_length)
    except DamagedFile as error:
        yield Finding(FAIL, "tokenizer", error.problem.message, error.problem.remedy)
        return
    except Exception as error:  # tokenizers and sentencepiece raise errors of their own for a damaged file
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        yield Finding(FAIL, "tokenizer", f"{source} cannot be loaded: {reason}", COPY)
        return
    problems = list(_vocabulary(loaded, config, source))
    if not problems:
        problems = list(_encoding(loaded, context.args.version, source))
    yield from problems
    if not problems:
        yield Finding(OK, "tokenizer", f"{source}: {len(loaded)} tokens, answers end with {loaded.eos_token}")


def _vocabulary(tokenizer: Any, config: SennaConfig, source: str) -> Iterator[Finding]:
    """Compare a tokenizer's size and special tokens with the model's configuration."""
    rows, tokens = config.vocab_size, max(tokenizer.get_vocab().values()) + 1
    other = f"{source} is the tokenizer of another model"
    if tokens > rows:
        message = f"{other}: it has ids up to {tokens - 1}, and the model's embedding has {rows} rows"
        yield Finding(FAIL, "tokenizer", message, COPY)
        return
    if tokens < SMALLEST_SHARE * rows:
        message = f"{other}: it has {tokens} tokens, and the model's embedding has {rows} rows"
        yield Finding(FAIL, "tokenizer", message, COPY)
        return
    for name in ("bos", "eos"):
        configured = getattr(config, f"{name}_token_id")
        actual = getattr(tokenizer, f"{name}_token_id")
        accepted = configured if isinstance(configured, list) else [configured]
        if configured is None or actual is None or actual in accepted:
            continue
        token = getattr(tokenizer, f"{name}_token")
        effect = "; generated text will not end there" if name == "eos" else ""
        yield Finding(
            WARN,
            "tokenizer",
            f"{source}: {name} token {token} has id {actual}, and config.json has {configured}{effect}",
            f"set {name}_token_id in config.json to {actual} if this is the model's tokenizer; otherwise {COPY}",
        )


def _encoding(tokenizer: Any, version: str, source: str) -> Iterator[Finding]:
    """Encode a small conversation, and check its target tokens."""
    sample = encode_conversation(_QUESTION, tokenizer, version)
    targets = sample["labels"][sample["labels"] != IGNORE_INDEX]
    if not len(targets) or (version != "plain" and targets[-1] != tokenizer.eos_token_id):
        message = (
            f"{source}: a test conversation gives {len(targets)} targets that do not end with {tokenizer.eos_token}"
        )
        yield Finding(FAIL, "tokenizer", message, COPY)
    elif tokenizer.unk_token_id is not None and (targets == tokenizer.unk_token_id).any():
        yield Finding(FAIL, "tokenizer", f"{source} cannot encode 'KEEP, STRAIGHT' without unknown tokens", COPY)
