"""Samples of every process of the running jobs."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from soak.jobs import Job
from soak.reference import Reference

INTERVAL = 1.0  # seconds between two samples


@dataclass
class History:
    """The samples of a process.

    Attributes:
        job: the name of its job.
        role: "main", or "worker" for a process that the main one started.
        times: seconds since the start of the soak.
        memory: MiB of anonymous and shared memory; pages of mapped files, which the system may drop, do not count.
        files, threads: numbers of open file descriptors and threads.
        cpu: CPU seconds.
        reference: the speed of the machine, in computations of `Reference` per CPU second.
        done: finished items of the job.
    """

    job: str
    role: str
    times: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    reference: list[float] = field(default_factory=list)
    done: list[int] = field(default_factory=list)


class Watch:
    """Samples jobs, and keeps the history of each of their processes.

    Attributes:
        is_stopped: set by `stop`, which ends the soak in good order.
    """

    def __init__(self) -> None:
        self.histories: dict[tuple[int, float], History] = {}
        self.reference = Reference()
        self.started, self.is_stopped = time.monotonic(), False

    def stop(self, *_: object) -> None:
        """Handle a signal. An exception could come between the start of a process and the note of its number."""
        self.is_stopped = True

    def run(self, jobs: Sequence[Job], seconds: float) -> None:
        """Keep jobs running for a time, and sample them."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.is_stopped:
            speed = self.reference.speed()
            for job in jobs:
                job.keep_running()
                self._sample(job, speed)
            time.sleep(INTERVAL)

    def _sample(self, job: Job, speed: float) -> None:
        done, now = job.done(), time.monotonic() - self.started
        try:
            main = psutil.Process(job.process.pid)
            members = [main, *main.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for process in members:
            try:
                key = process.pid, process.create_time()
                memory, files, threads = memory_of(process.pid), process.num_fds(), process.num_threads()
                cpu = sum(process.cpu_times()[:2])
            except (psutil.NoSuchProcess, OSError):
                continue  # it has just ended
            history = self.histories.setdefault(key, History(job.name, "main" if process is main else "worker"))
            history.times.append(now)
            history.memory.append(memory)
            history.files.append(files)
            history.threads.append(threads)
            history.cpu.append(cpu)
            history.reference.append(speed)
            history.done.append(done)


def memory_of(pid: int) -> float:
    """Return the MiB of anonymous and shared memory of a process.

    A page that a forked process shares with its parent counts in both, so copying it on write changes nothing.
    """
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    kinds = {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}
    return sum(int(kinds[kind][0]) for kind in ("RssAnon", "RssShmem") if kind in kinds) / 1024


def each_round(rounds: int, pairs: Sequence[Sequence[Job]], watch: Watch, seconds: float, say: Callable) -> None:
    """Run pairs of jobs in turn, until the watch is stopped."""
    for number in range(rounds):
        if watch.is_stopped:
            return
        jobs = pairs[number % len(pairs)]
        say(f"round {number + 1} of {rounds}, {seconds / 60:.1f} min: {' and '.join(job.name for job in jobs)}")
        try:
            for job in jobs:
                job.start()
            watch.run(jobs, seconds)
        finally:
            for job in jobs:
                job.stop()
        say("    " + "; ".join(f"{job.name}: {job.done()} {job.unit} of run {job.number + 1}" for job in jobs))
