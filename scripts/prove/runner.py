"""Run the parts one after another, each in a process of its own with a time limit. Imports nothing heavy."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from prove.parts import Part
from prove.report import part_table
from senna.errors import UsageError
from senna.files import write_json

PASSED, FAILED, SKIPPED, RUNNING, INTERRUPTED = "passed", "failed", "skipped", "running", "interrupted"
OUTPUT_END = 4000  # characters of a failed part's output that the result file keeps
THREADS = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
"""For small models on a CPU, which more threads do not speed up."""

Command = Callable[[Part, Path, bool], list[str]]


def worker_command(part: Part, rows: Path, tiny: bool) -> list[str]:
    """Return the command of a part, which appends a line of JSON to ``rows`` for each case."""
    return [sys.executable, "-m", "prove.worker", part.module, part.name, str(rows), *(["--tiny"] if tiny else [])]


class Proof:
    """A run of several parts and its result file, which is complete and valid after every part.

    Args:
        command: returns the command line of a part; tests pass another one.
    """

    def __init__(self, parts: Sequence[Part], out: Path, tiny: bool, command: Command = worker_command):
        self.parts, self.out, self.tiny, self.command = parts, out, tiny, command
        self.record: dict[str, Any] = {
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "commit": git_commit(),
            "tiny": tiny,
            "result": RUNNING,
            "machine": {},
            "parts": [],
        }

    def run(self) -> None:
        """Run all parts. Raises UsageError if there is no GPU and the run is not tiny."""
        # A common folder for temporary files, so that a part finds the kernels that an earlier one has compiled.
        with tempfile.TemporaryDirectory(prefix="prove-", ignore_cleanup_errors=True) as folder:
            self._run(Path(folder))

    def _run(self, folder: Path) -> None:
        write_json(self.out, self.record)
        started, limit = time.monotonic(), 0
        for part in self.parts:
            limit += part.seconds  # so that a part may use what earlier ones have left
            print(f"{part.name}: {part.about}", flush=True)
            result = self._run_part(part, limit - (time.monotonic() - started), folder)
            self.record["parts"].append(result)
            if part.name == "machine" and result["cases"]:
                self.record["machine"] = result["cases"][0]
            write_json(self.out, self.record)
            print(part_table(result), flush=True)
            if result["result"] == INTERRUPTED:
                break
            if part.name == "machine" and not self.tiny and self.record["machine"].get("device") == "CPU":
                self._finish(FAILED, started)
                raise UsageError("torch finds no GPU", remedy="run `senna doctor`; or try the small models with --tiny")
        results = {part["result"] for part in self.record["parts"]}
        self._finish(next((kind for kind in (INTERRUPTED, FAILED) if kind in results), PASSED), started)

    def _finish(self, result: str, started: float) -> None:
        self.record |= {"result": result, "seconds": round(time.monotonic() - started, 1)}
        write_json(self.out, self.record)

    def _run_part(self, part: Part, limit: float, folder: Path) -> dict[str, Any]:
        started = time.monotonic()
        rows, log = folder / f"{part.name}.jsonl", folder / f"{part.name}.log"
        note = self._run_process(self.command(part, rows, self.tiny), limit, folder, log)
        cases = _read_rows(rows)
        results = {case["result"] for case in cases}
        if note == INTERRUPTED:
            result = INTERRUPTED
        elif note or FAILED in results or not cases:
            result = FAILED
        else:
            result = PASSED if PASSED in results else SKIPPED
        found = {"part": part.name, "result": result, "seconds": round(time.monotonic() - started, 1), "cases": cases}
        if note:
            found["note"] = note
        if result == FAILED:
            found["output"] = log.read_text(encoding="utf-8", errors="replace")[-OUTPUT_END:]
        return found

    def _run_process(self, command: list[str], limit: float, folder: Path, log: Path) -> str:
        """Run a command to its end, or kill it and its children at the limit. Return what went wrong, or ""."""
        with log.open("wb") as stream:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a process group of its own
                env=(THREADS if self.tiny else {}) | os.environ | {"TMPDIR": str(folder)},
            )
        try:
            process.wait(timeout=max(limit, 0.1))
        except subprocess.TimeoutExpired:
            return f"stopped at its time limit, {limit:.0f} s"
        except KeyboardInterrupt:
            return INTERRUPTED
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return f"its process ended with {_ending(process.returncode)}" if process.returncode else ""


def _read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the cases that a part has finished. The last line of a killed part may be cut off."""
    rows = []
    with suppress(OSError, ValueError):
        for line in path.read_text(encoding="utf-8").splitlines():
            rows.append(json.loads(line))
    return rows


def _ending(code: int) -> str:
    return f"exit code {code}" if code > 0 else signal.Signals(-code).name


def git_commit() -> str:
    """Return the commit of this checkout, with "-dirty" if files differ from it; "" outside a git repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""
