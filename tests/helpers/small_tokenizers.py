"""Two small tokenizers that tests train: one like Llama's, from a folder with tokenizer.model, and a byte-level one."""

import json
from collections.abc import Sequence
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = [
    "A chat between a curious user and an artificial intelligence assistant.",
    "USER: what is your plan? ASSISTANT: KEEP, STRAIGHT",
    "the  white car   is    parked, the lead vehicle leads a leading lane",
    "Yes, I see two pedestrians ahead of me. No, I don't see any cyclists.",
] * 20


def llama_folder(
    folder: Path, legacy: bool = False, vocabulary: int = 420, texts: Sequence[str] = tuple(TEXTS)
) -> Path:
    """Create a folder with tokenizer.model and its configuration; runs of spaces have the lowest scores, as in Llama's."""
    folder.mkdir()
    (folder / "corpus.txt").write_text("\n".join(texts))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=vocabulary,
        byte_fallback=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        allow_whitespace_only_pieces=True,
        minloglevel=2,
    )
    model = sentencepiece_model_pb2.ModelProto.FromString((folder / "tokenizer.model").read_bytes())
    runs = [piece for piece in model.pieces if len(piece.piece) > 1 and set(piece.piece) == {"▁"}]
    assert runs
    for piece in runs:
        piece.score = -1e9
    (folder / "tokenizer.model").write_bytes(model.SerializeToString())
    config = {"tokenizer_class": "LlamaTokenizer", "legacy": legacy, "model_max_length": 2048}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def byte_level() -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer without a BOS and with the eos ``<|end|>``, similar to SmolLM2's."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    specials = ["<|unk|>", "<|begin|>", "<|end|>"]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=specials, initial_alphabet=alphabet)
    backend.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<|unk|>", bos_token="<|begin|>", eos_token="<|end|>"
    )
