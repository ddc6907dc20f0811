"""Processes forked from a server that has imported Senna. They start at once; an import takes six seconds of a core."""

import atexit
import contextlib
import faulthandler
import gc
import multiprocessing
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from unittest import mock

import psutil

IMPORTED = [
    *(
        "senna.train.run",
        "senna.doctor.preflight",
        "senna.evaluate.command",
        "senna.convert.command",
        "senna.convert.frames",
    ),
    *("deepspeed", "matplotlib.figure", "nuscenes.nuscenes", "torch.utils.tensorboard"),
]
STACKS = signal.SIGUSR2
"""Makes a process of a run write the stacks of its threads to standard error."""


class Run:
    """``target(arguments)`` in one process, or in several with the environment that torchrun sets.

    The interface is that of `subprocess.Popen`. ``target`` must be a function of a module; it returns the exit code.
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
        atexit.register(self._kill)  # otherwise Python would wait for the processes of a failed test

    def poll(self) -> int | None:
        """Return the exit code of the first process that failed, else 0; None until all processes have ended."""
        codes = [process.exitcode for process in self._processes]
        return None if None in codes else next((code for code in codes if code), 0)

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def kill(self) -> tuple[str, str]:
        """Send SIGKILL to every process and its children, wait until they have ended, and return what they printed."""
        self._kill()
        return self.communicate()

    def interrupt(self) -> None:
        """Send SIGINT, as Ctrl-C does, to every process."""
        self.send_signal(signal.SIGINT)

    def send_signal(self, number: int, with_children: bool = False) -> None:
        """Send a signal to every process, and to its children if they are wanted."""
        for process in self._processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                parent = psutil.Process(process.pid)
                for member in [*(parent.children(recursive=True) if with_children else []), parent]:
                    member.send_signal(number)

    def _kill(self) -> None:
        stopped = []
        for process in self._processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.is_alive():
                    stopped.append(psutil.Process(process.pid))
                    stopped[-1].suspend()  # before the search for children, which takes time
        for process in stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                for member in [*process.children(recursive=True), process]:
                    member.kill()

    def _end_hanging(self) -> None:
        """Let every process and its children write their stacks to standard error, and kill them."""
        for process in self._processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                parent = psutil.Process(process.pid)
                for member in [parent, *parent.children(recursive=True)]:
                    os.write(self._errors.fileno(), f"hangs: {member.pid}, child of {member.ppid()}\n".encode())
                    member.send_signal(STACKS)
                    time.sleep(1)
        self._kill()

    def communicate(self, timeout: float = 240) -> tuple[str, str]:
        """Return the rest of standard output, and standard error, when all processes have ended. They are killed after
        ``timeout`` seconds; then standard error holds their stacks."""
        watchdog = threading.Timer(timeout, self._end_hanging)
        watchdog.start()
        with self.stdout, self._errors:
            out = self.stdout.read()
            for process in self._processes:
                process.join()
            watchdog.cancel()
            self._errors.seek(0)
            return out, self._errors.read()

    def result(self) -> subprocess.CompletedProcess:
        """Wait, and return what `subprocess.run` returns."""
        out, err = self.communicate()
        return subprocess.CompletedProcess(self.args, self.returncode, out, err)


def _launched(processes: int) -> list[dict[str, str]]:
    """Return the environment variables that torchrun sets in each of several processes; none for a single process."""
    if processes == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(processes)}
    common["LOCAL_WORLD_SIZE"] = common["WORLD_SIZE"]
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


def _become(target, arguments, folder, environment, out, errors) -> None:
    multiprocessing.set_start_method(None, force=True)  # its workers start by the system's default method
    gc.freeze()  # otherwise every garbage collection scans all imported objects
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    os.dup2(out.fileno(), 1)
    os.dup2(errors.fileno(), 2)
    faulthandler.register(STACKS, file=2, all_threads=True)
    raise SystemExit(target(arguments))
