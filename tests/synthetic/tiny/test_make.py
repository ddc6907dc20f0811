"""The tokenizer and the tiny models, trained for a few steps only."""

import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoTokenizer, CLIPVisionModel, LlamaForCausalLM
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from senna.errors import UsageError
from senna.kinds import TRAJECTORY
from senna.meta_actions import label_trajectory
from senna.synthetic.folders import STAMP
from senna.synthetic.tiny import pretrained, train_llm
from senna.synthetic.tiny.captions import BODY_COLOURS, VEHICLE_KINDS, caption, sample_facts
from senna.synthetic.tiny.imagined_frames import ask, imagine
from senna.synthetic.tiny.layout import WORDS
from senna.synthetic.tiny.make import VERSION, preparing_tiny_stage1, train_tiny_models, write_tiny_models
from senna.synthetic.tiny.recipes import LlmRecipe, TowerRecipe
from senna.synthetic.tiny.tokenizer import make_tokenizer
from senna.synthetic.tiny.train_llm import fact_words, make_llm
from senna.synthetic.tiny.train_tower import make_clip
from senna.templates import load_templates
from senna.trajectory import parse_trajectory

TOWER = TowerRecipe(image_size=64, hidden_size=32, layers=2, scenarios=1, images_per_scenario=8, steps=3, batch_size=4)
LLM = LlmRecipe(
    hidden_size=32,
    layers=1,
    heads=2,
    short_steps=11,
    steps=11,
    batch_size=2,
    driving_batch_size=2,
    short_batch_size=2,
    motion_batch_size=2,
    question_batch_size=2,
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tiny")
    with train_tiny_models(folder, 0, TOWER, LLM):
        pass
    return {"model": folder / "llm", "vision_tower": folder / "clip"}


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
def test_decoding_inverts_encoding(tokenizer, text: str):
    ids = tokenizer(text).input_ids
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer.unk_token_id not in ids


def test_special_tokens_and_bytes_have_llamas_ids(tokenizer):
    assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3, 258]) == ["<unk>", "<s>", "</s>", "<0x00>", "<0xFF>"]
    assert tokenizer.pad_token_id == 0
    assert tokenizer("\n", add_special_tokens=False).input_ids[-1] == 3 + ord("\n")
    assert 512 < len(tokenizer) <= 1152
    assert tokenizer("stop</s>").input_ids[-1] == 2


def test_every_word_of_a_fact_is_one_token(tokenizer):
    rng = np.random.default_rng(0)
    words = {word for _ in range(300) for group in fact_words(sample_facts(rng)) for word in group}
    assert words >= set(BODY_COLOURS) | set(VEHICLE_KINDS)
    words |= {name + word for name, of_name in WORDS.items() for word in of_name}
    assert all(len(tokenizer(word, add_special_tokens=False).input_ids) == 1 for word in words)
    for _ in range(50):
        text = caption(sample_facts(rng), rng)
        assert len(tokenizer(text, add_special_tokens=False).input_ids) <= len(text.split()) + text.count(",") + 3


def test_the_tiny_models_load_with_transformers(models: dict[str, Path]):
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
    make_clip(tmp_path / "clip", 1_000_003, TOWER)
    make_llm(tmp_path / "llm", 0, LLM)
    make_llm(tmp_path / "other", 1, LLM)
    for trained, again in ((models["vision_tower"], "clip"), (models["model"], "llm")):
        first, second = (load_file(folder / "model.safetensors") for folder in (trained, tmp_path / again))
        assert all(torch.equal(first[name], second[name]) for name in first)
    other = load_file(tmp_path / "other" / "model.safetensors")
    assert not torch.equal(other["lm_head.weight"], second["lm_head.weight"])


def test_complete_models_are_kept_and_other_folders_refused(models: dict[str, Path]):
    weights = models["model"] / "model.safetensors"
    before = weights.stat().st_mtime_ns
    with train_tiny_models(models["model"].parent, 0, TOWER, LLM):
        pass
    assert weights.stat().st_mtime_ns == before
    other = models["model"].parent / "other" / "clip"
    other.mkdir(parents=True)
    (other / "mine").write_text("keep me")
    with pytest.raises(UsageError, match="other files"), train_tiny_models(other.parent, 0, TOWER, LLM):
        pass
    with pytest.raises(UsageError, match="other files"):
        write_tiny_models(other.parent)
    assert {path.name for path in other.rglob("*")} == {"mine"}


def test_training_does_not_change_the_callers_random_state(tmp_path: Path):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    make_llm(tmp_path, 0, LLM)
    assert torch.equal(torch.rand(3), expected)


def test_imagined_frames_have_questions_of_every_kind_and_answers_that_state_their_facts():
    rng, templates, seen = np.random.default_rng(0), load_templates(), Counter()
    for _ in range(200):
        views, frame = imagine(rng)
        question, answer = ask(rng, frame, templates)
        light = question == templates["traffic_light"]["question"]
        plan = answer.strip() == str(frame.plan) and "choose its plan" in question
        seen["light" if light else "plan" if plan else "other"] += 1
        if light:
            assert answer == views[0].light.capitalize()
        if "front camera sees" in question:
            assert all(vehicle.kind in answer for vehicle in views[0].vehicles)
        question, answer = ask(rng, frame, templates, TRAJECTORY)
        assert question.endswith(f"its plan is {frame.plan}.")
        assert str(label_trajectory(parse_trajectory(answer))) == str(frame.plan)
    assert min(seen.values()) > 15


@pytest.mark.parametrize("light_share", [0.0, 1.0])
@pytest.mark.parametrize("layout_share", [0.0, 1.0])
def test_texts_about_a_front_view_are_those_of_stage_1(tokenizer, light_share: float, layout_share: float):
    """The prompt, the facts of one image and the answer; all weight is on the answer, and most of it on stated words."""
    recipe = replace(LLM, light_share=light_share, layout_share=layout_share, word_share=0.0, fact_weight=5.0)
    for seed in range(20):
        sample = train_llm._front_sample(tokenizer, np.random.default_rng(seed), recipe)
        assert sum(sample.is_fact) == recipe.prefix_positions
        targets = [number for number, weight in enumerate(sample.weight) if weight]
        assert sum(sample.weight) == pytest.approx(1.0)
        assert targets == list(range(targets[0], len(sample.weight)))  # the answer is the end
        answer = tokenizer.decode([sample.tokens[number][0][0] for number in targets])
        if light_share:
            assert answer.removesuffix("</s>").strip() in ("Red", "Yellow", "Green", "None")
        else:
            assert "light" in answer or (layout_share and answer.strip().startswith("line"))
            assert max(sample.weight) == pytest.approx(5 * min(filter(None, sample.weight)))


@pytest.mark.parametrize("mixed_share", [0.0, 1.0])
def test_every_fact_is_in_the_positions_of_a_view(mixed_share: float):
    groups = [[1], [2, 3], [4, 5, 6]]
    recipe = replace(LLM, mixed_share=mixed_share)
    positions = train_llm._view_positions(groups, np.random.default_rng(0), recipe)
    assert len(positions) == recipe.prefix_positions
    assert {token for tokens in positions for token, _ in tokens} == {1, 2, 3, 4, 5, 6}
    if mixed_share == 0:
        assert all([token for token, _ in tokens] in groups for tokens in positions)
        assert all(share == 1 for tokens in positions for _, share in tokens)


def test_the_loss_of_the_llama_decreases(tmp_path: Path, capfd: pytest.CaptureFixture):
    recipe = replace(LLM, hidden_size=48, layers=2, steps=40, batch_size=8, learning_rate=5e-3)
    make_llm(tmp_path, 0, recipe)
    losses = [float(line.rsplit(" ", 1)[1]) for line in capfd.readouterr().err.splitlines() if "loss" in line]
    assert losses[10] < 0.8 * losses[0]  # in short texts
    assert losses[-1] < 0.8 * losses[11]  # in all


def test_the_pretrained_models_have_the_recipes_of_the_code():
    """A recipe that changes needs other weights: python -m senna.synthetic.tiny.pretrained."""
    for name, recipe in (("llm", LlmRecipe()), ("clip", TowerRecipe())):
        stated = json.loads((pretrained.FOLDER / name / pretrained.RECIPE).read_text())
        assert stated == {"what": f"tiny {name}", "version": VERSION, "seed": 0, **asdict(recipe)}


def test_stage_1_starts_from_the_pretrained_models(tmp_path: Path):
    with preparing_tiny_stage1(tmp_path, seed=3, count=1) as paths:
        llm, tower = (AutoModel.from_pretrained(paths[name]) for name in ("model", "vision_tower"))
    assert {llm.dtype, tower.dtype} == {torch.float32}
    assert llm.config.hidden_size == LlmRecipe().hidden_size
    assert len(AutoTokenizer.from_pretrained(paths["model"])) == llm.config.vocab_size
    before = (paths["model"] / "model.safetensors").stat().st_mtime_ns
    write_tiny_models(tmp_path)
    assert (paths["model"] / "model.safetensors").stat().st_mtime_ns == before


def test_models_that_were_trained_here_are_not_replaced_by_pretrained_ones(tmp_path: Path):
    write_tiny_models(tmp_path)
    stamp = tmp_path / "llm" / STAMP
    stamp.write_text(json.dumps({"what": "tiny llm", "version": VERSION, "seed": 5, **asdict(LlmRecipe())}))
    weights = tmp_path / "llm" / "model.safetensors"
    weights.write_bytes(b"trained here")
    write_tiny_models(tmp_path)
    assert weights.read_bytes() == b"trained here"
    stamp.write_text(json.dumps({"what": "tiny llm", "version": VERSION - 1, "seed": 5}))
    write_tiny_models(tmp_path)
    assert weights.read_bytes() != b"trained here"


def test_the_pretrained_llama_says_what_an_image_token_holds(tmp_path: Path):
    """It was trained: the loss of captions, given the facts of a view, is far below that of guessing the words."""
    write_tiny_models(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "llm")
    llm, recipe = LlamaForCausalLM.from_pretrained(tmp_path / "llm"), replace(LlmRecipe(), noise=0.1)
    rng = np.random.default_rng(7)
    samples = [train_llm._front_sample(tokenizer, rng, recipe) for _ in range(32)]
    with torch.no_grad():
        assert train_llm._loss(llm, samples, recipe) < 0.3


def test_the_models_of_the_package_are_replaced_by_trained_ones(models: dict[str, Path], tmp_path: Path, monkeypatch):
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "package")
    pretrained.replace_models(models["model"].parent)
    write_tiny_models(tmp_path / "written")
    for name, trained in (("llm", models["model"]), ("clip", models["vision_tower"])):
        first, second = (load_file(path / "model.safetensors") for path in (trained, tmp_path / "written" / name))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key].half().float(), second[key]) for key in first)
        kept = {path.name for path in trained.iterdir()}
        assert {path.name for path in (tmp_path / "written" / name).iterdir()} == kept
