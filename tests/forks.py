"""Processes that are forked from one which has imported Senna, and so start at once: an import takes six seconds of a core."""

import atexit
import contextlib
import gc
import multiprocessing
import os
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from unittest import mock

import psutil

IMPORTED = [
    *("senna.train.run", "senna.evaluate.command", "senna.convert.command", "senna.convert.frames"),
    *("deepspeed", "matplotlib.figure", "nuscenes.nuscenes", "torch.utils.tensorboard"),
]


class Run:
    """``target(arguments)`` in a process of its own, or in several under what torchrun would set; the face is Popen's.

    ``target`` is found by its name, so it stands in a module; what it returns is the exit code.
    """

    def __init__(self, target: Callable[[list[str]], int], arguments: list[str], folder: Path, processes: int = 1):
        self.args = arguments
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (lives as long as the run does)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(IMPORTED)
        with mock.patch.dict(os.environ, OMP_NUM_THREADS="1", DS_ACCELERATOR="cpu"):  # read at import
            forkserver.ensure_running()
        read, write = os.pipe()
        self.stdout = open(read)  # noqa: SIM115
        streams = [Connection(write, readable=False), Connection(os.dup(self._errors.fileno()), readable=False)]
        self._processes = []
        for variables in _launched(processes):
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **variables}
            process = context.Process(target=_become, args=(target, arguments, folder, environment, *streams))
            process.start()
            self._processes.append(process)
        for stream in streams:
            stream.close()
        atexit.register(self._kill)  # of a test that failed meanwhile: Python waits for the processes it has started

    def poll(self) -> int | None:
        """The exit code once all processes have ended: that of the first that failed, else 0."""
        codes = [process.exitcode for process in self._processes]
        return None if None in codes else next((code for code in codes if code), 0)

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def kill(self) -> None:
        """kill -9 of every process, and of those it started; returns when they have ended."""
        self._kill()
        self.communicate()

    def _kill(self) -> None:
        stopped = []
        for process in self._processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.is_alive():
                    stopped.append(psutil.Process(process.pid))
                    stopped[-1].suspend()  # now, and not only when the children of all are found
        for process in stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                for one in [*process.children(recursive=True), process]:
                    one.kill()

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """Standard output from here on, and standard error, when all have ended or, after ``timeout`` seconds, been killed."""
        watchdog = threading.Timer(timeout, self._kill)
        watchdog.start()
        with self.stdout, self._errors:
            out = self.stdout.read()
            for process in self._processes:
                process.join()
            watchdog.cancel()
            self._errors.seek(0)
            return out, self._errors.read()

    def result(self) -> subprocess.CompletedProcess:
        """What `subprocess.run` returns."""
        out, err = self.communicate()
        return subprocess.CompletedProcess(self.args, self.returncode, out, err)


def _launched(processes: int) -> list[dict[str, str]]:
    """What torchrun would set in each of several processes; nothing for one."""
    if processes == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(processes)}
    common["LOCAL_WORLD_SIZE"] = common["WORLD_SIZE"]
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


def _become(target, arguments, folder, environment, out, errors) -> None:
    multiprocessing.set_start_method(None, force=True)  # for its own workers the system's, not that of the fork server
    gc.freeze()  # else every collection of garbage goes through all that was imported
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    os.dup2(out.fileno(), 1)
    os.dup2(errors.fileno(), 2)
    raise SystemExit(target(arguments))
