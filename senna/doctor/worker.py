"""Checks in a process of their own, so that a package that crashes Python does not end `senna doctor`.

Each line on the worker's standard output is a JSON object: {"trying": topic}, a finding, or {"chart": text}.
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

from senna.doctor.findings import FAIL, Finding
from senna.doctor.machine import torch_and_cards
from senna.doctor.packages import device_of, try_package

LONGEST = 120  # seconds; a check that takes longer hangs


class Worker:
    """A started worker: ``topics`` are packages, "torch" for it and its cards, and "run", a run of the flags ``run``."""

    def __init__(self, topics: list[str], run: list[str]) -> None:
        self.topics, self.run = topics, run
        self.trying = ""
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed in _end
        # What a worker says fits the pipe's buffer (64 kB), so that none waits for its turn to be read.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "senna.doctor.worker", *topics, "--", *run],
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self._watch = threading.Timer(LONGEST, self._process.kill)
        self._watch.daemon = True
        self._watch.start()

    def results(self) -> Iterator[Finding | str]:
        """Findings as they come, and charts as text. Where the process dies, a fail, and another goes on with the rest."""
        for line in self._process.stdout:
            said = json.loads(line)
            if "trying" in said:
                self.trying = said["trying"]
            elif "chart" in said:
                yield said["chart"]
            else:
                yield Finding(**said)
        crashed = self._end()
        if crashed is None:
            return
        yield crashed
        rest = self.topics[self.topics.index(self.trying) + 1 :] if self.trying in self.topics else []
        if rest:
            yield from Worker(rest, self.run).results()

    def _end(self) -> Finding | None:
        """What is to be said of how the process ended."""
        code = self._process.wait()
        hung = self._watch.finished.is_set()
        self._watch.cancel()
        self._errors.seek(0)
        last = (self._errors.read().strip().splitlines() or [""])[-1][:200]
        self._errors.close()
        if code == 0:
            return None
        how = f"did not end in {LONGEST} s" if hung else f"crashed Python ({_ending(code)})"
        says = f"{how}{': ' + last if last else ''}"
        return Finding(FAIL, self.trying or "checks", says, "install it again, or remove it")

    def stop(self) -> None:
        """End the process, if it still runs."""
        self._watch.cancel()
        self._process.kill()
        self._process.wait()


def _ending(code: int) -> str:
    try:
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"
    except ValueError:
        return f"signal {-code}"


class _Channel:
    """The worker's own standard output; what libraries print goes to standard error instead."""

    def __init__(self) -> None:
        self._file = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def say(self, what: Finding | dict) -> None:
        print(json.dumps(asdict(what) if isinstance(what, Finding) else what), file=self._file, flush=True)


def main(words: list[str]) -> None:
    """The worker itself."""
    channel = _Channel()
    cut = words.index("--")
    for topic in words[:cut]:
        channel.say({"trying": topic})
        for said in _results(topic, words[cut + 1 :]):
            channel.say({"chart": said} if isinstance(said, str) else said)


def _results(topic: str, run: list[str]) -> Iterable[Finding | str]:
    if topic == "run":
        from senna.doctor.dry_run import run_findings

        gpu_memory, gpus, *argv = run
        return run_findings(argv, float(gpu_memory) or None, int(gpus) or None)
    if topic == "torch":
        return torch_and_cards()
    return [try_package(topic, device_of(topic))]


if __name__ == "__main__":
    main(sys.argv[1:])
