"""Worker processes that run a module of this package, one process for each core, and return their lines in order.

`multiprocessing` does not fit: workers that it spawns run the caller's main file again, which then needs a guard, and workers
that it forks can hang when torch's threads are running.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from senna.cgroup import available_cores
from senna.errors import SennaError

PACKAGE_PARENT = Path(__file__).resolve().parents[2]


def child_environment() -> dict[str, str]:
    """Return the environment of a child process that imports this package and computes on one thread."""
    path = os.pathsep.join(filter(None, [str(PACKAGE_PARENT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def report_step(what: str, step: int, steps: int, loss: float) -> None:
    """Print the loss to stderr ten times a run. Two models train at the same time, so progress bars would overlap."""
    if step % max(1, steps // 10) == 0 or step == steps:
        print(f"{what}: step {step} of {steps}, loss {loss:.2f}", file=sys.stderr, flush=True)


def worker_lines(module: str, arguments: list[str], count: int, workers: int | None = None) -> Iterator[str]:
    """Yield lines 0 to `count` - 1, of which line i comes from worker i modulo the number of workers.

    Each worker is `python -m module *arguments COUNT START STEP` and prints one line for each of the indices
    `range(START, COUNT, STEP)`.

    Args:
        workers: the number of workers; by default one for each core.

    Raises:
        SennaError: a worker ended early; the message ends with the last 2,000 bytes that the workers wrote to stderr.
    """
    num_workers = max(1, min(workers or available_cores(), count))
    with tempfile.TemporaryFile() as errors:
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", module, *arguments, str(count), str(start), str(num_workers)],
                stdout=subprocess.PIPE,
                stderr=errors,
                env=child_environment(),
                text=True,
                encoding="utf-8",
            )
            for start in range(num_workers)
        ]
        try:
            for index in range(count):
                stdout = processes[index % num_workers].stdout
                line = stdout.readline() if stdout else ""
                if not line:
                    raise SennaError(
                        f"{module} ended early: {_tail(errors)}",
                        remedy="see the message of the worker; if it was killed, memory ran out: free some and run it again",
                    )
                yield line.rstrip("\n")
        finally:
            for worker in processes:
                worker.kill()
                if worker.stdout:
                    worker.stdout.close()
                worker.wait()


def _tail(errors: IO[bytes], size: int = 2000) -> str:
    length = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, length - size))
    return errors.read().decode(errors="replace").strip() or "no message"
