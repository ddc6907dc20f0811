"""What is wrong with a model, a tower or a tokenizer is found by `senna doctor`, and stops `senna train` before it loads."""

import json
import shutil
import time

import pytest
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from tests.data.small_tokenizers import llama_folder
from tests.doctor.conftest import the_fail


def lose_a_shard(folder):
    sorted(folder.glob("model-*.safetensors"))[1].unlink()


def cut_a_shard(folder):
    file = sorted(folder.glob("model-*.safetensors"))[1]
    file.write_bytes(file.read_bytes()[:-100])


def lose_a_weight(folder):
    file = sorted(folder.glob("model-*.safetensors"))[1]
    weights = load_file(file)
    lost = sorted(weights)[0]
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    del weights[lost], index["weight_map"][lost]
    save_file(weights, file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def change_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def another_tokenizer(folder):
    for file in folder.glob("token*"):
        file.unlink()
    shutil.copytree(llama_folder(folder.parent / "other", vocabulary=430), folder, dirs_exist_ok=True)


def smaller_tokenizer(folder):
    for file in folder.glob("token*"):
        file.unlink()
    shutil.copytree(llama_folder(folder.parent / "other", vocabulary=340), folder, dirs_exist_ok=True)


DAMAGES = {
    "a missing shard": (lose_a_shard, "model", "is missing", "senna download"),
    "a truncated safetensors file": (cut_a_shard, "model", "is cut off", "senna download"),
    "a missing weight": (lose_a_weight, "model", "1 weights that no file holds", "copy both"),
    "a deeper config": (lambda f: change_config(f, num_hidden_layers=3), "model", "9 weights that no file holds", "copy both"),
    "a wider config": (lambda f: change_config(f, vocab_size=421), "model", "its config.json says (421, 32)", "copy"),
    "a tokenizer with more words": (another_tokenizer, "tokenizer", "ids up to 429, the model's embedding has 420", "copy"),
    "a tokenizer with fewer": (smaller_tokenizer, "tokenizer", "it has 340 tokens", "copy tokenizer.model"),
    "no tokenizer": (lambda f: (f / "tokenizer.model").unlink(), "tokenizer", "neither tokenizer.json nor", "copy"),
    "a damaged tokenizer": (lambda f: (f / "tokenizer.model").write_bytes(b"no"), "tokenizer", "cannot be loaded", "copy"),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "topic", "says", "remedy"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_model_is_told_with_its_remedy_and_training_refuses_it(
    model, examined, refused, damage, topic, says, remedy
):
    damage(model)
    found = the_fail(examined(model_name_or_path=model), topic)
    assert says in found.says
    assert remedy in found.remedy
    message = refused(model_name_or_path=model)
    assert says in message
    assert "--skip_checks True begins all the same" in message


def test_a_whole_model_is_told_as_one(model, examined):
    found = examined(model_name_or_path=model)
    assert all(finding.level == "ok" for finding in found["model"] + found["tower"] + found["tokenizer"])
    assert "2 layers of 32" in found["model"][0].says


def test_special_tokens_that_differ_from_the_configuration_are_warned_of(model, examined):
    change_config(model, eos_token_id=7)
    [found] = [one for one in examined(model_name_or_path=model)["tokenizer"] if one.level == "warn"]
    assert "its eos </s> is 2, config.json says 7" in found.says


def test_a_llama_alone_is_warned_of_in_stage_two_and_expected_in_stage_one(toy, examined):
    driving = toy.driving_options(toy.llm, vision_tower=toy.clip, mm_adapter_tokens=3)
    [warned] = [one for one in examined(**driving)["model"] if one.level == "warn"]
    assert "holds no mm_projector and no img_adapter" in warned.says
    assert "pretrain_senna_llava.sh" in warned.remedy
    assert [one.level for one in examined()["model"]] == ["ok"]


def cut_the_tower(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def lose_a_tower_weight(folder):
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("layers.1.self_attn.q_proj.weight"))
    save_file({k: v for k, v in weights.items() if k != name}, folder / "model.safetensors", metadata={"format": "pt"})


def other_pictures(folder):
    values = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 56}, "crop_size": 56}
    (folder / "preprocessor_config.json").write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (cut_the_tower, "is cut off"),
        (lose_a_tower_weight, "1 weights are missing or of another shape, the first encoder.layers.1"),
        (other_pictures, "makes pictures of 56 x 56, the tower takes 28 x 28"),
    ],
    ids=["cut off", "a weight less", "other pictures"],
)
def test_a_damaged_tower_is_told_and_training_refuses_it(toy, tmp_path, examined, refused, damage, says):
    shutil.copytree(toy.clip, tmp_path / "clip")
    damage(tmp_path / "clip")
    assert says in the_fail(examined(vision_tower=tmp_path / "clip"), "tower").says
    assert says in refused(vision_tower=tmp_path / "clip")


def lora_folder(folder, base):
    folder.mkdir()
    config = {"peft_type": "LORA", "base_model_name_or_path": str(base), "r": 2, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_the_base_of_a_lora_folder_is_found_and_checked_in_turn(model, tmp_path, examined):
    lora = lora_folder(tmp_path / "lora", model)
    assert "no adapter_model.safetensors" in the_fail(examined(model_name_or_path=lora), "LoRA").says
    for name in ("adapter_model", "non_lora_trainables"):
        save_file({}, lora / f"{name}.safetensors")
    lose_a_shard(model)
    assert "is missing" in the_fail(examined(model_name_or_path=lora), "model").says
    shutil.rmtree(model)
    assert "its base" in the_fail(examined(model_name_or_path=lora), "model").says


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A hub's cache on this disk, and no network: takes a folder in as owner/model."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def take(folder):
        place = tmp_path / "hub" / "models--owner--model"
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text("0" * 40)
        shutil.copytree(folder, place / "snapshots" / ("0" * 40))
        return place / "snapshots" / ("0" * 40)

    return take


def test_a_hub_name_is_judged_by_what_the_cache_holds_of_it(model, cache, examined):
    snapshot = cache(model)
    found = examined(model_name_or_path="owner/model")
    assert found["model"][0].says.startswith(f"{snapshot}: 2 layers of 32")
    lose_a_shard(snapshot)
    fail = the_fail(examined(model_name_or_path="owner/model"), "model")
    assert "neither a folder here nor whole in the cache" in fail.says
    assert "unset HF_HUB_OFFLINE" in fail.remedy


def test_a_hub_that_does_not_answer_is_told_at_once(cache, examined, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    start = time.perf_counter()
    fail = the_fail(examined(model_name_or_path="owner/model"), "model")
    assert "http://127.0.0.1:9 does not answer" in fail.says
    assert "HF_ENDPOINT=URL" in fail.remedy
    assert time.perf_counter() - start < 5
