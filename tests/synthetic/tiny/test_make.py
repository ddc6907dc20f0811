"""The tokenizer and the tiny models, with training cut down to a few steps."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer, CLIPVisionModel, LlamaForCausalLM
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from senna.errors import UsageError
from senna.synthetic.tiny.captions import BODY_COLOURS, VEHICLE_KINDS, caption, sample_facts
from senna.synthetic.tiny.make import make_tiny_models
from senna.synthetic.tiny.tokenizer import make_tokenizer
from senna.synthetic.tiny.train_llm import ReadingRecipe, fact_words, make_llm
from senna.synthetic.tiny.train_tower import SeeingRecipe, make_clip

SEEING = SeeingRecipe(image_size=64, hidden_size=32, layers=2, journeys=1, pictures=8, steps=3, batch_size=4)
READING = ReadingRecipe(hidden_size=32, layers=1, heads=2, steps=3, batch_size=4)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_tiny_models(tmp_path_factory.mktemp("tiny"), 0, SEEING, READING)


@pytest.mark.parametrize(
    "text",
    [
        "A red car is far away.",
        "KEEP, LEFT_TURN\n",
        "12.50 m, (-3) <FRONT VIEW>:\n",
        "Zürich \U0001f6b2 \\ tab\tend",
        "a  b",
    ],
)
def test_the_tokenizer_gives_back_what_it_was_given(tokenizer, text: str):
    ids = tokenizer(text).input_ids
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer.unk_token_id not in ids


def test_the_tokenizer_is_numbered_like_llamas(tokenizer):
    assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3, 258]) == ["<unk>", "<s>", "</s>", "<0x00>", "<0xFF>"]
    assert tokenizer.pad_token_id == 0
    assert tokenizer("\n", add_special_tokens=False).input_ids[-1] == 3 + ord("\n")
    assert 512 < len(tokenizer) <= 1024
    assert tokenizer("stop</s>").input_ids[-1] == 2


def test_every_word_that_carries_a_fact_is_one_token(tokenizer):
    rng = np.random.default_rng(0)
    words = {w for _ in range(300) for thing in fact_words(sample_facts(rng)) for w in thing}
    assert words >= set(BODY_COLOURS) | set(VEHICLE_KINDS)
    assert all(len(tokenizer(word, add_special_tokens=False).input_ids) == 1 for word in words)
    for _ in range(50):
        text = caption(sample_facts(rng), rng)
        assert len(tokenizer(text, add_special_tokens=False).input_ids) <= len(text.split()) + text.count(",") + 3


def test_the_tiny_models_open_as_any_llama_and_clip(models: dict[str, Path]):
    tokenizer = AutoTokenizer.from_pretrained(models["model"])
    llm = LlamaForCausalLM.from_pretrained(models["model"])
    assert AutoConfig.from_pretrained(models["model"]).model_type == "llama"
    assert llm.config.vocab_size == len(tokenizer)
    assert llm.config.max_position_embeddings >= 2048
    tower = CLIPVisionModel.from_pretrained(models["vision_tower"])
    processor = CLIPImageProcessorPil.from_pretrained(models["vision_tower"])
    pixels = processor(images=np.zeros((90, 120, 3), dtype=np.uint8), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 64, 64)
    assert tower(pixels, output_hidden_states=True).hidden_states[-2].shape == (1, 1 + 16, 32)


def test_the_same_seed_trains_the_same_weights(models: dict[str, Path], tmp_path: Path):
    make_clip(tmp_path / "clip", 1_000_003, SEEING)
    make_llm(tmp_path / "llm", 0, READING)
    make_llm(tmp_path / "other", 1, READING)
    for made, again in ((models["vision_tower"], "clip"), (models["model"], "llm")):
        first, second = (load_file(folder / "model.safetensors") for folder in (made, tmp_path / again))
        assert all(torch.equal(first[name], second[name]) for name in first)
    other = load_file(tmp_path / "other" / "model.safetensors")
    assert not torch.equal(other["lm_head.weight"], second["lm_head.weight"])


def test_complete_models_are_reused_and_foreign_folders_refused(models: dict[str, Path]):
    weights = models["model"] / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert make_tiny_models(models["model"].parent, 0, SEEING, READING) == models
    assert weights.stat().st_mtime_ns == before
    foreign = models["model"].parent / "foreign" / "clip"
    foreign.mkdir(parents=True)
    (foreign / "mine").write_text("keep me")
    with pytest.raises(UsageError, match="something else"):
        make_tiny_models(foreign.parent, 0, SEEING, READING)
    assert [p.name for p in foreign.parent.rglob("*")] == ["clip", "mine"]


def test_making_models_leaves_the_callers_random_numbers_alone(tmp_path: Path):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    make_llm(tmp_path, 0, READING)
    assert torch.equal(torch.rand(3), expected)


def test_the_llama_learns_to_say_what_stands_before_the_caption(tmp_path: Path, capfd: pytest.CaptureFixture):
    recipe = ReadingRecipe(hidden_size=48, layers=2, heads=2, steps=40, batch_size=8, learning_rate=5e-3)
    make_llm(tmp_path, 0, recipe)
    losses = [float(line.rsplit(" ", 1)[1]) for line in capfd.readouterr().err.splitlines() if "loss" in line]
    assert losses[-1] < 0.4 * losses[0]
