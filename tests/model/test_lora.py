"""LoRA folders: names as published, opened exactly, merged, chained, in LLaVA's form too, and never running code."""

import copy
import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from senna.cli import main
from senna.errors import SennaError, UsageError
from senna.merge import compare, probe
from senna.model import load_model
from senna.model.loading import open_model
from senna.model.lora import add_lora, save_lora
from senna.model.parts import PEFT_PREFIX, is_adapter_weight
from tests.data.small_tokenizers import llama_folder
from tests.model.conftest import GOLDEN


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The published tiny checkpoint with a tokenizer, its tower beside it."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(GOLDEN / "clip_tiny", folder / "clip_tiny")
    llama_folder(folder / "base")
    for name in ("config.json", "model.safetensors"):
        shutil.copy(GOLDEN / "model_v320" / name, folder / "base")
    return folder / "base"


def train(base, folder, quantization=None, dtype=torch.float32, rank=8):
    """A LoRA folder on a base as a run leaves it, with weights as if trained; returns the model in memory."""
    torch.manual_seed(0)
    model, _ = open_model(str(base), quantization=quantization, dtype=dtype)
    add_lora(model, rank, 2 * rank, 0.05)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.02)
        elif is_adapter_weight(name):
            parameter.data += 0.01
    folder.mkdir()
    weights = {name: p.data for name, p in model.named_parameters() if "lora_" in name or is_adapter_weight(name)}
    save_lora(model, weights, folder, str(base))
    config = copy.deepcopy(model.config)
    config.base_quantization = quantization
    if quantization:
        del config.quantization_config
    config.save_pretrained(folder)
    return model


def difference(one, other) -> float:
    """The largest difference of two logits, as a share of their spread."""
    return float((one - other).abs().max() / one.std())


def test_names_are_those_of_the_published_lora_checkpoint(shared_golden, base, tmp_path):
    published = json.loads((shared_golden / "lora_names.json").read_text())
    model = train(base, tmp_path / "lora", rank=128)
    ours = {
        PEFT_PREFIX + name: list(p.shape)
        for name, p in model.named_parameters()
        if "lora_" in name or is_adapter_weight(name)
    }
    assert ours == dict(published["trainable"])
    for stem, key in (("adapter_model", "adapter_model_bin"), ("non_lora_trainables", "non_lora_trainables")):
        saved = load_file(tmp_path / "lora" / f"{stem}.safetensors")
        assert {name: list(tensor.shape) for name, tensor in saved.items()} == published[key]
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    same = ("r", "lora_alpha", "lora_dropout", "bias", "peft_type", "task_type", "fan_in_fan_out", "modules_to_save")
    assert {key: config[key] for key in same} == {key: published["adapter_config"][key] for key in same}


def test_the_tower_gets_no_lora_though_its_layers_have_like_names(base, tmp_path):
    model = train(base, tmp_path / "lora")
    places = {name.split(".lora_")[0] for name, _ in model.named_parameters() if "lora_" in name}
    assert len(places) == 3 * 7
    assert all(place.startswith("model.layers.") for place in places)


def test_new_lora_changes_nothing_before_it_is_trained(base):
    model, _ = open_model(str(base), dtype=torch.float32)
    before = probe(model)
    add_lora(model, 8, 16, 0.0)
    assert torch.equal(probe(model), before)


@pytest.mark.parametrize(("dtype", "merging"), [(torch.float32, 1e-4), (torch.bfloat16, 0.2)], ids=["fp32", "bf16"])
def test_a_folder_opens_exactly_as_it_was_trained_and_merged_to_rounding(base, tmp_path, dtype, merging):
    trained = probe(train(base, tmp_path / "lora", dtype=dtype))
    assert torch.equal(probe(open_model(str(tmp_path / "lora"), dtype=dtype, merge=False)[0]), trained)
    merged, new = open_model(str(tmp_path / "lora"), dtype=dtype)
    assert new == []
    assert not any("lora" in name for name, _ in merged.named_parameters())
    assert difference(trained, probe(merged)) < merging


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_what_was_trained_on_a_quantised_base_is_merged_with_the_weights_it_saw(base, tmp_path, quantization):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    folder = str(tmp_path / "lora")
    trained = probe(train(base, tmp_path / "lora", quantization, torch.bfloat16))
    assert torch.equal(
        probe(open_model(folder, quantization=quantization, dtype=torch.bfloat16, merge=False)[0]), trained
    )
    merged = difference(trained, probe(open_model(folder, dtype=torch.bfloat16)[0]))
    again, _ = open_model(folder, quantization=quantization, dtype=torch.bfloat16)
    assert again.is_quantized
    assert merged < 0.2  # rounding to bf16
    assert merged < difference(trained, probe(again)) < 4  # rounding to 4 bits again: random weights suffer most
    on_another_base = probe(open_model(str(base), dtype=torch.bfloat16)[0])
    assert difference(trained, on_another_base) > merged


def test_load_model_takes_a_lora_folder_and_says_when_its_base_is_gone(base, tmp_path):
    trained = probe(train(base, tmp_path / "lora"))
    model, tokenizer, _ = load_model(tmp_path / "lora", dtype=torch.float32)  # the tokenizer is its base's
    assert difference(trained, probe(model)) < 1e-4
    assert len(tokenizer) == 420
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "/gone/base"
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=r"its base /gone/base is not there.*--base of senna merge"):
        load_model(tmp_path / "lora")
    assert difference(trained, probe(load_model(tmp_path / "lora", base=str(base), dtype=torch.float32)[0])) < 1e-4
    shutil.copytree(base, tmp_path / "base")  # moved together: found beside the folder
    shutil.copytree(base.parent / "clip_tiny", tmp_path / "clip_tiny")
    assert difference(trained, probe(load_model(tmp_path / "lora", dtype=torch.float32)[0])) < 1e-4


def test_lora_on_a_lora_folder_has_all_of_both(base, tmp_path):
    first = train(base, tmp_path / "first")
    second = probe(train(tmp_path / "first", tmp_path / "second"))
    assert difference(second, probe(first)) > 0.1
    assert difference(second, probe(open_model(str(tmp_path / "second"), dtype=torch.float32)[0])) < 1e-4


def as_llava(folder):
    """Rewrite a folder of ours as the published code leaves one."""
    for stem in ("adapter_model", "non_lora_trainables"):
        torch.save(load_file(folder / f"{stem}.safetensors"), folder / f"{stem}.bin")
        (folder / f"{stem}.safetensors").unlink()
    config = json.loads((folder / "adapter_config.json").read_text())
    config["target_modules"] = ["q_proj", "v_proj", "k_proj", "up_proj", "gate_proj", "o_proj", "down_proj"]
    (folder / "adapter_config.json").write_text(json.dumps(config))


def test_a_folder_in_llavas_form_is_read(base, tmp_path):
    trained = probe(train(base, tmp_path / "lora"))
    as_llava(tmp_path / "lora")
    assert torch.equal(probe(open_model(str(tmp_path / "lora"), dtype=torch.float32, merge=False)[0]), trained)


class Malice:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (self.mark,)


@pytest.mark.parametrize("stem", ["adapter_model", "non_lora_trainables"])
def test_pickles_that_hold_code_are_refused_and_the_code_does_not_run(base, tmp_path, stem):
    train(base, tmp_path / "lora")
    as_llava(tmp_path / "lora")
    mark = tmp_path / "it ran"
    torch.save({"x": Malice(str(mark))}, tmp_path / "lora" / f"{stem}.bin")
    with pytest.raises(UsageError, match=rf"{stem}\.bin holds more than weights"):
        load_model(tmp_path / "lora")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("file", "names", "message"),
    [
        (
            "adapter_model",
            {"model.layers.9.self_attn.q_proj.lora_A.weight": (8, 64)},
            r"no layer model\.layers\.9\.self_attn",
        ),
        ("adapter_model", {"model.layers.0.self_attn.q_proj.lora_A.weight": (8, 65)}, "do not fit"),
        ("non_lora_trainables", {"model.mm_projector.0.weight": (3, 3)}, r"mm_projector\.0\.weight is \(3, 3\)"),
    ],
)
def test_a_folder_of_another_model_is_refused_with_the_weight(base, tmp_path, file, names, message):
    train(base, tmp_path / "lora")
    path = tmp_path / "lora" / f"{file}.safetensors"
    save_file({**load_file(path), **{PEFT_PREFIX + name: torch.zeros(shape) for name, shape in names.items()}}, path)
    with pytest.raises(UsageError, match=message):
        load_model(tmp_path / "lora")


def test_merge_writes_a_plain_folder_with_the_logits_of_the_lora_folder(base, tmp_path, capsys):
    trained = probe(train(base, tmp_path / "lora"))
    assert main(["merge", "--adapter", str(tmp_path / "lora"), "--out", str(tmp_path / "merged")]) == 0
    assert "likeliest tokens agree to 100%" in capsys.readouterr().out
    model, *_ = load_model(tmp_path / "merged")
    assert difference(trained, probe(model)) < 1e-4
    assert not list((tmp_path / "merged").glob("adapter*"))
    assert not (tmp_path / "merged" / ".saving").exists()
    assert main(["merge", "--adapter", str(tmp_path / "lora"), "--out", str(tmp_path / "merged")]) == 2
    assert "exists already" in capsys.readouterr().err


def test_merge_writes_nothing_where_the_logits_do_not_agree(base, tmp_path, monkeypatch, capsys):
    train(base, tmp_path / "lora")
    monkeypatch.setattr("senna.model.loading.merge_lora", lambda model: model.model.norm.weight.data.mul_(2))
    assert main(["merge", "--adapter", str(tmp_path / "lora"), "--out", str(tmp_path / "merged")]) == 1
    assert "the folder was not written" in capsys.readouterr().err
    assert not (tmp_path / "merged").exists()


def test_logits_that_are_not_numbers_never_agree():
    with pytest.raises(SennaError, match="not written"):
        compare(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, float("nan")]]), torch.float32)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--adapter", "BASE", "--out", "new"], "not a LoRA folder"),
        (["--out", "new"], "--adapter"),
        (["--adapter", "BASE", "--out", "new", "--bas", "x"], "--bas"),
    ],
)
def test_wrong_use_of_merge_is_told(base, tmp_path, capsys, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    assert main(["merge", *(str(base) if word == "BASE" else word for word in flags)]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
