"""The memory finding for a run's arguments, and the settings that it recommends."""

from pathlib import Path

import pytest

from senna.doctor.dry_run import parse
from senna.doctor.findings import FAIL, OK, WARN
from senna.doctor.verdict import memory_findings
from senna.model.config import SennaConfig
from senna.train.memory.estimate import estimate
from senna.train.memory.fit import RELATIVE_ERROR, choices, training_setup
from senna.train.memory.model_shape import ModelShape
from tests.helpers.paths import REPOSITORY

GIB = 2**30
CONFIG = SennaConfig(
    hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=32,
    vocab_size=32000, tie_word_embeddings=False,
)  # fmt: skip
SENNA_7B = ModelShape.from_config(CONFIG)


def arguments(*files: str, **changes):
    words = [word for name in files for word in ("--config", str(REPOSITORY / "configs" / name))]
    words += [word for name, value in changes.items() for word in (f"--{name}", str(value))]
    args, problems = parse([*words, "--output_dir", "out"])
    assert not problems
    return args


def check_memory(args, gib: float | None, gpus: int = 1):
    return memory_findings(args, CONFIG, None if gib is None else int(gib * GIB), gpus)


@pytest.mark.parametrize(
    ("files", "gib", "gpus", "level"),
    [
        (["stage1_pretrain.yaml"], 24, 1, OK),
        (["stage2_driving.yaml"], 24, 1, FAIL),
        (["stage2_driving.yaml"], 80, 1, FAIL),
        (["stage2_driving.yaml"], 40, 8, OK),
        (["stage2_driving.yaml", "lora.yaml"], 23.6, 1, WARN),
        (["stage2_driving.yaml", "lora.yaml"], 32, 1, OK),
        (["stage2_driving.yaml", "qlora.yaml"], 24, 1, OK),
        (["stage2_driving.yaml", "qlora.yaml"], 8, 1, FAIL),
        (["stage3_planning.yaml", "qlora.yaml"], 16, 1, OK),
    ],
)
def test_recipes_pass_or_fail_by_the_memory_of_the_gpu(files, gib, gpus, level):
    [finding, *_], _ = check_memory(arguments(*files), gib, gpus)
    assert finding.level == level, finding
    assert bool(finding.remedy) == (level != OK)


@pytest.mark.parametrize(
    ("files", "gib", "gpus"),
    [
        (["stage1_pretrain.yaml"], 16.5, 1),
        (["stage2_driving.yaml"], 24, 1),
        (["stage2_driving.yaml"], 80, 2),
        (["stage3_planning.yaml", "lora.yaml"], 24, 1),
        (["stage3_planning.yaml", "qlora.yaml"], 12, 1),
        (["stage2_driving.yaml", "qlora.yaml"], 11, 1),
    ],
)
def test_recommended_settings_fit_with_the_margin_of_error_and_keep_the_global_batch(files, gib, gpus):
    args = arguments(*files)
    found = choices(args, SENNA_7B, gib * GIB, gpus)
    assert found
    for choice in found:
        assert choice.estimate.total * (1 + RELATIVE_ERROR) <= gib * GIB
        assert choice.rows * choice.accumulation * gpus == args.batch.global_batch
        assert "accumulation" not in choice.flags
    scripts = {word for choice in found for word in choice.flags.split() if "/" in word}
    for script in scripts:
        assert Path(REPOSITORY / script.rpartition("=")[2]).is_file(), script


def test_recommended_flags_give_the_run_that_was_estimated():
    files = ["stage3_planning.yaml", "lora.yaml"]
    [choice, *_] = choices(arguments(*files), SENNA_7B, 24 * GIB, 1)
    words = choice.flags.split()
    again = arguments(
        *files, **{flag.removeprefix("--"): value for flag, value in zip(words[::2], words[1::2], strict=True)}
    )
    assert estimate(SENNA_7B, training_setup(again, SENNA_7B)) == choice.estimate


def test_gradient_checkpointing_is_recommended_if_it_is_off():
    args = arguments("stage2_driving.yaml", "lora.yaml", gradient_checkpointing=False)
    [finding], _ = check_memory(args, 32)
    assert finding.level == FAIL
    assert "--gradient_checkpointing True" in finding.remedy


def test_training_without_gradient_checkpointing_is_advised_where_the_memory_allows_it():
    full = arguments("stage2_driving.yaml")
    fits, fits_not = (choices(full, SENNA_7B, gib * GIB, 8) for gib in (78.7, 40))
    assert [choice.flags for choice in fits][-1] == "--gradient_checkpointing False"
    assert fits[-1].estimate.total > fits[0].estimate.total
    assert not any("checkpointing" in choice.flags for choice in fits_not)
    assert "--gradient_checkpointing False" in check_memory(full, 78.7, 8)[1]


def test_offloading_reports_the_main_memory_that_it_needs():
    zero = REPOSITORY / "configs/deepspeed/zero3_offload.json"
    findings, _ = check_memory(arguments("stage2_driving.yaml", deepspeed=zero), 24)
    assert [finding.level for finding in findings] == [OK, OK]
    # 16 bytes for each of 6,760 million trained weights, 2 bytes for each of all 7,042 million weights but the adapters
    assert "113.8 GiB" in findings[1].message


def test_the_chart_shows_every_part_the_total_and_the_memory_of_the_gpu():
    args = arguments("stage2_driving.yaml", "qlora.yaml")
    _, chart = check_memory(args, 24)
    needed = estimate(SENNA_7B, training_setup(args, SENNA_7B))
    assert f"{needed.total / GIB:.1f} GiB  of 24.0 GiB" in chart
    assert all(part in chart for part in needed.parts)
    assert max(chart.splitlines(), key=lambda line: line.count("█")).split()[0] == "weights"


def test_without_a_known_gpu_only_the_needed_memory_is_reported():
    [finding], chart = check_memory(arguments("stage2_driving.yaml", "qlora.yaml"), None)
    assert finding.level == OK
    assert "GiB of each GPU" in finding.message
    assert "fit" not in chart
