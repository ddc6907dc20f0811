"""Two tokenizers trained on the spot: Llama's kind from a folder with only tokenizer.model, and byte-level without BOS."""

import json
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


def llama_folder(folder: Path, legacy: bool = False, vocabulary: int = 420) -> Path:
    """A model folder with tokenizer.model and its configuration, in which runs of spaces score lowest, as in Llama's."""
    folder.mkdir()
    (folder / "corpus.txt").write_text("\n".join(TEXTS))
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
    """Byte-level BPE that adds no BOS and ends with ``<|end|>``, as SmolLM2's does with another name."""
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
