"""Room on the disk and in main memory."""

import shutil
import subprocess
from collections import namedtuple
from pathlib import Path

import pytest

from senna.doctor import disk
from senna.doctor.context import RunContext
from senna.model import SennaConfig
from senna.train.arguments import parse_arguments
from tests.doctor.conftest import the_fail

CPU = ["--use_cpu", "True"]
Usage = namedtuple("Usage", "total used free")


def case(tmp_path, *flags, **facts) -> RunContext:
    args = parse_arguments(["--output_dir", str(tmp_path / "out"), "--bf16", "True", *CPU, *flags])
    return RunContext(args, starts=False, config=SennaConfig(vocab_size=32000), **facts)


def test_counts_are_those_of_the_model_itself(tmp_path):
    llm, adapters = 6_738_415_616, 20_979_712 + 106_880  # Vicuna-7B's; projector (two Linears) and adapter (three)
    assert disk.counts(case(tmp_path)) == (llm + adapters, 7_063_009_664)
    stage1 = case(tmp_path, "--tune_mm_mlp_adapter", "True")
    assert disk.counts(stage1) == (adapters, 7_063_009_664)
    lora = 128 * 32 * (4 * (4096 + 4096) + 3 * (4096 + 11008))
    assert disk.counts(case(tmp_path, "--lora_enable", "True")) == (lora + adapters, lora + adapters)


def free(monkeypatch, count: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 10**12 - count, count))


def test_one_gigabyte_is_too_little_for_a_7b_model(tmp_path, monkeypatch):
    free(monkeypatch, 10**9)
    [found] = disk.disk(case(tmp_path))
    assert found.level == "fail"
    # two checkpoints of 12 bytes a trained weight, and 7.06 billion weights in bf16
    assert "1.0 GB free" in found.says
    assert "176.4 GB needed: 2 checkpoints of 81.1 GB and the final 14.1 GB" in found.says
    assert "--output_dir" in found.remedy


def test_a_run_that_goes_on_needs_room_for_one_more_checkpoint_only(tmp_path, monkeypatch):
    (tmp_path / "out" / "checkpoint-200").mkdir(parents=True)
    free(monkeypatch, 96 * 10**9)
    [found] = disk.disk(case(tmp_path))
    assert found.level == "ok"


def test_training_refuses_a_disk_that_is_too_small(examined, refused, monkeypatch):
    free(monkeypatch, 10**5)
    assert "100 kB free" in the_fail(examined(), "disk").says
    assert "--output_dir DIR (OUT_DIR) on another disk" in refused()


def test_a_real_disk_that_is_too_small_is_refused_and_left_empty(tmp_path, refused):
    small = tmp_path / "disk"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("a disk of our own cannot be mounted here (needs root)")
    try:
        assert disk.file_system(small) == "tmpfs"
        assert "needed: 2 checkpoints" in refused(output_dir=small / "out")
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_folder_in_main_memory_is_warned_of(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "file_system", lambda place: "tmpfs")
    free(monkeypatch, 10**12)
    [found] = disk.disk(case(tmp_path))
    assert found.level == "warn"
    assert "gone after a restart" in found.says


def test_main_memory_is_what_each_process_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "main_memory", lambda: (64 * 10**9, 60 * 10**9))
    [one] = disk.loading(case(tmp_path, "--lora_enable", "True"))
    assert one.level == "ok"
    assert "14.4 GiB needed" in one.says  # 7.06 billion weights in bf16, 0.34 billion of LoRA and adapters in fp32
    [eight] = disk.loading(case(tmp_path, "--lora_enable", "True", here=8))
    assert eight.level == "warn"
    assert "8 processes of 14.4 GiB" in eight.says


def test_main_memory_of_this_machine_is_read():
    total, available = disk.main_memory()
    assert 0 < available <= total
    if Path("/proc/meminfo").exists():
        assert total > 2**28
