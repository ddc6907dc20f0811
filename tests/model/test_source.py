"""A checkpoint is resolved to its bases, configuration, vision tower, tokenizer and image processor."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import LlamaConfig

from senna.errors import UsageError
from senna.model.parts import DRIVING_ADAPTER, LLM, LORA, PROJECTOR, VISION_TOWER, own_name, part_of
from senna.model.source import ModelSource, find_tower
from tests.helpers.checkpoints import write_checkpoint

ROOT = Path(__file__).parents[2]
DEFAULT = "openai/clip-vit-large-patch14-336"
LLAVA_15 = {  # the keys of liuhaotian/llava-v1.5-7b that matter here
    "model_type": "llava", "architectures": ["LlavaLlamaForCausalLM"], "hidden_size": 4096, "intermediate_size": 11008,
    "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 32000, "mm_hidden_size": 1024,
    "mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2, "mm_vision_tower": DEFAULT,
}  # fmt: skip


@pytest.fixture
def checkpoint(tmp_path):
    return write_checkpoint(tmp_path, "senna")


def write_json(path: Path, values: dict) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(values))
    return path.parent


def lora_folder(folder: Path, base: object) -> Path:
    return write_json(folder / "adapter_config.json", {"base_model_name_or_path": str(base)})


def test_a_complete_checkpoint_is_its_own_lineage(checkpoint, tmp_path):
    source = ModelSource.resolve(checkpoint)
    assert (source.kind, source.lineage, source.base) == ("senna", (str(checkpoint),), None)
    assert source.vision_tower == str(tmp_path / "clip_tiny")
    assert source.tokenizer == str(checkpoint)
    assert source.config.hidden_size == 64
    assert source.config is source.config  # computed once


def test_the_kind_is_that_of_the_configuration(tmp_path):
    llama = LlamaConfig(vocab_size=420, hidden_size=32, num_hidden_layers=1, num_attention_heads=4).to_dict()
    source = ModelSource.resolve(write_json(tmp_path / "vicuna" / "config.json", llama))
    assert (source.kind, source.vision_tower) == ("llama", DEFAULT)
    assert ModelSource.resolve(write_json(tmp_path / "llava" / "config.json", LLAVA_15)).kind == "llava"
    another = ModelSource.resolve(write_json(tmp_path / "hf" / "config.json", {"model_type": "llava"}))
    with pytest.raises(UsageError, match="model_type 'llava' is not supported"):
        _ = another.kind


def test_a_lora_folder_leads_through_its_bases_to_a_complete_model(checkpoint, tmp_path):
    first = lora_folder(tmp_path / "first", checkpoint)
    second = lora_folder(tmp_path / "second", "first")  # moved: found in the same parent folder
    (first / "config.json").write_text((checkpoint / "config.json").read_text())
    source = ModelSource.resolve(second)
    assert (source.kind, source.lineage) == ("lora", (str(second), str(first), str(checkpoint)))
    assert source.base == str(first)
    assert source.config.to_dict() == ModelSource.resolve(checkpoint).config.to_dict()  # it has none of its own
    assert source.tokenizer == str(checkpoint)
    (first / "tokenizer.json").write_text("{}")
    assert ModelSource.resolve(second).tokenizer == str(first)


def test_a_given_base_replaces_the_recorded_base(checkpoint, tmp_path):
    folder = lora_folder(tmp_path / "lora", "/gone/base")
    assert ModelSource.resolve(folder, base=str(checkpoint)).lineage == (str(folder), str(checkpoint))
    with pytest.raises(UsageError, match="its base /gone/base is not there") as error:
        ModelSource.resolve(folder)
    assert "--base of senna merge" in error.value.remedy


def test_a_lora_folder_that_is_its_own_base_is_refused(tmp_path):
    lora_folder(tmp_path / "a", tmp_path / "b")
    lora_folder(tmp_path / "b", tmp_path / "a")
    with pytest.raises(UsageError, match="is its own base, by way of"):
        ModelSource.resolve(tmp_path / "a")


def test_for_a_complete_checkpoint_a_given_base_is_the_tokenizers_folder(checkpoint, tmp_path):
    assert ModelSource.resolve(checkpoint, base=str(tmp_path / "vicuna")).tokenizer == str(tmp_path / "vicuna")


def test_with_locate_the_lineage_ends_at_a_model_that_is_not_on_this_disk(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("senna.model.source.cached_file", lambda *args, **kwargs: pytest.fail("asked the hub"))
    cache = {"owner/senna": str(checkpoint)}
    on_hub = lora_folder(tmp_path / "lora", "owner/other")
    in_cache = lora_folder(tmp_path / "second", "owner/senna")

    def locate(name: str) -> str:
        return cache.get(name, name)

    assert ModelSource.resolve(on_hub, locate=locate).lineage == (str(on_hub), "owner/other")
    assert ModelSource.resolve(in_cache, locate=locate).lineage == (str(in_cache), str(checkpoint))
    assert ModelSource.resolve("owner/other", locate=locate).lineage == ("owner/other",)


def test_a_path_of_another_machine_that_ends_in_clips_name_is_the_default_tower(checkpoint):
    path = "/authors/machine/clip-vit-large-patch14-336"
    assert find_tower(path, [str(checkpoint)]) == DEFAULT
    values = json.loads((checkpoint / "config.json").read_text())
    write_json(checkpoint / "config.json", {**values, "mm_vision_tower": path, "mm_hidden_size": 1024})
    assert ModelSource.resolve(checkpoint).config.vision_config.num_hidden_layers == 24
    assert find_tower("/authors/machine/another", [str(checkpoint)]) == "/authors/machine/another"


def test_a_llava_15_configuration_gets_clips_geometry_and_preprocessing(tmp_path):
    source = ModelSource.resolve(write_json(tmp_path / "llava" / "config.json", LLAVA_15))
    config = source.config
    assert (config.mm_adapter_tokens, config.patch_tokens, config.hidden_size) == (128, 576, 4096)
    assert source.load_image_processor().size["shortest_edge"] == 336


@pytest.mark.parametrize(
    ("model_type", "wanted"),
    [
        ("llava", "liuhaotian/llava-v1.5-13b"),
        ("llava_next", "liuhaotian/llava-v1.5-7b"),
        ("clip_vision_model", "--vision_tower"),
        ("qwen2", "lmsys/vicuna-7b-v1.5"),
    ],
)
def test_a_checkpoint_of_another_form_names_the_form_that_is_wanted(tmp_path, model_type, wanted):
    folder = write_json(tmp_path / "llava-1.5-13b-hf" / "config.json", {"model_type": model_type})
    with pytest.raises(UsageError) as error:
        _ = ModelSource.resolve(folder).kind
    assert wanted in (error.value.remedy or "")


def test_a_missing_folder_in_a_folder_that_is_here_is_not_asked_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    write_json(tmp_path / "outputs" / "stage2" / "config.json", {"model_type": "llama"})
    asked = []

    def cached_file(name: str, file: str, *, local_files_only: bool = False, **_: object) -> None:
        asked.append((name, local_files_only))

    monkeypatch.setattr("senna.model.source.cached_file", cached_file)
    with pytest.raises(UsageError, match="model outputs/stage3: no such folder") as error:
        _ = ModelSource.resolve("outputs/stage3").kind
    assert "outputs/stage2" in (error.value.remedy or "")
    assert asked
    assert all(local for _, local in asked)
    asked.clear()
    ModelSource.resolve("owner/name")
    assert asked == [("owner/name", False)]


def test_a_hub_model_in_the_cache_is_found_although_its_owner_is_also_a_folder_here(tmp_path):
    cached = tmp_path / "home" / "hub" / "models--owner--name"
    config = cached / "snapshots" / ("0" * 40) / "config.json"
    config.parent.mkdir(parents=True)
    config.write_text(json.dumps({"model_type": "llama"}))
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0" * 40)
    (tmp_path / "owner").mkdir()
    program = "from senna.model.source import ModelSource; print(ModelSource.resolve('owner/name').kind)"
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    environment.pop("HF_HUB_CACHE", None)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == "llama", done.stderr


@pytest.mark.parametrize("given", [".", "model/config.json", "model/tokenizer"])
def test_a_path_beside_a_model_names_the_folder_of_the_model(tmp_path, given):
    write_json(tmp_path / "model" / "config.json", {"model_type": "llama"})
    (tmp_path / "model" / "tokenizer").mkdir()
    with pytest.raises(UsageError) as error:
        _ = ModelSource.resolve(str(tmp_path / given)).kind
    assert str(tmp_path / "model") in (error.value.remedy or "")


def test_preprocessing_comes_from_the_checkpoint_else_from_its_tower_else_from_clips_defaults(checkpoint, tmp_path):
    tower = tmp_path / "clip_tiny" / "preprocessor_config.json"
    values = json.loads(tower.read_text())

    def mean(**kwargs) -> list[float]:
        return list(ModelSource.resolve(checkpoint, **kwargs).load_image_processor().image_mean)

    tower.write_text(json.dumps({**values, "image_mean": [0.1, 0.2, 0.3]}))
    assert mean() == [0.1, 0.2, 0.3]
    (checkpoint / tower.name).write_text(json.dumps({**values, "image_mean": [0.4, 0.5, 0.6]}))
    assert mean() == [0.4, 0.5, 0.6]
    assert mean(vision_tower=str(tower.parent)) == [0.1, 0.2, 0.3]  # a given tower comes first
    tower.unlink()
    (checkpoint / tower.name).unlink()
    assert [round(value, 4) for value in mean()] == [0.4815, 0.4578, 0.4082]
    assert ModelSource.resolve(checkpoint).load_image_processor().size["shortest_edge"] == 336


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.vision_tower.vision_tower.vision_model.embeddings.class_embedding", VISION_TOWER),
        ("model.mm_projector.0.weight", PROJECTOR),
        ("model.img_adapter.adapter.4.bias", DRIVING_ADAPTER),
        ("model.layers.0.self_attn.q_proj.weight", LLM),
        ("lm_head.weight", LLM),
        ("model.layers.0.self_attn.q_proj.lora_A.default.weight", LORA),
    ],
)
def test_parameter_names_show_their_part_with_and_without_pefts_prefix(name, part):
    assert part_of(name) == part
    assert own_name("base_model.model." + name) == name
