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
    yield SimpleNamespace(
        **{name: importlib.import_module(f"soak.{name}") for name in ("trends", "watch", "report", "reference")}
    )
    sys.path.remove(str(REPOSITORY / "scripts"))


@pytest.fixture
def history(soak):
    """Return a function that makes the samples of a process: a quarter of an hour, one sample a second, 50 items/s, 0.5 CPU
    seconds a second, and 30 computations of the reference per CPU second."""
    seconds = np.arange(900.0)
    noise = np.random.default_rng(0)

    def make(memory=0.0, files=0.0, items=50.0, cpu=0.5, reference=30.0):
        wobble = noise.normal(0, 3, 900) + 10 * (seconds % 40 < 5)  # MiB; a validation every 40 s
        return soak.watch.History(
            "train", "main", seconds.tolist(), (500 + wobble + memory).tolist(), list(20 + noise.integers(0, 3, 900) + files),
            [4] * 900, np.cumsum(np.broadcast_to(cpu, 900)).tolist(),
            (reference * (1 + noise.normal(0, 0.02, 900))).tolist(), np.cumsum(np.broadcast_to(items, 900)).tolist(),
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


@pytest.mark.parametrize(
    ("case", "verdict", "changes"),
    [
        ("the job alone", "SLOWER", (-0.15, -0.15, -0.15)),
        ("the job and the reference", "flat", (-0.15, -0.15, 0.0)),
        ("the reference alone", "flat", (0.0, 0.0, 0.16)),
        ("neither, on a machine that becomes faster", "SLOWER", (0.0, 0.0, -0.14)),
        ("less CPU time", "flat", (-0.15, 0.0, 0.0)),
    ],
)
def test_a_job_is_slower_if_it_falls_against_the_reference_of_the_same_moment(soak, history, case, verdict, changes):
    falling = 1 - 0.15 * np.clip(history.seconds / 900 - 0.2, 0, None) / 0.8  # by 15 % after the warm-up
    shape = {
        "the job alone": {"items": 50 * falling},
        "the job and the reference": {"items": 50 * falling, "reference": 30 * falling},
        "the reference alone": {"reference": 30 * falling},
        "neither, on a machine that becomes faster": {"reference": 30 / falling},
        "less CPU time": {"items": 50 * falling, "cpu": 0.5 * falling},
    }[case]
    figures = soak.report.judge([history(**shape)])
    [row] = figures["throughput"]
    assert row["throughput"] == verdict
    assert figures["result"] == ("failed" if verdict == "SLOWER" else "passed")
    found = [row[f"change_{name}"][0] for name in ("per_second", "per_cpu_second", "relative_to_reference")]
    assert found == pytest.approx(changes, abs=0.025)


def test_the_report_explains_the_reference(soak, history, tmp_path, capsys):
    rounds = [history(reference=30 - 6 * history.seconds / 900) for _ in range(2)]
    rounds[1].times = [time + 1800 for time in rounds[1].times]
    figures = json.loads(json.dumps(soak.report.judge(rounds)))
    assert figures["reference"]["ms"] == pytest.approx(1e3 / 27, rel=0.02)
    soak.report.show(figures)
    printed = capsys.readouterr().out
    assert "reference computation: 3" in printed
    assert "relative to" in printed
    soak.report.draw(rounds, tmp_path / "soak.png")
    assert (tmp_path / "soak.png").stat().st_size > 10_000


def test_the_reference_is_measured_every_ten_seconds_and_takes_at_most_a_hundredth_of_a_core(soak):
    reads, now, cost = [], [0.0], [0.02]

    def read_cpu():
        reads.append(cost[0])
        return sum(reads)

    reference = soak.reference.Reference(lambda: now[0], read_cpu)
    for now[0] in range(30):
        assert reference.speed() == pytest.approx(1 / 0.02)
    repeats = soak.reference.REPEATS
    assert len(reads) == 2 * 3 * repeats
    cost[0] = 0.5  # a slow machine
    for now[0] in range(30, 330):
        reference.speed()
    assert (len(reads) - 2 * 3 * repeats) / 2 * 0.5 == repeats * 0.5 * 2  # once, and again 150 s later


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
    for job in ("train frames", "convert, annotations", "train captions", "convert, server"):
        assert f"{job}: " in output
    figures = json.loads((tmp_path / "soak.json").read_text())
    assert figures["interrupted"]
    # round 1's two jobs were sampled for 15 seconds; those of round 2 perhaps not, since they were stopped at once
    assert figures["not_judged"] + len(figures["processes"]) >= 2, output
    assert (tmp_path / "soak.png").stat().st_size > 10_000


@pytest.mark.parametrize("flags", [["0"], ["1", "--records", "10"], ["1", "--scenes", "1000"]])
def test_wrong_flags_are_refused_before_anything_is_written(tmp_path, flags):
    result = start(*flags, "--out", tmp_path / "out").result()
    assert result.returncode == 2
    assert "change them" in result.stderr
    assert not (tmp_path / "out").exists()
