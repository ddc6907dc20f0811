"""The commands of a soak. A job starts its command again whenever it ends, until the job is stopped."""

import json
import os
import shutil
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Container
from contextlib import suppress
from pathlib import Path

from senna.convert.command import FRAMES, WORK
from senna.convert.journal import JOURNAL
from senna.errors import SennaError

SAVE_STEPS = 200  # of training; a validation is as often
STOPPED = {0, 128 + signal.SIGTERM, -signal.SIGTERM}
"""Exit codes of a command that ended by itself, was stopped, or does not handle signals (yet)."""
TAIL = 4096


class Job(ABC):
    """A command that is run again and again; `done` counts what it has finished.

    Attributes:
        name: for tables.
        number: how often the command has ended and was started again.
        unit: what `done` counts.
        process: the running command.
    """

    unit = "frames"

    def __init__(self, name: str, flags: list[str], folder: Path) -> None:
        self.name, self._flags, self._folder, self.number = name, flags, folder, 0
        self.log = folder.with_suffix(".log")
        self.process: subprocess.Popen | None = None

    @property
    def out(self) -> Path:
        """The output folder of the running command."""
        return self._folder / str(self.number)

    def start(self) -> None:
        """Start the command, or continue what was stopped."""
        words = [word for pair in self._flags_of(self.out) for word in map(str, pair)]
        command = [sys.executable, "-m", "senna", *self._flags, *words]
        self.out.mkdir(parents=True, exist_ok=True)
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def keep_running(self) -> None:
        """Start the command again with an empty folder if it has ended. Raises SennaError if it failed."""
        if self.process is not None and (code := self.process.poll()) is not None:
            self._check(code, {0})
            shutil.rmtree(self.out)
            self.number += 1
            self.start()

    def stop(self) -> None:
        """Stop the command, and wait until it and its children have ended. Raises SennaError if it failed."""
        if self.process is None:
            return
        process, self.process = self.process, None
        try:
            if process.poll() is None:
                process.terminate()  # a shell may have started the soak with Ctrl-C's signal ignored
            self._check(process.wait(timeout=120), STOPPED)
        except subprocess.TimeoutExpired:
            raise SennaError(f"{self.name} did not end within two minutes of a signal; see {self.log}") from None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def _check(self, code: int, allowed: Container[int]) -> None:
        if code not in allowed:
            end = self.log.read_text(errors="replace")[-TAIL:]
            raise SennaError(f"{self.name} ended with exit code {code}:\n{end}")

    @abstractmethod
    def _flags_of(self, out: Path) -> list[tuple[object, object]]:
        """Return the flags that name the output folder, and others that depend on it."""

    @abstractmethod
    def done(self) -> int:
        """Return the number of finished items of the running command, with those before it was stopped and continued."""


class Training(Job):
    """`senna train`, which is stopped with a checkpoint."""

    def __init__(self, name: str, flags: list[str], folder: Path, unit: str, batch: int) -> None:
        super().__init__(name, ["train", *flags], folder)
        self.unit, self._batch = unit, batch

    def _flags_of(self, out: Path) -> list[tuple[object, object]]:
        return [("--output_dir", out), ("--global_batch_size", self._batch)]

    def done(self) -> int:
        try:
            with (self.out / "train_log.jsonl").open("rb") as file:
                file.seek(max(file.seek(0, os.SEEK_END) - TAIL, 0))
                last = file.read().splitlines()[-1]
            return json.loads(last)["step"] * self._batch
        except (OSError, ValueError, LookupError):
            return 0  # nothing is written yet


class Conversion(Job):
    """`senna convert`, which any signal may end: no finished frame is lost."""

    def __init__(self, name: str, flags: list[str], folder: Path) -> None:
        super().__init__(name, ["convert", *flags], folder)
        self._read = (self.out, 0, 0)  # the folder, the bytes of its journal that were read, and the frames in them

    def _flags_of(self, out: Path) -> list[tuple[object, object]]:
        return [("--out", out)]

    def done(self) -> int:
        out, position, frames = self._read if self._read[0] == self.out else (self.out, 0, 0)
        try:
            with (out / WORK / FRAMES / JOURNAL).open("rb") as file:
                file.seek(position)
                content = file.read()
        except OSError:  # not begun, or complete
            content = b""
        self._read = (out, position + len(content), frames + content.count(b"\n"))
        return self._read[2]


def training(folder: Path, name: str) -> Training:
    """Return the training on FOLDER/NAME.jsonl: "frames", packed and with the LLM, or "captions", as in stage 1."""
    common = {
        "data_path": folder / f"{name}.jsonl",
        "eval_data_path": folder / f"{name}_held_out.jsonl",
        "image_folder": folder / "images",
        "model_name_or_path": folder / "llm",
        "vision_tower": folder / "clip",
        "mm_adapter_tokens": 4,
        "num_train_epochs": 3,
        "learning_rate": 1e-3,
        "save_steps": SAVE_STEPS,
        "save_total_limit": 2,
        "logging_steps": 10,
        "dataloader_num_workers": 2,
        "dataloader_pin_memory": False,
        "use_cpu": True,
    }
    stages = {
        "frames": {"version": "v1", "pack_frames": True, "pack_max_tokens": 1024, "model_max_length": 512},
        "captions": {"version": "plain", "image_aspect_ratio": "square", "tune_mm_mlp_adapter": True},
    }
    batches, rows = {"frames": 4, "captions": 32}, {"frames": 2, "captions": 32}
    values = common | stages[name] | {"per_device_train_batch_size": rows[name]}
    flags = [word for flag, value in values.items() for word in (f"--{flag}", str(value))]
    return Training(f"train {name}", flags, folder / f"train-{name}", name, batches[name])


def conversion(folder: Path, server: str | None = None) -> Conversion:
    """Return the conversion of a data set from the annotations, or of one with own images with the answers of a server."""
    if server is None:
        flags = ["--nuscenes", str(folder / "nuscenes")]
        return Conversion("convert, annotations", flags, folder / "convert-annotations")
    flags = ["--nuscenes", str(folder / "nuscenes_own"), "--captioner", "openai", "--captioner-model", "slow"]
    flags += ["--server", server, "--concurrency", "8"]
    return Conversion("convert, server", flags, folder / "convert-server")
