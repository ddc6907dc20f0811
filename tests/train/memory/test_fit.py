"""From a run's arguments to a verdict, and to settings that fit."""

from pathlib import Path

import pytest

from senna.doctor.dry_run import parse
from senna.doctor.findings import FAIL, OK, WARN
from senna.doctor.verdict import memory_findings
from senna.model.config import SennaConfig
from senna.train.memory.estimate import estimate
from senna.train.memory.fit import ERROR, choices, setup_of
from senna.train.memory.model_shape import ModelShape
from tests.conftest import REPOSITORY

GIB = 2**30
CONFIG = SennaConfig(
    hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=32,
    vocab_size=32000, tie_word_embeddings=False,
)  # fmt: skip
SEVEN = ModelShape.of(CONFIG)


def arguments(*files: str, **changes):
    words = [word for name in files for word in ("--config", str(REPOSITORY / "configs" / name))]
    words += [word for name, value in changes.items() for word in (f"--{name}", str(value))]
    problems: list = []
    args = parse([*words, "--output_dir", "out"], problems)
    assert not problems
    return args


def judged(args, card: float | None, gpus: int = 1):
    return memory_findings(args, CONFIG, None if card is None else int(card * GIB), gpus)


@pytest.mark.parametrize(
    ("files", "card", "gpus", "level"),
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
def test_the_recipes_are_judged_by_the_card(files, card, gpus, level):
    [finding, *_], _ = judged(arguments(*files), card, gpus)
    assert finding.level == level, finding
    assert bool(finding.remedy) == (level != OK)


@pytest.mark.parametrize(
    ("files", "card", "gpus"),
    [
        (["stage1_pretrain.yaml"], 16.5, 1),
        (["stage2_driving.yaml"], 24, 1),
        (["stage2_driving.yaml"], 80, 2),
        (["stage3_planning.yaml", "lora.yaml"], 24, 1),
        (["stage3_planning.yaml", "qlora.yaml"], 12, 1),
        (["stage2_driving.yaml", "qlora.yaml"], 11, 1),
    ],
)
def test_what_is_advised_fits_with_the_errors_margin_and_keeps_the_global_batch(files, card, gpus):
    args = arguments(*files)
    found = choices(args, SEVEN, card * GIB, gpus)
    assert found
    for choice in found:
        assert choice.estimate.total * (1 + ERROR) <= card * GIB
        assert choice.rows * choice.accumulation == args.per_device_train_batch_size * args.gradient_accumulation_steps
    scripts = {word for choice in found for word in choice.flags.split() if "/" in word}
    for script in scripts:
        assert Path(REPOSITORY / script.rpartition("=")[2]).is_file(), script


def test_advice_for_the_command_line_is_what_was_estimated():
    """The flags, given to the same files, make the run whose estimate stands beside them."""
    files = ["stage3_planning.yaml", "lora.yaml"]
    [choice, *_] = choices(arguments(*files), SEVEN, 24 * GIB, 1)
    words = choice.flags.split()
    again = arguments(
        *files, **{flag.removeprefix("--"): value for flag, value in zip(words[::2], words[1::2], strict=True)}
    )
    assert estimate(SEVEN, setup_of(again, SEVEN)) == choice.estimate


def test_gradient_checkpointing_is_advised_where_it_was_off():
    args = arguments("stage2_driving.yaml", "lora.yaml", gradient_checkpointing=False)
    [finding], _ = judged(args, 32)
    assert finding.level == FAIL
    assert "--gradient_checkpointing True" in finding.remedy


def test_offloading_says_what_it_takes_of_main_memory():
    zero = REPOSITORY / "configs/deepspeed/zero3_offload.json"
    findings, _ = judged(arguments("stage2_driving.yaml", deepspeed=zero), 24)
    assert [finding.level for finding in findings] == [OK, OK]
    assert "113" in findings[1].says  # GiB: 16 bytes of 6,760 million trained weights, 2 of all that is frozen or not


def test_the_chart_adds_up_and_names_the_card():
    args = arguments("stage2_driving.yaml", "qlora.yaml")
    _, chart = judged(args, 24)
    needed = estimate(SEVEN, setup_of(args, SEVEN))
    assert f"in all{needed.total / GIB:>30.1f} GiB"[-9:] in chart
    assert "of 24.0 GiB" in chart
    assert all(part in chart for part in needed.parts)
    assert max(chart.splitlines(), key=lambda line: line.count("█")).split()[0] == "weights"


def test_without_a_card_it_says_what_is_needed():
    [finding], chart = judged(arguments("stage2_driving.yaml", "qlora.yaml"), None)
    assert finding.level == OK
    assert "GiB of each card" in finding.says
    assert "fits" not in chart
