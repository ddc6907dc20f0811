"""The verdict on the samples, as a table, JSON and a picture."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.common import print_table

from soak.trends import Array, blocks, means, rates, settled, trend
from soak.watch import History

MEMORY_LIMIT = 30.0  # MiB per hour
SPEED_LIMIT = -0.10  # change of the relative throughput from the first to the last block
FLAT, GROWS, UNCLEAR = "flat", "GROWS", "unclear"
BLUE, PALE, ORANGE, GREY = "#0072B2", "#9ecae1", "#E69F00", "#737373"


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
    """Return the changes of a job's throughput over all of its runs; None where they were too short.

    Other work on the machine leaves a job less CPU time, so items/s fall. It also takes away caches and memory bandwidth, so
    the items per CPU second of the main process fall. Both happen to the reference computation too: the verdict is that on
    the items per CPU second relative to the reference of the same moment.
    """
    speeds = Speeds.joined([Speeds.of(history) for history in histories if history.role == "main"])
    plain, relative = trend(speeds.times, speeds.items), trend(speeds.times, speeds.relative)
    by_cpu = trend(speeds.times, speeds.by_cpu)
    if plain is None or by_cpu is None or relative is None:
        return None
    change, low, high = relative.change()
    verdict = "SLOWER" if high < SPEED_LIMIT else FLAT if low >= SPEED_LIMIT else UNCLEAR
    return {
        "per_second": [float(np.mean(part)) for part in np.array_split(speeds.items, 10)],
        "change_per_second": list(plain.change()),
        "change_per_cpu_second": list(by_cpu.change()),
        "change_relative_to_reference": [change, low, high],
        "throughput": verdict,
    }


@dataclass(frozen=True)
class Speeds:
    """The throughput of a job in blocks of time.

    Attributes:
        times: the middle of each block.
        items: items/s.
        by_cpu: items per CPU second of the main process.
        reference: computations of the reference per CPU second.
    """

    times: Array
    items: Array
    by_cpu: Array
    reference: Array

    @property
    def relative(self) -> Array:
        """The items in the CPU time of a computation of the reference."""
        return self.by_cpu / self.reference

    @classmethod
    def of(cls, history: History) -> "Speeds":
        """Return the speeds of a process after its warm-up, without blocks in which it used no CPU time."""
        part = settled(history.done)
        times, items = rates(history.times[part], history.done[part])
        _, seconds = rates(history.times[part], history.cpu[part])
        columns = times, items, items / np.maximum(seconds, 1e-9), means(history.reference[part])
        return cls(*(column[seconds > 0] for column in columns))

    @classmethod
    def joined(cls, parts: Sequence["Speeds"]) -> "Speeds":
        """Return the blocks of several processes."""
        names = [field.name for field in fields(cls)]
        return cls(*(np.concatenate([[], *(getattr(part, name) for part in parts)]) for name in names))


def judge_reference(histories: Sequence[History]) -> dict[str, Any] | None:
    """Return the CPU time of the reference computation, and the change of its speed over the soak; None without samples."""
    samples = sorted(
        pair
        for history in histories
        if history.role == "main"
        for pair in zip(history.times, history.reference, strict=True)
    )
    if not samples:
        return None
    times, speeds = (list(column) for column in zip(*samples, strict=True))
    low, middle, high = np.percentile(1e3 / np.array(speeds), (5, 50, 95)).tolist()
    found = trend(*blocks(times, speeds))
    return {"ms": middle, "ms_from_5_to_95_percent": [low, high], "change": list(found.change()) if found else None}


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
        "reference": judge_reference(histories),
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
    if reference := figures["reference"]:
        low, high = reference["ms_from_5_to_95_percent"]
        speed = f"; its speed: {_change(*reference['change'])}" if reference["change"] else ""
        print(f"\nreference computation: {reference['ms']:.1f} ms of CPU time ({low:.1f} to {high:.1f}){speed}")
    print("\nitems/s, and the change over the whole soak with its 95 % interval. Items per CPU second relative to the")
    print("reference computation of the same moment are judged, since other work slows both.")
    rows = [
        (row["job"], f"{row['per_second'][0]:.1f}", f"{row['per_second'][-1]:.1f}", _change(*row["change_per_second"]),
         _change(*row["change_per_cpu_second"]), _change(*row["change_relative_to_reference"]), row["throughput"])
        for row in figures["throughput"]
    ]  # fmt: skip
    header = ("job", "first tenth", "last tenth", "items/s", "per CPU second", "relative to reference", "")
    print_table(header, rows)


def _change(value: float, low: float, high: float) -> str:
    return f"{value:+.1%} [{low:+.1%}, {high:+.1%}]"


def draw(histories: Sequence[History], path: Path) -> None:
    """Draw memory and throughput of every process over time, and its speed beside that of the reference computation.

    Args:
        histories: at least one.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    jobs = list(dict.fromkeys(history.job for history in histories))
    figure = Figure(figsize=(3.6 * len(jobs), 8), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(3, len(jobs), squeeze=False, sharex="col")
    for column, job in zip(grid.T, jobs, strict=True):
        _draw_job(column, [history for history in histories if history.job == job])
        column[0].set_title(job)
        column[-1].set_xlabel("minutes")
        for axes in column:
            axes.set_ylim(bottom=0)
            axes.spines[["top", "right"]].set_visible(False)
    grid[0][0].set_ylabel("MiB (blue: main process,\norange: workers)")
    grid[1][0].set_ylabel("items/s")
    grid[2][0].set_ylabel("speed per CPU second,\nmedian = 1")
    figure.savefig(path, dpi=120)


def _draw_job(column: Sequence[Any], histories: Sequence[History]) -> None:
    memory, speed, relative = column
    for history in histories:
        color = BLUE if history.role == "main" else ORANGE
        memory.plot(np.array(history.times) / 60, history.memory, color=color, linewidth=1)
    main = [history for history in histories if history.role == "main"]
    for history in main:
        times, values = rates(history.times, history.done)
        speed.plot(times / 60, values, color=BLUE, linewidth=1)
    parts = [part for part in map(Speeds.of, main) if len(part.times)]
    every = Speeds.joined(parts)
    for label, name, colour in (
        ("reference", "reference", GREY),
        ("job", "by_cpu", PALE),
        ("job relative to reference", "relative", BLUE),
    ):
        for number, part in enumerate(parts):
            values = getattr(part, name) / np.median(getattr(every, name))
            relative.plot(part.times / 60, values, color=colour, linewidth=1, label=None if number else label)
    if parts:
        relative.legend(fontsize="x-small", loc="lower left")
