"""Checks of disk space and main memory."""

import shutil
import subprocess
from collections import namedtuple
from pathlib import Path

import pytest

from senna.doctor import disk
from senna.doctor.context import RunContext
from senna.model import SennaConfig
from senna.train.arguments import parse_arguments
from tests.helpers.findings import only_failure

CPU = ["--use_cpu", "True"]
Usage = namedtuple("Usage", "total used free")


def context(tmp_path, *flags, **attributes) -> RunContext:
    args = parse_arguments(["--output_dir", str(tmp_path / "out"), "--bf16", "True", *CPU, *flags])
    return RunContext(args, is_preflight=False, config=SennaConfig(vocab_size=32000), **attributes)


def test_trained_and_stored_weights_are_counted_for_each_method(tmp_path):
    def counts(*flags):
        run = context(tmp_path, *flags)
        return disk.weight_counts(run.args, run.config)

    llm, adapters = 6_738_415_616, 20_979_712 + 106_880  # Vicuna-7B; projector (two linear layers) and adapter (three)
    lora = 128 * 32 * (4 * (4096 + 4096) + 3 * (4096 + 11008))
    assert counts() == (llm + adapters, 7_063_009_664)
    assert counts("--tune_mm_mlp_adapter", "True") == (adapters, 7_063_009_664)
    assert counts("--lora_enable", "True") == (lora + adapters, lora + adapters)


def set_free_space(monkeypatch, count: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 10**12 - count, count))


def test_one_free_gigabyte_is_too_little_for_a_7b_model(tmp_path, monkeypatch):
    set_free_space(monkeypatch, 10**9)
    [found] = disk.disk(context(tmp_path))
    assert found.level == "fail"
    # two checkpoints with 12 bytes per trained weight, and 7.06 billion weights in bf16
    assert "1.0 GB free" in found.message
    assert "176.4 GB needed (2 checkpoints of 81.1 GB and the final model of 14.1 GB)" in found.message
    assert "--output_dir" in found.remedy


def test_a_continued_run_needs_space_for_one_more_checkpoint_only(tmp_path, monkeypatch):
    (tmp_path / "out" / "checkpoint-200").mkdir(parents=True)
    set_free_space(monkeypatch, 96 * 10**9)
    [found] = disk.disk(context(tmp_path))
    assert found.level == "ok"


def test_the_best_checkpoint_needs_space_beside_the_newest(tmp_path, monkeypatch):
    set_free_space(monkeypatch, 10**9)
    best = context(tmp_path, "--eval_data_path", "val.jsonl", "--metric_for_best_model", "eval_loss")
    [found] = disk.disk(best)
    assert "(3 checkpoints of 81.1 GB" in found.message
    for step, left in ((200, "2 checkpoints"), (400, "1 checkpoint"), (600, "1 checkpoint")):
        (tmp_path / "out" / f"checkpoint-{step}").mkdir(parents=True)
        [found] = disk.disk(best)
        assert f"({left} of 81.1 GB" in found.message


def test_training_refuses_too_little_disk_space(check_run, refusal, monkeypatch):
    set_free_space(monkeypatch, 10**5)
    assert "100 kB free" in only_failure(check_run(), "disk").message
    assert "set --output_dir DIR (OUT_DIR) to another disk" in refusal()


def test_training_writes_nothing_to_a_full_disk(tmp_path, refusal):
    small = tmp_path / "disk"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        assert disk.file_system(small) == "tmpfs"
        assert "needed (2 checkpoints" in refusal(output_dir=small / "out")
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", small], check=True)


def test_an_output_folder_in_main_memory_gives_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "file_system", lambda folder: "tmpfs")
    set_free_space(monkeypatch, 10**12)
    [found] = disk.disk(context(tmp_path))
    assert found.level == "warn"
    assert "lost at a restart" in found.message


def test_main_memory_for_loading_grows_with_the_processes_of_the_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "main_memory", lambda: (64 * 10**9, 60 * 10**9))
    [single] = disk.loading(context(tmp_path, "--lora_enable", "True"))
    assert single.level == "ok"
    assert "14.4 GiB needed" in single.message  # 7.06 billion weights in bf16, and 0.34 billion in fp32
    [eight] = disk.loading(context(tmp_path, "--lora_enable", "True", local_processes=8))
    assert eight.level == "warn"
    assert "8 processes of 14.4 GiB" in eight.message


def test_the_main_memory_of_this_machine_is_found():
    total, available = disk.main_memory()
    assert 0 < available <= total
    if Path("/proc/meminfo").exists():
        assert total > 2**28
