"""`senna train --print` shows the values that the run gets, and starts nothing."""

import os
import re
from dataclasses import fields
from pathlib import Path

import pytest

from senna.cli import main
from senna.launch.command import prepare
from senna.train.arguments import parse_arguments
from senna.train.deepspeed import read_deepspeed
from senna.train.explain import format_value
from senna.train.field_groups import OWN_FIELDS
from senna.train.fields import TrainArguments
from tests.helpers.paths import REPOSITORY
from tests.test_ranks import RANK_1

CONFIGS = REPOSITORY / "configs"
STAGES = ["stage1_pretrain", "stage2_driving", "stage3_planning"]
COMBINATIONS = [[stage] for stage in STAGES] + [[stage, method] for stage in STAGES[1:] for method in ("lora", "qlora")]
COMBINATIONS += [[*files, f"presets/tiny_{files[0]}"] for files in COMBINATIONS]
"""The files that the four training scripts read, without and with PRESET=tiny."""


def printed(argv: list[str], capsys) -> str:
    with pytest.raises(SystemExit) as ending:
        main(["train", *argv, "--print"])
    assert ending.value.code == 0
    return capsys.readouterr().out


def rows(text: str) -> dict[str, tuple[str, str]]:
    """Return (value, source) of each field that has its own line."""
    lines = [re.fullmatch(r"  (\w+) {2,}(.*?) {2,}(\S.*)", line) for line in text.splitlines()]
    return {line[1]: (line[2], line[3]) for line in lines if line}


def config_flags(*files: str | Path) -> list[str]:
    return [word for name in files for word in ("--config", str(name))]


@pytest.mark.parametrize("files", COMBINATIONS, ids="+".join)
def test_every_field_has_the_value_that_the_run_gets(files, capsys):
    argv = config_flags(*(CONFIGS / f"{name}.yaml" for name in files))
    argv += ["--use_cpu", "True", "--tf32", "True", "--report_to", "none", "--max_steps", "7", "--save_steps", "0.5"]
    args, text = parse_arguments(argv), printed(argv, capsys)
    values, everything = rows(text), " ".join(text.split())
    assert set(OWN_FIELDS) <= set(values)
    args.start()
    args.accelerator_config.use_configured_state = False  # starting removes it from accelerator_config
    for field in fields(TrainArguments):
        if field.init and field.name in values:
            assert values[field.name][0] == format_value(getattr(args, field.name)), field.name
        elif field.init:
            assert f" {field.name} {format_value(getattr(args, field.name))}" in everything, field.name


def test_each_source_is_shown_with_the_settings_that_it_overrides(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text("# two values\nlearning_rate: 1e-4\nseed: 1\nweight_decay: 0.5\n")
    Path("b.yaml").write_text("seed: 2\nwarmup_ratio: 0.5\n\nmodel_max_length: 77\noutput_dir: one\n")
    flags = ["--seed=3", "--evaluation_strategy", "no", "--output_dir", "~/two", "--hub_token", "secret"]
    text = printed([*config_flags("a.yaml", tmp_path / "b.yaml"), *flags, "--no_average_tokens_across_devices"], capsys)
    assert "Read in this order: a.yaml, b.yaml, command line" in text
    assert "secret" not in text
    found = rows(text)
    expected = {
        "learning_rate": ("0.0001", "a.yaml:2"),
        "seed": ("3", "command line (2 in b.yaml:1, 1 in a.yaml:3)"),
        "weight_decay": ("0.5", "a.yaml:4"),
        "warmup_steps": ("0.5", "b.yaml:2 (warmup_ratio)"),
        "model_max_length": ("77", "b.yaml:4"),
        "eval_strategy": ("no", "command line (--evaluation_strategy)"),
        "output_dir": (os.path.expanduser("~/two"), "command line (given as ~/two, one in b.yaml:5)"),
        "average_tokens_across_devices": ("False", "command line"),
        "hub_token": ("(hidden)", "command line"),
        "lora_r": ("128", "default"),
        "stage": ("not set", "default"),
    }
    assert {name: found[name] for name in expected} == expected


def test_a_value_that_another_field_changes_is_marked(capsys):
    found = rows(printed(["--use_cpu", "True", "--gradient_checkpointing", "True"], capsys))
    assert found["dataloader_pin_memory"] == ("False", "follows from other fields")
    assert found["gradient_checkpointing"] == ("True", "command line")


def test_neither_a_gpu_nor_deepspeed_is_needed(capsys):
    before, file = dict(os.environ), CONFIGS / "deepspeed" / "zero3.json"
    argv = [*config_flags(CONFIGS / "stage2_driving.yaml"), "--deepspeed", str(file)]
    found = rows(printed(argv, capsys))
    assert found["deepspeed"][0].endswith("configs/deepspeed/zero3.json")
    assert found["bf16"][0] == "True"
    assert found["use_cpu"] == ("False", "default")
    assert dict(os.environ) == before
    assert TrainArguments(deepspeed=str(file)).deepspeed == read_deepspeed(str(file))


def test_only_the_main_process_prints(capsys, monkeypatch):
    for name, value in RANK_1.items():
        monkeypatch.setenv(name, value)
    assert printed([], capsys) == ""


def test_values_that_exclude_each_other_are_refused(capsys):
    assert main(["train", "--bits", "4", "--print"]) == 2
    assert "add --lora_enable True" in capsys.readouterr().err


@pytest.mark.parametrize("environment", [{"PRESET": "tiny"}, {"NUM_GPUS": "8"}], ids=str)
def test_a_recipe_prints_without_a_gpu_or_a_model_and_writes_nothing(tmp_path, monkeypatch, capsys, environment):
    monkeypatch.chdir(tmp_path)
    given = {"CUDA_VISIBLE_DEVICES": "", "SENNA_EMBEDDED": str(tmp_path / "embedded"), **environment}
    words = prepare("pretrain", ["--print", "--output_dir", "mine"], given).words
    assert words[1:4] == ["-m", "senna", "train"]
    found = rows(printed([word for word in words[4:] if word != "--print"], capsys))
    assert list(tmp_path.iterdir()) == []
    assert found["output_dir"][0] == "mine"  # a flag overrides the value of the script
    if "PRESET" in environment:
        assert found["model_name_or_path"][0] == str(tmp_path / "embedded" / "llm")
        assert found["mm_adapter_tokens"][0] == "16"
    else:
        assert found["model_name_or_path"] == ("not set", "default")
        assert found["deepspeed"][0].endswith("zero2.json")
