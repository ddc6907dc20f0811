"""Every kind of checkpoint opens, says what it lacks, and runs no code."""

import json
import logging
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from senna.errors import UsageError
from senna.model import load_model
from senna.model.loading import open_model
from senna.model.source import load_image_processor, read_config, resolve_tower
from tests.data.small_tokenizers import llama_folder
from tests.model.conftest import GOLDEN

PROMPT = torch.tensor([[1, -200, 7, 8]])


@pytest.fixture
def published(tmp_path):
    """The published tiny checkpoint with its tower beside it and a tokenizer in it, as users have such folders."""
    shutil.copytree(GOLDEN / "clip_tiny", tmp_path / "clip_tiny")
    folder = llama_folder(tmp_path / "senna")
    for name in ("config.json", "model.safetensors"):
        shutil.copy(GOLDEN / "model_v320" / name, folder)
    return folder


def change(folder, keep=lambda name: True, **config):
    """Rewrite a checkpoint: some keys of its configuration, and only the weights that `keep` says."""
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, **config}))
    weights = {name: t for name, t in load_file(folder / "model.safetensors").items() if keep(name)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def logits(model):
    image = torch.linspace(-1, 1, 3 * 336 * 336).view(1, 1, 3, 336, 336)
    with torch.no_grad():
        return model(PROMPT, images=image).logits


def test_a_published_folder_finds_its_tower_beside_it_from_any_working_directory(published, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    model, tokenizer, image_processor = load_model(published)
    assert model.config.vision_config.hidden_size == 32
    assert tokenizer.padding_side == "right"
    assert image_processor.crop_size["height"] == 336


def test_a_tower_that_was_on_another_machine_is_found_beside_the_checkpoint_under_its_last_name(published, tmp_path):
    expected = logits(load_model(published)[0])
    change(published, mm_vision_tower="/authors/machine/clip_tiny")  # as in the published Senna
    assert torch.equal(logits(load_model(published)[0]), expected)
    change(published, mm_vision_tower="somebody/clip_tiny")  # a hub name whose folder is here
    assert torch.equal(logits(load_model(published)[0]), expected)


def test_a_path_of_another_machine_that_ends_in_clips_name_is_the_default_tower(published):
    path = "/authors/machine/clip-vit-large-patch14-336"
    assert resolve_tower(path, str(published)) == "openai/clip-vit-large-patch14-336"
    change(published, mm_vision_tower=path, mm_hidden_size=1024)
    assert read_config(str(published)).vision_config.num_hidden_layers == 24
    assert resolve_tower("/authors/machine/another", str(published)) == "/authors/machine/another"


def test_pickled_weights_load_and_equal_the_safetensors(published):
    expected = logits(load_model(published)[0])
    torch.save(load_file(published / "model.safetensors"), published / "pytorch_model.bin")
    (published / "model.safetensors").unlink()
    assert torch.equal(logits(load_model(published)[0]), expected)


class Malice:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def test_pickled_weights_that_hold_code_are_refused_and_the_code_does_not_run(published, tmp_path):
    mark = str(tmp_path / "it ran")
    torch.save({"model.norm.weight": Malice(mark)}, published / "pytorch_model.bin")
    (published / "model.safetensors").unlink()
    with pytest.raises(UsageError, match="its pickled weights hold more than weights"):
        load_model(published)
    assert not os.path.exists(mark)


def test_weights_that_are_cut_off_are_told(published):
    whole = (published / "model.safetensors").read_bytes()
    (published / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match="damaged or cut off"):
        load_model(published)


def test_a_llava_checkpoint_gives_its_projector_its_tower_is_fetched_and_the_adapter_is_new(published, caplog):
    change(published, lambda name: "img_adapter" not in name and "vision_tower" not in name, model_type="llava")
    with caplog.at_level(logging.WARNING):
        model, *_ = load_model(published)
    assert "holds no img_adapter: untrained weights" in caplog.text
    golden = load_file(GOLDEN / "model_v320" / "model.safetensors")
    for name, tensor in model.state_dict().items():
        if "img_adapter" not in name:
            assert torch.equal(tensor, golden[name]), name
    assert float(model.model.img_adapter.adapter[0].weight.detach().std()) == pytest.approx(0.01, rel=0.05)


def test_the_configuration_of_llava_15_is_read(data, tmp_path):
    text = (data / "llava15_config" / "config.json").read_text()
    values, _ = json.JSONDecoder().raw_decode(text)  # notes follow the configuration there
    (tmp_path / "config.json").write_text(json.dumps(values))
    config = read_config(str(tmp_path))
    assert (config.mm_adapter_tokens, config.patch_tokens, config.hidden_size) == (128, 576, 4096)
    assert load_image_processor(str(tmp_path), config).size["shortest_edge"] == 336


def test_preprocessing_is_the_checkpoints_own_else_its_towers_else_clips_at_the_towers_size(published, tmp_path):
    config = read_config(str(published))
    tower = tmp_path / "clip_tiny" / "preprocessor_config.json"
    values = json.loads(tower.read_text())
    tower.write_text(json.dumps({**values, "image_mean": [0.1, 0.2, 0.3]}))
    assert list(load_image_processor(str(published), config).image_mean) == [0.1, 0.2, 0.3]
    (published / tower.name).write_text(json.dumps({**values, "image_mean": [0.4, 0.5, 0.6]}))
    assert list(load_image_processor(str(published), config).image_mean) == [0.4, 0.5, 0.6]
    assert list(load_image_processor(str(tower.parent), config).image_mean) == [
        0.1,
        0.2,
        0.3,
    ]  # a tower that was asked for
    tower.unlink()
    (published / tower.name).unlink()
    plain = load_image_processor(str(published), config)
    assert (plain.size["shortest_edge"], round(plain.image_mean[0], 4)) == (336, 0.4815)


def test_a_bare_llama_and_a_tower_make_a_model_with_new_adapters(tmp_path):
    llama = LlamaConfig(
        vocab_size=420, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4
    )
    LlamaForCausalLM(llama).save_pretrained(tmp_path)
    model, new = open_model(str(tmp_path), str(GOLDEN / "clip_tiny"))
    assert new == ["mm_projector", "img_adapter"]
    tower = load_file(GOLDEN / "clip_tiny" / "model.safetensors")
    for name, tensor in model.model.vision_tower.vision_tower.state_dict().items():
        assert torch.equal(tensor, tower[name]), name


def test_a_checkpoint_that_lacks_a_weight_of_the_llm_is_refused_and_the_weight_named(published):
    change(published, lambda name: name != "model.layers.1.mlp.up_proj.weight")
    with pytest.raises(UsageError, match=r"1 weights are missing .*model\.layers\.1\.mlp\.up_proj\.weight"):
        load_model(published)


def test_a_tower_of_another_width_is_refused(published, tmp_path):
    config = json.loads((tmp_path / "clip_tiny" / "config.json").read_text())
    (tmp_path / "clip_tiny" / "config.json").write_text(json.dumps({**config, "hidden_size": 48}))
    with pytest.raises(UsageError, match="mm_hidden_size 32 differs from the vision tower's width 48"):
        load_model(published)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2'"),
        ({"mm_projector_type": "linear"}, "mm_projector_type 'linear' is not known"),
        ({"mm_vision_tower": "./elsewhere"}, "vision tower ./elsewhere: no such folder"),
    ],
)
def test_a_model_that_is_none_of_ours_is_refused_with_the_reason(published, config, message):
    change(published, **config)
    with pytest.raises(UsageError, match=message):
        load_model(published)


def test_a_folder_that_is_missing_or_holds_no_model_is_named(tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        load_model(tmp_path / "gone")
    with pytest.raises(UsageError, match=r"no config\.json there"):
        load_model(tmp_path)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_only_the_linears_of_the_llm_are_quantised_and_answers_stay_near(published, quantization):
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    exact = logits(load_model(published, dtype=torch.float32)[0])
    model, *_ = load_model(published, quantization=quantization, dtype=torch.float32, device="cpu")
    kinds = {"nf4": bitsandbytes.nn.Linear4bit, "int8": bitsandbytes.nn.Linear8bitLt}
    quantised = {name for name, module in model.named_modules() if isinstance(module, kinds[quantization])}
    assert len(quantised) == 3 * 7
    assert all(name.startswith("model.layers.") for name in quantised)
    difference = (logits(model) - exact).std() / exact.std()
    assert 0 < difference < 0.3  # 4-bit rounding of random weights: about a tenth
    assert model.generate(PROMPT, images=torch.zeros(1, 1, 3, 336, 336), max_new_tokens=3).shape[0] == 1
