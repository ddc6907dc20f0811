"""Checkpoints of every kind open, report what they lack, and run no code."""

import json
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from senna.errors import UsageError
from senna.model import load_model
from senna.model.loading import open_model
from tests.helpers.checkpoints import MakesFolder, write_checkpoint
from tests.helpers.paths import GOLDEN

PROMPT = torch.tensor([[1, -200, 7, 8]])


@pytest.fixture
def published(tmp_path):
    """Return the published tiny checkpoint with a tokenizer; its vision tower is in the same parent folder."""
    return write_checkpoint(tmp_path, "senna")


def change(folder, keep=lambda name: True, **config):
    """Change keys of a checkpoint's configuration, and keep only the weights whose name satisfies ``keep``."""
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, **config}))
    weights = {name: tensor for name, tensor in load_file(folder / "model.safetensors").items() if keep(name)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def logits(model):
    image = torch.linspace(-1, 1, 3 * 336 * 336).view(1, 1, 3, 336, 336)
    with torch.no_grad():
        return model(PROMPT, images=image).logits


def test_load_model_finds_the_tower_beside_the_checkpoint_from_any_working_directory(published, monkeypatch):
    monkeypatch.chdir("/")
    model, tokenizer, image_processor = load_model(published)
    assert model.config.vision_config.hidden_size == 32
    assert tokenizer.padding_side == "right"
    assert image_processor.crop_size["height"] == 336


def test_load_model_finds_a_tower_of_another_machine_by_its_last_name(published):
    expected = logits(load_model(published)[0])
    change(published, mm_vision_tower="/authors/machine/clip_tiny")  # as in the published Senna
    assert torch.equal(logits(load_model(published)[0]), expected)
    change(published, mm_vision_tower="somebody/clip_tiny")  # a hub name
    assert torch.equal(logits(load_model(published)[0]), expected)


def test_pickled_weights_give_the_same_logits_as_safetensors(published):
    expected = logits(load_model(published)[0])
    torch.save(load_file(published / "model.safetensors"), published / "pytorch_model.bin")
    (published / "model.safetensors").unlink()
    assert torch.equal(logits(load_model(published)[0]), expected)


def test_code_in_pickled_weights_is_refused_and_does_not_run(published, tmp_path):
    made = tmp_path / "made by the pickle"
    torch.save({"model.norm.weight": MakesFolder(made)}, published / "pytorch_model.bin")
    (published / "model.safetensors").unlink()
    with pytest.raises(UsageError, match="its pickled weights hold more than weights"):
        load_model(published)
    assert not made.exists()


def test_truncated_weights_are_refused(published):
    content = (published / "model.safetensors").read_bytes()
    (published / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(UsageError, match="damaged or cut off") as error:
        load_model(published)
    assert error.value.remedy == "copy it again"


def test_a_llava_checkpoint_keeps_its_projector_and_gets_a_tower_and_a_new_adapter(published, caplog):
    change(published, lambda name: "img_adapter" not in name and "vision_tower" not in name, model_type="llava")
    with caplog.at_level(logging.WARNING):
        model, *_ = load_model(published)
    assert "holds no img_adapter: untrained weights" in caplog.text
    golden = load_file(GOLDEN / "model_v320" / "model.safetensors")
    for name, tensor in model.state_dict().items():
        if "img_adapter" not in name:
            assert torch.equal(tensor, golden[name]), name
    assert float(model.model.img_adapter.adapter[0].weight.detach().std()) == pytest.approx(0.01, rel=0.05)


def test_a_bare_llama_and_a_tower_make_a_model_with_new_adapters(tmp_path):
    llama = LlamaConfig(
        vocab_size=420, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4
    )
    LlamaForCausalLM(llama).save_pretrained(tmp_path)
    model, new = open_model(tmp_path, str(GOLDEN / "clip_tiny"))
    assert new == ["mm_projector", "img_adapter"]
    tower = load_file(GOLDEN / "clip_tiny" / "model.safetensors")
    for name, tensor in model.model.vision_tower.vision_tower.state_dict().items():
        assert torch.equal(tensor, tower[name]), name


def test_a_missing_weight_of_the_llm_is_refused_and_named(published):
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
def test_a_model_of_another_architecture_is_refused_with_the_reason(published, config, message):
    change(published, **config)
    with pytest.raises(UsageError, match=message):
        load_model(published)


def test_a_missing_folder_and_a_folder_without_a_model_are_named(tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        load_model(tmp_path / "gone")
    with pytest.raises(UsageError, match=r"no config\.json there"):
        load_model(tmp_path)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_quantization_changes_only_the_linears_of_the_llm_and_logits_only_a_little(published, quantization):
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    exact = logits(load_model(published, dtype=torch.float32)[0])
    model, *_ = load_model(published, quantization=quantization, dtype=torch.float32, device="cpu")
    linears = {"nf4": bitsandbytes.nn.Linear4bit, "int8": bitsandbytes.nn.Linear8bitLt}
    quantized = {name for name, module in model.named_modules() if isinstance(module, linears[quantization])}
    assert len(quantized) == 3 * 7
    assert all(name.startswith("model.layers.") for name in quantized)
    difference = (logits(model) - exact).std() / exact.std()
    assert 0 < difference < 0.3  # 4-bit rounding of random weights gives about 0.1
    assert model.generate(PROMPT, images=torch.zeros(1, 1, 3, 336, 336), max_new_tokens=3).shape[0] == 1


def test_an_unknown_quantization_is_refused(published):
    with pytest.raises(UsageError, match="quantization 'int3' is not known"):
        load_model(published, quantization="int3")
