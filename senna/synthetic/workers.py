"""Several processes of this package's own modules, one a core, whose lines come back in order.

Not `multiprocessing`: its spawned workers run the caller's main file again and so need a guard there, and its
forked ones may hang where torch's threads run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from senna.errors import SennaError

PACKAGE_PARENT = Path(__file__).resolve().parents[2]


def crew_size() -> int:
    """The number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def child_environment() -> dict[str, str]:
    """The environment of a child process that must find this package and use one thread."""
    path = os.pathsep.join(filter(None, [str(PACKAGE_PARENT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def report_step(what: str, step: int, steps: int, loss: float) -> None:
    """A line on stderr at every tenth of the way (a bar would tangle with that of a process alongside)."""
    if step % max(1, steps // 10) == 0 or step == steps:
        print(f"{what}: step {step} of {steps}, loss {loss:.2f}", file=sys.stderr, flush=True)


def worker_lines(module: str, arguments: list[str], count: int) -> Iterator[str]:
    """Lines 0 to `count` - 1, where line i comes from worker i % workers.

    Each worker is `python -m module *arguments COUNT START STEP` and prints a line for each of its turns. A worker that
    fails is a SennaError with the end of what it wrote to stderr.
    """
    workers = max(1, min(crew_size(), count))
    with tempfile.TemporaryFile() as errors:
        crew = [
            subprocess.Popen(
                [sys.executable, "-m", module, *arguments, str(count), str(start), str(workers)],
                stdout=subprocess.PIPE,
                stderr=errors,
                env=child_environment(),
                text=True,
                encoding="utf-8",
            )
            for start in range(workers)
        ]
        try:
            for index in range(count):
                line = crew[index % workers].stdout.readline()
                if not line:
                    raise SennaError(f"{module} ended early: {_tail(errors)}")
                yield line.rstrip("\n")
        finally:
            for worker in crew:
                worker.kill()
                worker.stdout.close()
                worker.wait()


def _tail(errors: object, size: int = 2000) -> str:
    length = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, length - size))
    return errors.read().decode(errors="replace").strip() or "no message"
