"""Whether a model's tokenizer is there, and is that model's."""

from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import constants

from senna.data.tokenize import encode_conversation
from senna.doctor.context import RunContext
from senna.doctor.findings import FAIL, OK, WARN, Finding
from senna.doctor.hub import is_cached, locate
from senna.doctor.weights import DamagedFile, check_pointer
from senna.model.config import IGNORE_INDEX, SennaConfig
from senna.model.source import tokenizer_source
from senna.model.tokenizer import load_tokenizer
from senna.views import image_block

FILES = ("tokenizer.json", "tokenizer.model")
LIKELY = 0.9
"""A vocabulary smaller than this share of the embedding's rows is another model's: rows are padded up to a multiple of 64 or
so, or by a few new tokens, never by a tenth."""
_QUESTION = [
    {"from": "human", "value": image_block(("front",)) + "What is your plan?"},
    {"from": "gpt", "value": "KEEP, STRAIGHT"},
]


def tokenizer(case: RunContext) -> Iterator[Finding]:
    """Files, vocabulary against the embedding, special tokens against the configuration, and one conversation encoded."""
    if case.config is None or locate(case.lineage[-1]) is None:
        return
    source = tokenizer_source(case.lineage[0], case.lineage[1] if len(case.lineage) > 1 else None)
    folder = Path(source)
    present = [folder / name for name in FILES if (folder / name).is_file()]
    again = "copy tokenizer.model or tokenizer.json, and tokenizer_config.json, from where the model is from"
    if not present and is_cached(folder) and not constants.HF_HUB_OFFLINE:
        yield Finding(
            WARN, "tokenizer", f"not in the cache: it is fetched when a run starts ({folder})", "senna download"
        )
        return
    if not present:
        yield Finding(FAIL, "tokenizer", f"{source} holds neither {' nor '.join(FILES)}", again)
        return
    try:
        for file in present:
            check_pointer(file)
        found = load_tokenizer(source, case.args.model_max_length)
    except DamagedFile as error:
        yield Finding(FAIL, "tokenizer", *error.args)
        return
    except Exception as error:  # tokenizers and sentencepiece raise their own kinds for a damaged file
        lines = str(error).strip().splitlines() or [type(error).__name__]
        yield Finding(FAIL, "tokenizer", f"{source}: cannot be loaded: {lines[0]}", again)
        return
    problems = list(_unfit(found, case.config, source, again)) or list(
        _encodes(found, case.args.version, source, again)
    )
    yield from problems
    if not problems:
        yield Finding(OK, "tokenizer", f"{source}: {len(found)} tokens, ends answers with {found.eos_token}")


def _unfit(found, config: SennaConfig, source: str, again: str) -> Iterator[Finding]:
    rows, tokens = config.vocab_size, max(found.get_vocab().values()) + 1
    if tokens > rows:
        says = f"{source}: another model's: it gives ids up to {tokens - 1}, the model's embedding has {rows} rows"
        yield Finding(FAIL, "tokenizer", says, again)
        return
    if tokens < LIKELY * rows:
        says = f"{source}: another model's: it has {tokens} tokens, the model's embedding {rows} rows"
        yield Finding(FAIL, "tokenizer", says, again)
        return
    for name in ("bos", "eos"):
        said = getattr(config, f"{name}_token_id")
        own = getattr(found, f"{name}_token_id")
        known = said if isinstance(said, list) else [said]
        if said is not None and own is not None and own not in known:
            token = getattr(found, f"{name}_token")
            effect = ": generated text will not end there" if name == "eos" else ""
            yield Finding(
                WARN,
                "tokenizer",
                f"{source}: its {name} {token} is {own}, config.json says {said}{effect}",
                f"set {name}_token_id in config.json to {own}, if the tokenizer is this model's; else {again}",
            )


def _encodes(found, version: str, source: str, again: str) -> Iterator[Finding]:
    sample = encode_conversation(_QUESTION, found, version)
    targets = sample["labels"][sample["labels"] != IGNORE_INDEX]
    if not len(targets) or (version != "plain" and targets[-1] != found.eos_token_id):
        yield Finding(
            FAIL,
            "tokenizer",
            f"{source}: a small conversation gives {len(targets)} targets, the last of them no {found.eos_token}",
            again,
        )
    elif found.unk_token_id is not None and (targets == found.unk_token_id).any():
        yield Finding(FAIL, "tokenizer", f"{source}: does not know the words of 'KEEP, STRAIGHT'", again)
