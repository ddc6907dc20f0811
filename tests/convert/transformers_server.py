"""`transformers serve` with a small model, on loopback and on the CPU."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request


class TransformersServer:
    """A process of `transformers serve`, which ends with the context; ``wait`` until it answers."""

    def __init__(self, model, port=None):
        self.port = port or _free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        program = "from transformers.cli.transformers import main; main()"
        flags = ["--host", "127.0.0.1", "--port", str(self.port), "--device", "cpu", "--dtype", "float32"]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-c", program, "serve", str(model), *flags]
        self._process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.terminate()
        self._process.wait()

    def wait(self):
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{self.address}/health", timeout=1).close()
                return
            except (OSError, urllib.error.URLError):
                assert self._process.poll() is None, "transformers serve ended immediately"
                time.sleep(0.1)

    def kill(self):
        self._process.kill()
        self._process.wait()


def _free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
