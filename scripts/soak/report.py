"""The verdict on the samples, as a table, JSON and a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.common import print_table

from soak.trends import Array, blocks, rates, settled, trend
from soak.watch import History

MEMORY_LIMIT = 30.0  # MiB per hour
SPEED_LIMIT = -0.10  # change of the throughput from the first to the last block
FLAT, GROWS, UNCLEAR = "flat", "GROWS", "unclear"


def memory_verdict(low: float, high: float) -> str:
    """Return the verdict on an interval of a slope in MiB per hour: a leak is reported only where it is certain."""
    return GROWS if low > MEMORY_LIMIT else FLAT if high <= MEMORY_LIMIT else UNCLEAR


def judge_process(history: History) -> dict[str, Any] | None:
    """Return the figures of a process, None for one that worked too short to be judged."""
    part = settled(history.done)
    times, files = history.times[part], history.files[part]
    found = trend(*blocks(times, history.memory[part]))
    if found is None:
        return None
    slope, low, high = found.per_hour()
    opened = trend(*blocks(times, files))
    grown = max(opened.low * opened.seconds, 0.0) if opened is not None else 0.0
    done = history.done[part]
    return {
        "job": history.job,
        "role": history.role,
        "minutes": (times[-1] - times[0]) / 60,
        "MiB": found.typical,
        "slope": slope,
        "low": low,
        "high": high,
        "bytes_per_item": found.slope * 2**20 * (times[-1] - times[0]) / max(done[-1] - done[0], 1),
        "memory": memory_verdict(low, high),
        "files": [min(files), max(files)],
        "threads": [min(history.threads[part]), max(history.threads[part])],
        "open_files": GROWS if grown > 1 else FLAT,
    }


def judge_throughput(histories: Sequence[History]) -> dict[str, Any] | None:
    """Return the change of a job's throughput over all of its runs; None where they were too short.

    ``per_cpu_second`` is the change of the items per CPU second of the main process, which other work on the machine hardly
    alters.
    """
    parts, by_cpu = [], []
    for history in histories:
        part = settled(history.done)
        if history.role == "main" and part.stop:
            times, speeds = rates(history.times[part], history.done[part])
            seconds = rates(history.times[part], history.cpu[part])[1]
            parts.append((times, speeds))
            by_cpu.append((times[seconds > 0], (speeds / np.maximum(seconds, 1e-9))[seconds > 0]))
    times, speeds = _joined(parts)
    found, cpu = trend(times, speeds), trend(*_joined(by_cpu))
    if found is None:
        return None
    change, low, high = found.change()
    tenths = [float(np.mean(part)) for part in np.array_split(speeds, 10)]
    verdict = "SLOWER" if high < SPEED_LIMIT else FLAT if low >= SPEED_LIMIT else UNCLEAR
    return {
        "per_second": tenths,
        "change": change,
        "low": low,
        "high": high,
        "per_cpu_second": list(cpu.change()) if cpu is not None else None,
        "throughput": verdict,
    }


def _joined(parts: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    if not parts:
        return np.zeros(0), np.zeros(0)
    times, values = (np.concatenate(column) for column in zip(*parts, strict=True))
    return times, values


def judge(histories: Sequence[History]) -> dict[str, Any]:
    """Return all figures, and whether something grew or became slower."""
    judged = [judge_process(history) for history in histories]
    processes = [row for row in judged if row is not None]
    jobs = list(dict.fromkeys(history.job for history in histories))
    found = {job: judge_throughput([history for history in histories if history.job == job]) for job in jobs}
    throughput = [{"job": job, **figures} for job, figures in found.items() if figures is not None]
    bad = [row for row in processes if GROWS in (row["memory"], row["open_files"])]
    slower = [row for row in throughput if row["throughput"] == "SLOWER"]
    return {
        "result": "failed" if bad or slower else "passed" if processes else "nothing judged",
        "limits": {"MiB_per_hour": MEMORY_LIMIT, "throughput": SPEED_LIMIT},
        "not_judged": judged.count(None),
        "processes": processes,
        "throughput": throughput,
    }


def show(figures: dict[str, Any]) -> None:
    """Print the figures as two tables."""
    print("\nmemory of each process after its warm-up, with the 95 % interval of its slope")
    rows = [
        (f"{row['job']}: {row['role']}", f"{row['minutes']:.1f}", f"{row['MiB']:.0f}",
         f"{row['slope']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}]", f"{row['bytes_per_item']:+.1f}", row["memory"],
         "{}-{}".format(*row["files"]), row["open_files"], "{}-{}".format(*row["threads"]))
        for row in figures["processes"]
    ]  # fmt: skip
    header = ("process", "min", "MiB", "MiB per hour", "bytes per item", "", "open files", "", "threads")
    print_table(header, rows)
    print(f"{figures['not_judged']} processes worked too short to be judged")
    print("\nitems/s, and the change over the whole soak with its 95 % interval")
    rows = [
        (row["job"], f"{row['per_second'][0]:.1f}", f"{row['per_second'][-1]:.1f}",
         _change(row["change"], row["low"], row["high"]), row["throughput"],
         _change(*row["per_cpu_second"]) if row["per_cpu_second"] else "-")
        for row in figures["throughput"]
    ]  # fmt: skip
    print_table(("job", "first tenth", "last tenth", "change", "", "items per CPU second"), rows)


def _change(value: float, low: float, high: float) -> str:
    return f"{value:+.1%} [{low:+.1%}, {high:+.1%}]"


def draw(histories: Sequence[History], path: Path) -> None:
    """Draw memory and throughput of every process over time."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    jobs = list(dict.fromkeys(history.job for history in histories))
    figure = Figure(figsize=(3.6 * len(jobs), 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, len(jobs), squeeze=False, sharex="col")
    for (memory, speed), job in zip(grid.T, jobs, strict=True):
        memory.set_title(job)
        for history in (history for history in histories if history.job == job):
            minutes = np.array(history.times) / 60
            memory.plot(minutes, history.memory, color="#0072B2" if history.role == "main" else "#E69F00", linewidth=1)
            if history.role == "main":
                times, values = rates(history.times, history.done)
                speed.plot(times / 60, values, color="#0072B2", linewidth=1)
        speed.set_xlabel("minutes")
        for axes in (memory, speed):
            axes.set_ylim(bottom=0)
            axes.spines[["top", "right"]].set_visible(False)
    grid[0][0].set_ylabel("MiB (blue: main process, orange: workers)")
    grid[1][0].set_ylabel("items/s")
    figure.savefig(path, dpi=120)
