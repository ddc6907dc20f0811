"""Run checks in a separate process, so that a package that crashes Python does not end `senna doctor`.

The worker writes one JSON object per line to its standard output: {"checking": topic}, {"finding": {...}} or {"chart":
text}.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from senna.doctor.findings import FAIL, Finding
from senna.doctor.machine import torch_and_gpus
from senna.doctor.packages import device_for, try_package

TIMEOUT = 120  # seconds for all checks of a worker


class Worker:
    """A process that checks ``topics``: names of packages, "torch" (with the GPUs), or "run".

    ``run`` holds the arguments of the topic "run": GPU memory in GB, number of GPUs, and the flags of `senna train`.
    """

    def __init__(self, topics: list[str], run: list[str]) -> None:
        self.topics, self.run = topics, run
        self.checking = ""
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed in _end
        # The complete output fits the buffer of the pipe (64 kB), so that a worker never waits until it is read.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "senna.doctor.worker", *topics, "--", *run],
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self._timer = threading.Timer(TIMEOUT, self._process.kill)
        self._timer.daemon = True
        self._timer.start()

    def results(self) -> Iterator[Finding | str]:
        """Yield findings, and charts as text. If the process dies, yield a failed check and continue in a new process."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = json.loads(line)
            if "checking" in message:
                self.checking = message["checking"]
            elif "chart" in message:
                yield message["chart"]
            else:
                yield Finding(**message["finding"])
        crash = self._end()
        if crash is None:
            return
        yield crash
        rest = self.topics[self.topics.index(self.checking) + 1 :] if self.checking in self.topics else []
        if rest:
            yield from Worker(rest, self.run).results()

    def _end(self) -> Finding | None:
        """Wait for the process, and return a failed check if it did not end normally."""
        code = self._process.wait()
        is_timeout = self._timer.finished.is_set()
        self._timer.cancel()
        self._errors.seek(0)
        last_line = (self._errors.read().strip().splitlines() or [""])[-1][:200]
        self._errors.close()
        if code == 0:
            return None
        message = f"did not end within {TIMEOUT} s" if is_timeout else f"crashed Python ({_exit_reason(code)})"
        if last_line:
            message += f": {last_line}"
        return Finding(FAIL, self.checking or "checks", message, "reinstall or uninstall it")

    def stop(self) -> None:
        """End the process if it is still running."""
        self._timer.cancel()
        self._process.kill()
        self._process.wait()


def _exit_reason(code: int) -> str:
    try:
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"
    except ValueError:
        return f"signal {-code}"


class _Output:
    """The worker's standard output. Text that libraries print is sent to standard error instead."""

    def __init__(self) -> None:
        self._file = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def write(self, **message: Any) -> None:
        print(json.dumps(message), file=self._file, flush=True)


def main(arguments: list[str]) -> None:
    """Run the checks of a worker: topics, then "--" and the arguments of the run."""
    output = _Output()
    separator = arguments.index("--")
    for topic in arguments[:separator]:
        output.write(checking=topic)
        for result in _check(topic, arguments[separator + 1 :]):
            if isinstance(result, str):
                output.write(chart=result)
            else:
                output.write(finding=asdict(result))


def _check(topic: str, run: list[str]) -> Iterable[Finding | str]:
    if topic == "run":
        from senna.doctor.dry_run import run_findings

        gpu_memory, gpus, *argv = run
        return run_findings(argv, float(gpu_memory) or None, int(gpus) or None)
    if topic == "torch":
        return torch_and_gpus()
    return [try_package(topic, device_for(topic))]


if __name__ == "__main__":
    main(sys.argv[1:])
