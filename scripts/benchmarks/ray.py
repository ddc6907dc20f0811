"""Benchmark of `senna convert --ray`: facts and questions against one process, and captioners that wait for a server."""

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from senna.convert.journal import JOURNAL
from senna.convert.nuscenes_tables import scenes_of
from senna.errors import SennaError, UsageError
from senna.synthetic import scene_names

from .common import embedded_world, print_table

ONE_PROCESS = "one process"
WAIT = 0.2  # seconds that the server waits before it answers
_QUESTIONS = 8  # about as many has a frame for a captioner
_POLL = 0.005  # seconds between two looks at the journal
_SHARED = ("sensor_token", "calibrated_sensor_token", "category_token", "visibility_token", "log_token")
_COPIED = ("scene", "sample", "sample_data", "ego_pose", "sample_annotation", "instance")
_REFERENCE = re.compile(r"token|prev|next|\w+_token")
_LENGTH = re.compile(rb"content-length: *(\d+)", re.I)


@dataclass(frozen=True)
class Conversion:
    """The times of a conversion in another process.

    Attributes:
        frames: number of frames.
        seconds: from the start of the process to its end.
        rate: frames/s from the moment when the first frames were written to the last frame.
    """

    frames: int
    seconds: float
    rate: float


def convert(root: Path, version: str, out: Path, *flags: object) -> Conversion:
    """Run `senna convert` and time it. Raises SennaError where it fails."""
    command = [sys.executable, "-m", "senna", "convert", "--nuscenes", root, "--version", version, "--out", out, *flags]
    last: list[tuple[float, int]] = []  # when the progress showed that all frames are done, and their number

    def read(lines: Iterator[str]) -> None:
        for line in lines:
            if (found := re.match(r"frame (\d+)/(\d+):", line)) and found[1] == found[2]:
                last.append((time.perf_counter(), int(found[1])))

    journal = out / ".convert" / "frames" / JOURNAL
    first, written = 0.0, 0
    with tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=errors, text=True)
        reader = threading.Thread(target=read, args=(process.stdout,))
        reader.start()
        while process.poll() is None:
            if not written and journal.is_file() and (written := journal.read_bytes().count(b"\n")):
                first = time.perf_counter()
            time.sleep(_POLL)
        seconds = time.perf_counter() - start
        reader.join()
        if process.returncode or not last:
            errors.seek(0)
            raise SennaError(f"senna convert failed: {errors.read().strip()[-500:]}")
    (end, frames), *_ = last
    return Conversion(frames, seconds, (frames - written) / max(end - first, 1e-9))


def copy_world(root: Path, version: str, folder: Path, copies: int) -> Path:
    """Write tables in which the scenes of the driving world occur several times, with the names of other scenes."""
    tables = {path.stem: json.loads(path.read_text()) for path in (root / version).glob("*.json")}
    scenes = [row["name"] for row in tables["scene"]]
    names = iter(scene_names(len(scenes) * copies, mini=False))
    (folder / "v1.0-trainval").mkdir(parents=True)
    for name in ("maps", "samples"):
        (folder / name).symlink_to((root / name).resolve())
    (folder / "can_bus").mkdir()
    for name in _COPIED:
        tables[name] = [_copied(row, number) for number in range(copies) for row in tables[name]]
    for row, original in zip(tables["scene"], scenes * copies, strict=True):
        row["name"] = next(names)
        for path in (root / "can_bus").glob(f"{original}_*.json"):
            (folder / "can_bus" / path.name.replace(original, row["name"])).symlink_to(path.resolve())
    for name, rows in tables.items():
        (folder / "v1.0-trainval" / f"{name}.json").write_text(json.dumps(rows))
    return folder


def _copied(row: dict[str, Any], number: int) -> dict[str, Any]:
    """Return a row whose own token and references to copied tables have a suffix."""
    is_renamed = {key: bool(value and key not in _SHARED and _REFERENCE.fullmatch(key)) for key, value in row.items()}
    return {key: f"{value}-{number}" if is_renamed[key] else value for key, value in row.items()}


def time_facts(root: Path, version: str, workers: Sequence[int], repeats: int, folder: Path) -> dict[str, Any]:
    """Time conversions with captions from the annotations in shuffled order, and compare their files."""
    methods: dict[str, list[object]] = {ONE_PROCESS: []}
    methods |= {f"--ray --workers {count}": ["--ray", "--workers", count] for count in workers}
    runs: dict[str, list[Conversion]] = {name: [] for name in methods}
    expected = None
    for number in range(repeats):
        for name in random.Random(number).sample(list(methods), len(methods)):
            out = folder / f"facts-{number}-{len(runs[name])}-{list(methods).index(name)}"
            runs[name].append(convert(root, version, out, *methods[name]))
            files = {path.name: path.read_bytes() for path in sorted(out.glob("*.jsonl"))}
            expected = expected or files
            if files != expected:
                raise SennaError(f"{name} wrote other files than the first conversion")
    return {
        name: {
            "seconds": (seconds := statistics.median(run.seconds for run in timed)),
            "per_second": timed[0].frames / seconds,
            "per_second_from_first_frame": statistics.median(run.rate for run in timed),
        }
        for name, timed in runs.items()
    } | {"frames": runs[ONE_PROCESS][0].frames}


@dataclass
class SlowServer:
    """A server on loopback that answers every question of `senna convert` after `WAIT` seconds.

    Attributes:
        captioners: the number of captioners, each with one question at a time.
        answered: when each answer was sent.
        all_busy: when so many questions were in progress for the first time.
    """

    captioners: int
    answered: list[float] = field(default_factory=list)
    all_busy: float | None = None
    _busy: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of a connection until the client closes it."""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(head)
                body = await reader.readexactly(int(length[1]) if length else 0)
                self._busy += 1
                if self._busy == self.captioners and self.all_busy is None:
                    self.all_busy = time.perf_counter()
                await asyncio.sleep(WAIT)
                text = "None" if b"Answer with one word" in body else "The road ahead is dry and clear of other cars."
                reply = json.dumps({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}).encode()
                self._busy -= 1
                self.answered.append(time.perf_counter())
                header = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(reply)}\r\n\r\n"
                writer.write(header.encode() + reply)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def rate(self) -> float:
        """Return the answers/s from the moment when all captioners had a question to the last answer."""
        if self.all_busy is None:
            raise UsageError(
                f"{self.captioners} captioners never had a question each at the same time", remedy="raise --seconds"
            )
        return sum(moment > self.all_busy for moment in self.answered) / (self.answered[-1] - self.all_busy)


@contextmanager
def serving(captioners: int) -> Iterator[tuple[SlowServer, str]]:
    """Yield a server that runs in a thread, and its address."""
    server, loop = SlowServer(captioners), asyncio.new_event_loop()
    listening = loop.run_until_complete(asyncio.start_server(server.serve, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server, f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        listening.close()
        open_connections = asyncio.all_tasks(loop)  # of clients that were killed
        for task in open_connections:
            task.cancel()
        if open_connections:
            loop.run_until_complete(asyncio.wait(open_connections))
        loop.close()


def time_captioners(
    root: Path, version: str, captioners: Sequence[int], seconds: int, repeats: int, folder: Path
) -> dict[str, Any]:
    """Time captioners that wait for a server, each with one question at a time.

    Args:
        seconds: how long the captioners should be busy.
    """
    rates: dict[int, list[tuple[float, float]]] = {count: [] for count in captioners}
    for number in range(repeats):
        for count in random.Random(number).sample(list(captioners), len(captioners)):
            limit = max(1, round(seconds / WAIT * count / _QUESTIONS))
            out = folder / f"captions-{number}-{count}"
            with serving(count) as (server, address):
                flags = ("--captioner", "openai", "--captioner-model", "slow", "--server", address, "--concurrency", 1)
                run = convert(root, version, out, *flags, "--limit", limit, "--ray", "--captioners", count)
            rates[count].append((server.rate(), len(server.answered) / run.seconds))
    result = {
        count: {
            "per_second": statistics.median(rate for rate, _ in found),
            "per_second_end_to_end": statistics.median(rate for _, rate in found),
        }
        for count, found in rates.items()
    }
    least = min(captioners)
    for count, figures in result.items():
        figures["ratio"] = figures["per_second"] / result[least]["per_second"]
        figures["of_linear"] = figures["ratio"] * least / count
    return {str(count): figures for count, figures in result.items()}


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time the parts that are asked for, and print a table for each."""
    root, version = arguments.nuscenes or embedded_world(), arguments.version
    scenes_of(root, version)  # raises UsageError where there are no tables
    result: dict[str, Any] = {"benchmark": "ray", "source": str(root), "repeats": arguments.repeats}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.part != "captions":
            facts_root, facts_version = root, version
            if arguments.copies > 1:
                facts_root = copy_world(root, version, folder / "nuscenes", arguments.copies)
                facts_version = "v1.0-trainval"
            facts = time_facts(facts_root, facts_version, arguments.workers, arguments.repeats, folder)
            _print_facts(facts, arguments.repeats)
            result["facts"] = facts
        if arguments.part != "facts":
            captions = time_captioners(
                root, version, arguments.captioners, arguments.seconds, arguments.repeats, folder
            )
            _print_captions(captions, arguments.repeats)
            result["captions"] = captions
    result["load"] = os.getloadavg()[2]
    print(f"load of this machine in the last 15 minutes: {result['load']:.1f}")
    return result


def _print_facts(facts: dict[str, Any], repeats: int) -> None:
    frames = facts["frames"]
    print(
        f"facts, questions and captions from the annotations: {frames} frames, median of {repeats}, from the start of the "
        "command to its end, with the tables and the quality report; the files are equal"
    )
    base = facts[ONE_PROCESS]
    rows = [
        (
            name,
            f"{figures['seconds']:.1f}",
            *(
                text
                for key in ("per_second", "per_second_from_first_frame")
                for text in (f"{figures[key]:.0f}", f"{figures[key] / base[key]:.2f}x")
            ),
        )
        for name, figures in facts.items()
        if name != "frames"
    ]
    print_table(("method", "s", "frames/s", "speed", "frames/s from the first frame on", "speed"), rows)


def _print_captions(captions: dict[str, Any], repeats: int) -> None:
    print(
        f"captioners, each with one question at a time to a server that waits {1000 * WAIT:.0f} ms: median of {repeats}, from "
        "the first question of the last captioner to the last answer, and from the start of the command to its end"
    )
    rows = [
        (
            f"--captioners {count}",
            f"{figures['per_second']:.2f}",
            f"{figures['ratio']:.2f}x",
            f"{figures['of_linear']:.1%}",
            f"{figures['per_second_end_to_end']:.2f}",
        )
        for count, figures in captions.items()
    ]
    print_table(("", "answers/s", "speed", "of linear", "answers/s end to end"), rows)
