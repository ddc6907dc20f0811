"""LoRA folders have the published names, open exactly, merge, chain, are read in LLaVA's form too, and never run code."""

import copy
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from senna.cli import main
from senna.errors import SennaError, UsageError
from senna.merge import compare, probe
from senna.model import SennaLlavaLlamaForCausalLM, load_model
from senna.model.loading import open_model
from senna.model.lora import add_lora, leave_casts_to_autocast, save_lora
from senna.model.parts import PEFT_PREFIX, is_adapter_weight
from tests.helpers.checkpoints import MakesFolder, write_checkpoint

ADAPTER_CONFIG_KEYS = (
    "r", "lora_alpha", "lora_dropout", "bias", "peft_type", "task_type", "fan_in_fan_out", "modules_to_save",
)  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Return the published tiny checkpoint with a tokenizer; its vision tower is in the same parent folder."""
    return write_checkpoint(tmp_path_factory.mktemp("models"), "base")


def train(base, folder, quantization=None, dtype=torch.float32, rank=8):
    """Write a LoRA folder as a run does, with made-up trained weights. Return the model in memory."""
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


def difference(logits, other) -> float:
    """Return the largest difference of two logits, as a share of their standard deviation."""
    return float((logits - other).abs().max() / logits.std())


def trainable_shapes(model) -> dict[str, list[int]]:
    """Return names, with PEFT's prefix, and shapes of the parameters that a LoRA run trains."""
    return {
        PEFT_PREFIX + name: list(parameter.shape)
        for name, parameter in model.named_parameters()
        if "lora_" in name or is_adapter_weight(name)
    }


def saved_shapes(folder, stem) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in load_file(folder / f"{stem}.safetensors").items()}


def expected_lora_shapes(adapter_name: str, rank: int = 128) -> dict[str, list[int]]:
    """Return PEFT's names and shapes of LoRA on the 3 layers of the tiny model: width 64, MLP width 160."""
    linears = {f"self_attn.{letter}_proj": (64, 64) for letter in "qkvo"}
    linears |= {"mlp.gate_proj": (160, 64), "mlp.up_proj": (160, 64), "mlp.down_proj": (64, 160)}  # (out, in)
    shapes = {}
    for layer in range(3):
        for linear, (width_out, width_in) in linears.items():
            stem = f"base_model.model.model.layers.{layer}.{linear}"
            shapes[f"{stem}.lora_A{adapter_name}.weight"] = [rank, width_in]
            shapes[f"{stem}.lora_B{adapter_name}.weight"] = [width_out, rank]
    return shapes


def expected_adapter_shapes() -> dict[str, list[int]]:
    """Return LLaVA's names and the shapes of projector (tower width 32) and adapter (576 patches, 128 tokens)."""
    shapes = {}
    for layer, (width_out, width_in) in {0: (64, 32), 2: (64, 64)}.items():
        stem = f"base_model.model.model.mm_projector.{layer}"
        shapes |= {f"{stem}.weight": [width_out, width_in], f"{stem}.bias": [width_out]}
    for layer, tokens_in in {0: 576, 2: 128, 4: 128}.items():
        stem = f"base_model.model.model.img_adapter.adapter.{layer}"
        shapes |= {f"{stem}.weight": [128, tokens_in], f"{stem}.bias": [128]}
    return shapes


def test_names_and_shapes_are_those_of_peft_and_llava(base, tmp_path):
    # The published code, run on this model, has the same names, shapes and configuration.
    model = train(base, tmp_path / "lora", rank=128)
    assert trainable_shapes(model) == {**expected_lora_shapes(".default"), **expected_adapter_shapes()}
    assert saved_shapes(tmp_path / "lora", "adapter_model") == expected_lora_shapes("")
    assert saved_shapes(tmp_path / "lora", "non_lora_trainables") == expected_adapter_shapes()
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    published = (128, 256, 0.05, "none", "LORA", "CAUSAL_LM", False, None)
    assert tuple(config[key] for key in ADAPTER_CONFIG_KEYS) == published


def test_the_vision_tower_gets_no_lora_though_its_layers_have_similar_names(base, tmp_path):
    model = train(base, tmp_path / "lora")
    modules = {name.split(".lora_")[0] for name, _ in model.named_parameters() if "lora_" in name}
    assert len(modules) == 3 * 7
    assert all(module.startswith("model.layers.") for module in modules)


def test_new_lora_does_not_change_the_output(base):
    model, _ = open_model(str(base), dtype=torch.float32)
    before = probe(model)
    add_lora(model, 8, 16, 0.0)
    assert torch.equal(probe(model), before)


def lora_step(base, dtype, quantization=None, dropout=0.0):
    """Return a model with LoRA in fp32, and a function that returns its loss, gradients and the bytes saved for them."""
    torch.manual_seed(0)
    model, _ = open_model(str(base), quantization=quantization, dtype=dtype)
    add_lora(model, 8, 16, dropout)
    trained = [parameter for name, parameter in model.named_parameters() if "lora_" in name]
    for parameter in trained:
        parameter.data = torch.randn_like(parameter, dtype=torch.float32) * 0.02
    ids = torch.arange(5, 35)[None]

    def step():
        saved = {}

        def note(tensor):
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        torch.manual_seed(0)
        with (
            torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16),
        ):
            loss = model.train()(ids, labels=ids).loss
        return [loss, *torch.autograd.grad(loss, trained)], sum(saved.values())

    return model, step


@pytest.mark.parametrize(
    ("dtype", "quantization"),
    [(torch.float32, None), (torch.bfloat16, None), (torch.bfloat16, "nf4")],
    ids=["fp32", "bf16", "nf4"],
)
def test_without_pefts_cast_to_fp32_loss_and_gradients_have_the_same_bits(base, dtype, quantization):
    if quantization:
        pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    model, step = lora_step(base, dtype, quantization)
    before, saved_before = step()
    leave_casts_to_autocast(model)
    after, saved_after = step()
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))
    if dtype == torch.bfloat16 and not quantization:  # PEFT's quantized layers leave casts to autocast too
        assert saved_after < saved_before


def test_without_pefts_cast_to_fp32_the_inputs_of_lora_have_half_the_bytes(base):
    model, step = lora_step(base, torch.bfloat16, dropout=0.05)
    inputs = []
    model.model.layers[0].mlp.down_proj.lora_dropout["default"].register_forward_pre_hook(
        lambda module, arguments: inputs.append(arguments[0].dtype)
    )
    _, saved_before = step()
    leave_casts_to_autocast(model)
    _, saved_after = step()
    assert inputs == [torch.float32, torch.bfloat16]
    assert saved_after < saved_before


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.2)], ids=["fp32", "bf16"])
def test_an_unmerged_folder_opens_exactly_and_a_merged_one_to_rounding(base, tmp_path, dtype, tolerance):
    trained = probe(train(base, tmp_path / "lora", dtype=dtype))
    assert torch.equal(probe(open_model(str(tmp_path / "lora"), dtype=dtype, merge=False)[0]), trained)
    merged, new = open_model(str(tmp_path / "lora"), dtype=dtype)
    assert new == []
    assert not any("lora" in name for name, _ in merged.named_parameters())
    assert difference(trained, probe(merged)) < tolerance


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_lora_trained_on_a_quantized_base_is_merged_with_the_rounded_weights(base, tmp_path, quantization):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    folder = str(tmp_path / "lora")
    trained = probe(train(base, tmp_path / "lora", quantization, torch.bfloat16))
    assert torch.equal(
        probe(open_model(folder, quantization=quantization, dtype=torch.bfloat16, merge=False)[0]), trained
    )
    merged = difference(trained, probe(open_model(folder, dtype=torch.bfloat16)[0]))
    quantized_again, _ = open_model(folder, quantization=quantization, dtype=torch.bfloat16)
    assert quantized_again.is_quantized
    assert merged < 0.2  # rounding to bf16
    assert merged < difference(trained, probe(quantized_again)) < 4  # second rounding of random weights: the worst case
    without_lora = probe(open_model(str(base), dtype=torch.bfloat16)[0])
    assert difference(trained, without_lora) > merged


@pytest.fixture
def loads(monkeypatch):
    """The devices that models are loaded to. Loads to a GPU, which this machine may not have, go to the CPU instead."""
    devices = []
    load = SennaLlavaLlamaForCausalLM.from_pretrained.__func__

    def record(cls, *arguments, device_map=None, **options):
        devices.append(str(device_map[""]) if device_map else "cpu")
        return load(cls, *arguments, device_map=device_map and {"": "cpu"}, **options)

    monkeypatch.setattr(SennaLlavaLlamaForCausalLM, "from_pretrained", classmethod(record))
    return devices


@pytest.mark.parametrize("merge", [True, False], ids=["merged", "separate"])
def test_qlora_on_qlora_is_merged_on_the_cpu_and_only_the_quantized_model_reaches_the_gpu(base, tmp_path, loads, merge):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    train(base, tmp_path / "first", "nf4", torch.bfloat16)
    train(tmp_path / "first", tmp_path / "second", "nf4", torch.bfloat16)
    loads.clear()
    options = {"quantization": "nf4", "dtype": torch.bfloat16, "merge": merge}
    model, _ = open_model(str(tmp_path / "second"), device="cuda", **options)
    # Loaded: the base, the base with the first LoRA, and if that is merged too, the result of both.
    assert loads == (["cpu", "cpu", "cuda"] if merge else ["cpu", "cuda"])
    expected = probe(open_model(str(tmp_path / "second"), device="cpu", **options)[0])
    assert torch.equal(probe(model), expected)


def test_load_model_opens_a_lora_folder_and_names_a_missing_base(base, tmp_path):
    trained = probe(train(base, tmp_path / "lora"))
    model, tokenizer, _ = load_model(tmp_path / "lora", dtype=torch.float32)  # with the tokenizer of the base
    assert difference(trained, probe(model)) < 1e-4
    assert len(tokenizer) == 420
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "/gone/base"
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="its base /gone/base is not there") as error:
        load_model(tmp_path / "lora")
    assert "--base of senna merge" in error.value.remedy
    assert difference(trained, probe(load_model(tmp_path / "lora", base=str(base), dtype=torch.float32)[0])) < 1e-4
    shutil.copytree(base, tmp_path / "base")  # moved together with the LoRA folder: found in the same parent folder
    shutil.copytree(base.parent / "clip_tiny", tmp_path / "clip_tiny")
    assert difference(trained, probe(load_model(tmp_path / "lora", dtype=torch.float32)[0])) < 1e-4


def test_lora_trained_on_a_lora_folder_includes_the_weights_of_both(base, tmp_path):
    first = train(base, tmp_path / "first")
    second = probe(train(tmp_path / "first", tmp_path / "second"))
    assert difference(second, probe(first)) > 0.1
    assert difference(second, probe(open_model(str(tmp_path / "second"), dtype=torch.float32)[0])) < 1e-4


def convert_to_llava(folder):
    """Rewrite a LoRA folder in the form of the published code."""
    for stem in ("adapter_model", "non_lora_trainables"):
        torch.save(load_file(folder / f"{stem}.safetensors"), folder / f"{stem}.bin")
        (folder / f"{stem}.safetensors").unlink()
    config = json.loads((folder / "adapter_config.json").read_text())
    config["target_modules"] = ["q_proj", "v_proj", "k_proj", "up_proj", "gate_proj", "o_proj", "down_proj"]
    (folder / "adapter_config.json").write_text(json.dumps(config))


def test_a_lora_folder_in_llavas_form_opens_exactly(base, tmp_path):
    trained = probe(train(base, tmp_path / "lora"))
    convert_to_llava(tmp_path / "lora")
    assert torch.equal(probe(open_model(str(tmp_path / "lora"), dtype=torch.float32, merge=False)[0]), trained)


@pytest.mark.parametrize("stem", ["adapter_model", "non_lora_trainables"])
def test_code_in_pickled_lora_files_is_refused_and_does_not_run(base, tmp_path, stem):
    train(base, tmp_path / "lora")
    convert_to_llava(tmp_path / "lora")
    made = tmp_path / "made by the pickle"
    torch.save({"x": MakesFolder(made)}, tmp_path / "lora" / f"{stem}.bin")
    with pytest.raises(UsageError, match=rf"{stem}\.bin holds more than weights"):
        load_model(tmp_path / "lora")
    assert not made.exists()


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
def test_lora_weights_of_another_model_are_refused_and_named(base, tmp_path, file, names, message):
    train(base, tmp_path / "lora")
    path = tmp_path / "lora" / f"{file}.safetensors"
    save_file({**load_file(path), **{PEFT_PREFIX + name: torch.zeros(shape) for name, shape in names.items()}}, path)
    with pytest.raises(UsageError, match=message):
        load_model(tmp_path / "lora")


@pytest.mark.parametrize("flags", [[], ["--serve"]], ids=["", "for servers"])
def test_merge_writes_a_plain_folder_with_the_same_logits_and_refuses_to_overwrite_it(base, tmp_path, capsys, flags):
    trained = probe(train(base, tmp_path / "lora"))
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "nohup.out").write_text("a log")
    assert main(["merge", "--adapter", str(tmp_path / "lora"), "--out", str(tmp_path / "merged"), *flags]) == 0
    assert "likeliest tokens agree to 100%" in capsys.readouterr().out
    model, tokenizer, _ = load_model(tmp_path / "merged")
    assert ("<image>" in tokenizer.get_vocab(), bool(tokenizer.chat_template)) == (bool(flags), bool(flags))
    assert difference(trained, probe(model)) < 1e-4
    assert not list((tmp_path / "merged").glob("adapter*"))
    assert not (tmp_path / "merged" / ".saving").exists()
    assert main(["merge", "--adapter", str(tmp_path / "lora"), "--out", str(tmp_path / "merged")]) == 2
    assert "exists already" in capsys.readouterr().err


def test_merge_writes_nothing_if_the_logits_differ(base, tmp_path, monkeypatch, capsys):
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
def test_wrong_flags_of_merge_are_reported_and_nothing_is_written(base, tmp_path, capsys, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    assert main(["merge", *(str(base) if word == "BASE" else word for word in flags)]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
