"""The tokenizer of the tiny preset: BPE with byte fallback like Llama's (<unk>, <s>, </s> and the 256 bytes come first)."""

from __future__ import annotations

import itertools
import json
import os
import re
import string
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from senna.synthetic.tiny.captions import INSTRUCTIONS, caption, sample_facts
from senna.synthetic.tiny.layout import QUESTION, WORDS
from senna.templates import load_templates

UNK, BOS, EOS = "<unk>", "<s>", "</s>"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]

SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
DRIVING_WORDS = (
    "USER: ASSISTANT: <FRONT VIEW>: <FRONT LEFT VIEW>: <FRONT RIGHT VIEW>: <BACK LEFT VIEW>: <BACK RIGHT VIEW>: <BACK VIEW>:",
    "KEEP ACCELERATE DECELERATE STOP STRAIGHT LEFT_TURN RIGHT_TURN LEFT_CHANGE RIGHT_CHANGE Object None Red Green Yellow",
    "KEEP, STRAIGHT ACCELERATE, STRAIGHT DECELERATE, STRAIGHT STOP, STRAIGHT KEEP, LEFT_TURN KEEP, RIGHT_TURN",
    "car truck bus van trailer motorcycle bicycle cyclist pedestrian child construction vehicle barrier traffic cone",
    "The ego vehicle drives at meters per second (m/s). The navigation command is go straight, turn left, turn right.",
    "meters ahead behind on the left on the right, driving, standing, waiting, crossing, walking, parked, moving slowly",
    "What is the motion of each object in the front left view, front right view, back left view and back right view?",
    "Are there vulnerable road users within meters ahead? Yes. No. What does the traffic light show? Why does the car act so?",
    "Because the light is red and the vehicle ahead is slow, the car should brake, decelerate, stop, keep its lane or change.",
    "It is sunny, cloudy, rainy, day, dusk, night. The road is straight, curved, wide, narrow, at an intersection.",
    "Based on the images, the current speed and the command, choose a plan for speed and path for the next seconds.",
)


def training_text(seed: int, captions: int = 3000) -> list[str]:
    """Return the lines that the tokenizer is trained on: captions, instructions, and driving questions and answers."""
    rng = np.random.default_rng((seed, 1))
    lines = [caption(sample_facts(rng), rng) for _ in range(captions)]
    texts = (text for section in load_templates().values() for text in section.values())
    templates = [re.sub(r"{\w+}|\n", " ", text) for text in texts]
    lines += itertools.chain.from_iterable(
        [text] * 20 for text in (*INSTRUCTIONS, *DRIVING_WORDS, QUESTION, *templates, SYSTEM)
    )
    lines += [" ".join(name + word for word in words) for name, words in WORDS.items()] * 200
    return lines


def make_tokenizer(folder: str | os.PathLike[str], seed: int = 0, vocab_size: int = 1152) -> PreTrainedTokenizerFast:
    """Train the tokenizer and write it to `folder`, in a form that `AutoTokenizer.from_pretrained(folder)` loads.

    Args:
        vocab_size: upper bound; training ends earlier when every word of the text is one token.
    """
    trained = Tokenizer(BPE(unk_token=UNK))
    _set_llama_pipeline(trained)
    trainer = BpeTrainer(
        vocab_size=vocab_size - len(BYTES),
        special_tokens=[UNK, BOS, EOS],
        initial_alphabet=list(string.ascii_letters + string.digits + string.punctuation),
        show_progress=False,
    )
    trained.train_from_iterator(training_text(seed), trainer)
    model = json.loads(trained.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].get)
    ordered = [*pieces[:3], *BYTES, *pieces[3:]]
    merges = [tuple(pair) for pair in model["merges"]]
    vocab = {piece: index for index, piece in enumerate(ordered)}
    tokenizer = Tokenizer(BPE(vocab, merges, unk_token=UNK, byte_fallback=True, fuse_unk=True))
    _set_llama_pipeline(tokenizer)
    tokenizer.add_special_tokens([UNK, BOS, EOS])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, 1)]
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token=UNK, bos_token=BOS, eos_token=EOS, pad_token=UNK, model_max_length=2048
    )
    wrapped.save_pretrained(Path(folder))
    return wrapped


def _set_llama_pipeline(tokenizer: Tokenizer) -> None:
    """Replace spaces by U+2581 and prepend one to the text, as SentencePiece does; split digits and punctuation off."""
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("▁"), "merged_with_next"),
            pre_tokenizers.Split(Regex(r"[0-9.,:;?!()<>_\n]"), "isolated"),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
