"""The check that the batches of all workers fit in /dev/shm."""

import pytest

from senna.data import open_mixture
from senna.doctor import shared_memory
from senna.doctor.context import RunContext
from senna.doctor.dry_run import run_findings
from senna.doctor.findings import FAIL, OK, WARN, Finding
from senna.model import SennaConfig
from senna.synthetic.tiny.recipes import TowerRecipe
from senna.train.arguments import parse_arguments
from tests.helpers.paths import REPOSITORY

MB = 1 << 20
DOCKER = 64 * MB


def context(*flags: str, config: SennaConfig | None = None, **attributes) -> RunContext:
    args = parse_arguments(["--use_cpu", "True", "--dataloader_num_workers", "4", *flags])
    return RunContext(args, is_preflight=False, config=config or SennaConfig(vocab_size=32000), **attributes)


@pytest.fixture
def check(monkeypatch):
    """Return a function that returns the finding of a run, for free bytes of shared memory; None without one."""

    def check(run: RunContext, free: int | None) -> Finding | None:
        found = None if free is None else (DOCKER, free)
        monkeypatch.setattr(shared_memory, "free_shared_memory", lambda: found)
        return next(shared_memory.shared_memory(run), None)

    return check


def test_a_batch_has_one_byte_for_each_colour_of_a_pixel():
    caption = ["--version", "plain", "--per_device_train_batch_size", "32"]
    images = 32 * 3 * 336 * 336
    assert images < shared_memory.batch_bytes(context(*caption)) < 1.05 * images
    frame = ["--pack_frames", "True", "--per_device_train_batch_size", "2"]
    images = 2 * 6 * 3 * 336 * 336
    assert images < shared_memory.batch_bytes(context(*frame)) < 1.1 * images


def test_batches_that_do_not_fit_warn_or_fail_with_a_remedy(check):
    run = context("--per_device_train_batch_size", "2", "--dataloader_prefetch_factor", "3")
    each = shared_memory.batch_bytes(run)
    needed = 4 * 3 + 2  # read ahead, and those of the step and the next one, which are not copied to pinned memory
    assert check(run, needed * each).level == OK
    warning = check(run, needed * each - 1)
    assert warning.level == WARN
    assert f"needed for {needed} batches" in warning.message
    assert "--shm-size=8g" in warning.remedy
    assert "--ipc=host" in warning.remedy
    assert "--dataloader_num_workers 3" in warning.remedy
    assert check(run, 4 * each).level == WARN
    failure = check(run, 4 * each - 1)
    assert failure.level == FAIL
    assert "--dataloader_num_workers 1" in failure.remedy


def test_processes_and_accumulated_batches_are_counted(check):
    run = context("--gradient_accumulation_steps", "8", local_processes=2)
    assert "needed for 34 batches" in check(run, DOCKER).message  # 2 x (4 workers x 2 + 9)


def test_runs_that_use_no_shared_memory_of_this_machine_are_not_checked(check):
    assert check(context(), 0).level == FAIL
    assert check(context("--dataloader_num_workers", "0"), 0) is None
    assert check(context(), None) is None
    assert check(context(is_remote_gpu=True), 0) is None


@pytest.mark.parametrize("stage", ["stage1_pretrain", "stage2_driving", "stage3_planning"])
def test_the_quickstart_runs_with_the_shared_memory_of_a_container(check, toy, stage):
    files = [REPOSITORY / "configs" / f"{stage}.yaml", REPOSITORY / "configs" / "presets" / f"tiny_{stage}.yaml"]
    args = parse_arguments([word for file in files for word in ("--config", str(file))])
    side = TowerRecipe().image_size
    vision = {"image_size": side, "patch_size": 14, "hidden_size": 60, "num_attention_heads": 4}
    config = SennaConfig(vision_config=vision, mm_adapter_tokens=16)
    records = open_mixture(str(toy.data if stage == "stage1_pretrain" else toy.driving))  # one image each, or six
    assert check(RunContext(args, is_preflight=True, config=config, records=records), DOCKER).level == OK


def test_doctor_and_the_checks_before_training_make_the_check(toy, tmp_path, monkeypatch, refusal):
    monkeypatch.setattr(shared_memory, "free_shared_memory", lambda: (DOCKER, 4096))
    flags = toy.flags(tmp_path / "out", dataloader_num_workers=2)
    levels = {finding.topic: finding.level for finding in run_findings(flags) if isinstance(finding, Finding)}
    assert levels["shared memory"] == FAIL
    assert "not even one batch of each worker fits" in refusal(dataloader_num_workers=2)
