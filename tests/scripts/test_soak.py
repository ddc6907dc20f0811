"""scripts/soak.sh: the verdict on series of samples, and a short soak of small files."""

import importlib
import json
import os
import sys
import time
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from tests.helpers.forks import Run
from tests.helpers.paths import REPOSITORY


@pytest.fixture(scope="module")
def soak():
    """Return modules of scripts/soak."""
    sys.path.insert(0, str(REPOSITORY / "scripts"))
    yield SimpleNamespace(**{name: importlib.import_module(f"soak.{name}") for name in ("trends", "watch", "report")})
    sys.path.remove(str(REPOSITORY / "scripts"))


@pytest.fixture
def history(soak):
    """Return a function that makes the samples of a process: a quarter of an hour, one sample a second, 50 items/s."""
    seconds = np.arange(900.0)
    noise = np.random.default_rng(0)

    def make(memory=0.0, files=0.0, items=50.0, cpu=0.5):
        wobble = noise.normal(0, 3, 900) + 10 * (seconds % 40 < 5)  # MiB; a validation every 40 s
        return soak.watch.History(
            "train", "main", seconds.tolist(), (500 + wobble + memory).tolist(), list(20 + noise.integers(0, 3, 900) + files),
            [4] * 900, np.cumsum(np.broadcast_to(cpu, 900)).tolist(), np.cumsum(np.broadcast_to(items, 900)).tolist(),
        )  # fmt: skip

    make.seconds = seconds
    return make


def test_a_leak_is_found(soak, history):
    figures = soak.report.judge([history(memory=history.seconds * 60 / 3600)])
    [row] = figures["processes"]
    assert figures["result"] == "failed"
    assert row["memory"] == soak.report.GROWS
    assert row["low"] < 60 < row["high"]
    assert row["bytes_per_item"] == pytest.approx(60 / 3600 / 50 * 2**20, rel=0.3)


@pytest.mark.parametrize("step", [0, 400])
def test_noise_and_a_step_during_the_warm_up_are_flat(soak, history, step):
    figures = soak.report.judge([history(memory=step * (history.seconds > 120))])
    [row] = figures["processes"]
    assert figures["result"] == "passed"
    assert row["memory"] == row["open_files"] == soak.report.FLAT
    assert row["low"] < 0 < row["high"]
    assert figures["throughput"][0]["throughput"] == soak.report.FLAT


def test_an_interval_that_holds_the_limit_is_no_verdict(soak):
    assert [soak.report.memory_verdict(low, high) for low, high in ((-5, 29), (10, 50), (31, 50))] == [
        "flat",
        "unclear",
        "GROWS",
    ]


def test_files_that_stay_open_are_found(soak, history):
    figures = soak.report.judge([history(files=history.seconds // 100)])
    assert figures["result"] == "failed"
    assert figures["processes"][0]["open_files"] == soak.report.GROWS


def test_a_run_that_becomes_slower_is_found_and_whether_it_only_got_less_of_the_machine(soak, history):
    falling = 50 - history.seconds / 60
    for cpu, expected in ((0.5, -0.28), (falling / 100, 0.0)):
        slower = soak.report.judge([history(items=falling, cpu=cpu)])
        assert slower["result"] == "failed"
        [row] = slower["throughput"]
        assert row["change"] == pytest.approx(-0.28, abs=0.03)
        assert row["per_cpu_second"][0] == pytest.approx(expected, abs=0.03)
        soak.report.show(slower)


def test_time_without_progress_is_not_judged(soak):
    done = [0] * 50 + list(range(1, 101)) + [100] * 30
    part = soak.trends.settled(done)
    assert (part.start, part.stop) == (70, 150)
    assert soak.trends.settled([7] * 9) == slice(0, 0)


def test_memory_of_mapped_files_does_not_count(soak, tmp_path):
    (tmp_path / "large").write_bytes(bytes(64 << 20))
    before = soak.watch.memory_of(os.getpid())
    mapped = np.memmap(tmp_path / "large", mode="r")
    assert mapped.sum() == 0  # reads every page
    assert soak.watch.memory_of(os.getpid()) - before < 16
    held = np.ones(64 << 20, np.uint8)
    assert soak.watch.memory_of(os.getpid()) - before > 60
    del mapped, held


def run_soak(arguments) -> int:
    """Run the command with a world of few frames, which is drawn quickly."""
    sys.path.insert(0, str(REPOSITORY / "scripts"))
    command, inputs = (importlib.import_module(f"soak.{name}") for name in ("__main__", "inputs"))
    inputs.FRAMES = 4
    return command.main(arguments)


def start(*flags) -> Run:
    return Run(run_soak, [str(flag) for flag in flags], REPOSITORY)


@pytest.mark.slow
def test_a_short_soak_runs_every_job_and_ctrl_c_ends_it_with_a_report(tmp_path):
    soak = start(0.5, "--records", 2000, "--scenes", 4, "--out", tmp_path)
    lines = []
    for line in soak.stdout:
        lines.append(line)
        if line.startswith("round 2"):
            break
    main = psutil.Process(soak._processes[0].pid)
    end = time.monotonic() + 60
    while not (children := main.children(recursive=True)) and time.monotonic() < end:
        time.sleep(0.1)
    soak.interrupt()
    rest, errors = soak.communicate()
    output = "".join([*lines, rest])
    assert soak.returncode == 130, output + errors
    assert children
    assert not [child for child in children if child.is_running()]
    assert "train frames: " in output
    figures = json.loads((tmp_path / "soak.json").read_text())
    assert figures["interrupted"]
    assert figures["not_judged"] + len(figures["processes"]) >= 3, output
    assert (tmp_path / "soak.png").stat().st_size > 10_000


@pytest.mark.parametrize("flags", [["0"], ["1", "--records", "10"], ["1", "--scenes", "1000"]])
def test_wrong_flags_are_refused_before_anything_is_written(tmp_path, flags):
    result = start(*flags, "--out", tmp_path / "out").result()
    assert result.returncode == 2
    assert "change them" in result.stderr
    assert not (tmp_path / "out").exists()
