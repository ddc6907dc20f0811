"""Processes that start without delay: they are forked from a server process that has imported Senna, which takes 6 s."""

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
    """A call of ``target(arguments)`` in one process, or in several with torchrun's variables; the methods are Popen's.

    ``target`` is imported by its name, so it must be defined in a module; its result is the exit code.
    """

    def __init__(self, target: Callable[[list[str]], int], arguments: list[str], folder: Path, processes: int = 1):
        self.args = arguments
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (lives as long as the run does)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(IMPORTED)
        with mock.patch.dict(os.environ, OMP_NUM_THREADS="1", DS_ACCELERATOR="cpu"):  # these are read at import
            forkserver.ensure_running()
        read, write = os.pipe()
        self.stdout = open(read)  # noqa: SIM115
        streams = [Connection(write, readable=False), Connection(os.dup(self._errors.fileno()), readable=False)]
        self._processes = []
        for variables in _torchrun_variables(processes):
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **variables}
            process = context.Process(target=_run, args=(target, arguments, folder, environment, *streams))
            process.start()
            self._processes.append(process)
        for stream in streams:
            stream.close()
        atexit.register(self._kill)  # if the test fails: Python waits for the processes that it has started

    def poll(self) -> int | None:
        """Return the exit code once all processes have ended: that of the first process that failed, else 0."""
        codes = [process.exitcode for process in self._processes]
        return None if None in codes else next((code for code in codes if code), 0)

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def kill(self) -> None:
        """Kill every process and its children with SIGKILL, and wait until they have ended."""
        self._kill()
        self.communicate()

    def _kill(self) -> None:
        stopped = []
        for process in self._processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.is_alive():
                    stopped.append(psutil.Process(process.pid))
                    stopped[-1].suspend()  # all of them at once, before their children are collected
        for process in stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                for killed in [*process.children(recursive=True), process]:
                    killed.kill()

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """Wait until all processes have ended, or kill them after ``timeout`` s; return the rest of stdout, and stderr."""
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
        """Wait and return the result in the form of `subprocess.run`."""
        out, err = self.communicate()
        return subprocess.CompletedProcess(self.args, self.returncode, out, err)


def _torchrun_variables(processes: int) -> list[dict[str, str]]:
    """Return the environment variables that torchrun sets in each process; none for a single process."""
    if processes == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(processes)}
    common["LOCAL_WORLD_SIZE"] = common["WORLD_SIZE"]
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


def _run(target, arguments, folder, environment, out, errors) -> None:
    multiprocessing.set_start_method(None, force=True)  # its own workers start in the system's way
    gc.freeze()  # so that garbage collections skip all that has been imported
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    os.dup2(out.fileno(), 1)
    os.dup2(errors.fileno(), 2)
    raise SystemExit(target(arguments))
