"""Checks of model, vision tower and tokenizer by `senna doctor`, and by `senna train` before it loads a model."""

import json
import shutil
import time

import pytest
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from tests.helpers.checkpoints import remove_a_weight
from tests.helpers.findings import only_failure
from tests.helpers.small_tokenizers import llama_folder


def remove_a_shard(folder):
    sorted(folder.glob("model-*.safetensors"))[1].unlink()


def truncate_a_shard(folder):
    file = sorted(folder.glob("model-*.safetensors"))[1]
    file.write_bytes(file.read_bytes()[:-100])


def change_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def use_a_larger_tokenizer(folder):
    for file in folder.glob("token*"):
        file.unlink()
    shutil.copytree(llama_folder(folder.parent / "other", vocabulary=430), folder, dirs_exist_ok=True)


def use_a_smaller_tokenizer(folder):
    for file in folder.glob("token*"):
        file.unlink()
    shutil.copytree(llama_folder(folder.parent / "other", vocabulary=340), folder, dirs_exist_ok=True)


DAMAGES = {
    "a missing shard": (remove_a_shard, "model", "is missing", "senna download"),
    "a truncated safetensors file": (truncate_a_shard, "model", "is cut off", "senna download"),
    "a missing weight": (remove_a_weight, "model", "1 weights of its config.json are in no file", "copy both"),
    "a deeper config": (
        lambda f: change_config(f, num_hidden_layers=3),
        "model",
        "9 weights of its config.json are in no file",
        "copy both",
    ),
    "a wider config": (lambda f: change_config(f, vocab_size=421), "model", "config.json requires (421, 32)", "copy"),
    "a tokenizer with more words": (
        use_a_larger_tokenizer,
        "tokenizer",
        "ids up to 429, and the model's embedding has 420",
        "copy",
    ),
    "a tokenizer with fewer": (use_a_smaller_tokenizer, "tokenizer", "it has 340 tokens", "copy tokenizer.model"),
    "no tokenizer": (lambda f: (f / "tokenizer.model").unlink(), "tokenizer", "neither tokenizer.json nor", "copy"),
    "a damaged tokenizer": (
        lambda f: (f / "tokenizer.model").write_bytes(b"no"),
        "tokenizer",
        "cannot be loaded",
        "copy",
    ),
}


@pytest.mark.parametrize(("damage", "topic", "message", "remedy"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_model_is_reported_with_a_remedy_and_training_refuses_it(
    model, check_run, refusal, damage, topic, message, remedy
):
    damage(model)
    found = only_failure(check_run(model_name_or_path=model), topic)
    assert message in found.message
    assert remedy in found.remedy
    error = refusal(model_name_or_path=model)
    assert message in error
    assert "--skip_checks True" in error


def test_a_complete_model_passes(model, check_run):
    found = check_run(model_name_or_path=model)
    assert all(finding.level == "ok" for finding in found["model"] + found["tower"] + found["tokenizer"])
    assert "2 layers of width 32" in found["model"][0].message


def test_special_tokens_that_differ_from_the_configuration_give_a_warning(model, check_run):
    change_config(model, eos_token_id=7)
    [found] = [finding for finding in check_run(model_name_or_path=model)["tokenizer"] if finding.level == "warn"]
    assert "eos token </s> has id 2, and config.json has 7" in found.message


def test_a_bare_llama_gives_a_warning_in_stage_2_and_none_in_stage_1(toy, check_run):
    driving = toy.driving_options(toy.llm, vision_tower=toy.clip, mm_adapter_tokens=3)
    [warning] = [finding for finding in check_run(**driving)["model"] if finding.level == "warn"]
    assert "holds no mm_projector and no img_adapter" in warning.message
    assert "pretrain_senna_llava.sh" in warning.remedy
    assert [finding.level for finding in check_run()["model"]] == ["ok"]


def truncate_the_tower(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def remove_a_tower_weight(folder):
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("layers.1.self_attn.q_proj.weight"))
    save_file({k: v for k, v in weights.items() if k != name}, folder / "model.safetensors", metadata={"format": "pt"})


def make_larger_images(folder):
    values = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 56}, "crop_size": 56}
    (folder / "preprocessor_config.json").write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate_the_tower, "is cut off"),
        (remove_a_tower_weight, "1 weights are missing or have a wrong shape, the first is encoder.layers.1"),
        (make_larger_images, "makes images of 56 x 56, and the tower takes 28 x 28"),
    ],
    ids=["cut off", "missing weight", "other image size"],
)
def test_a_damaged_tower_is_reported_and_training_refuses_it(toy, tmp_path, check_run, refusal, damage, message):
    shutil.copytree(toy.clip, tmp_path / "clip")
    damage(tmp_path / "clip")
    assert message in only_failure(check_run(vision_tower=tmp_path / "clip"), "tower").message
    assert message in refusal(vision_tower=tmp_path / "clip")


def lora_folder(folder, base):
    folder.mkdir()
    config = {"peft_type": "LORA", "base_model_name_or_path": str(base), "r": 2, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_the_base_of_a_lora_folder_is_checked_too(model, tmp_path, check_run):
    lora = lora_folder(tmp_path / "lora", model)
    assert "no adapter_model.safetensors" in only_failure(check_run(model_name_or_path=lora), "LoRA").message
    for name in ("adapter_model", "non_lora_trainables"):
        save_file({}, lora / f"{name}.safetensors")
    remove_a_shard(model)
    assert "is missing" in only_failure(check_run(model_name_or_path=lora), "model").message
    shutil.rmtree(model)
    assert "base" in only_failure(check_run(model_name_or_path=lora), "model").message


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Return a function that copies a folder into a hub cache as owner/model, without a network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def add(folder):
        repository = tmp_path / "hub" / "models--owner--model"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text("0" * 40)
        shutil.copytree(folder, repository / "snapshots" / ("0" * 40))
        return repository / "snapshots" / ("0" * 40)

    return add


def test_a_hub_name_is_checked_in_the_cache(model, cache, check_run):
    snapshot = cache(model)
    found = check_run(model_name_or_path="owner/model")
    assert found["model"][0].message.startswith(f"{snapshot}: 2 layers of width 32")
    remove_a_shard(snapshot)
    fail = only_failure(check_run(model_name_or_path="owner/model"), "model")
    assert "neither a folder nor complete in the cache" in fail.message
    assert "unset HF_HUB_OFFLINE" in fail.remedy


def test_a_hub_that_does_not_answer_is_reported_within_seconds(cache, check_run, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    start = time.perf_counter()
    fail = only_failure(check_run(model_name_or_path="owner/model"), "model")
    assert "http://127.0.0.1:9 does not answer" in fail.message
    assert "HF_ENDPOINT=URL" in fail.remedy
    assert time.perf_counter() - start < 5
