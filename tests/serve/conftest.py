"""A model whose heads vLLM's CPU backend supports, and a real server of it on loopback that the tests share."""

import base64
import contextlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from senna.contents import model_content
from senna.decision import Calibration, write_calibration
from tests.helpers.paths import GOLDEN, REPOSITORY
from tests.helpers.small_tokenizers import llama_folder

PRIOR = (0.81, *19 * [0.01])
CALIBRATION = Calibration(2.0, 0.5, PRIOR, ("a scene",), "dev.jsonl", "", "", {})
"""What `senna calibrate` would have written for the model; the shared server decides by it."""

BYTES = slice(3, 259)  # the tokens of single bytes
START = 240  # seconds; about 30 on two idle cores


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Keep the tests of a server in one process of `pytest --dist loadgroup`, since a server takes half a minute to start."""
    for item in items:
        for name in {"shared_server", "other_server"} & set(item.fixturenames):
            item.add_marker(pytest.mark.xdist_group(name))


class Server:
    """A server on loopback, of a module that takes ``--port``. ``post`` returns the status and the JSON of the response.

    Attributes:
        is_stopped: whether a test has stopped it; the next test that uses it starts it again.
    """

    is_stopped = False

    def __init__(self, log: Path, *command: object):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.log, self.address = log, f"http://127.0.0.1:{self.port}"
        self._command = [sys.executable, "-m", *map(str, command), "--port", str(self.port)]

    def start(self) -> None:
        """Start the server, which may have been killed, and wait until it answers."""
        environment = os.environ | {
            "VLLM_HOST_IP": "127.0.0.1",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # otherwise the servers of two test processes share one core
            "PYTHONPATH": str(REPOSITORY),
        }
        environment.pop("VLLM_CPU_KVCACHE_SPACE", None)  # would replace the flag
        self.is_stopped = False
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                self._command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )
        end = time.monotonic() + START
        while time.monotonic() < end and self.process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.address}/health", timeout=5).close()
                return
            except OSError:
                time.sleep(0.5)
        pytest.fail(f"the server did not start (exit code {self.process.poll()}):\n{self.tail()}")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server and its children, and wait until it has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)
        self.process.wait(60)

    def stop(self) -> None:
        """End the server as its user does; kill what is left of it."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(30)
        self.signal(signal.SIGKILL)

    def tail(self) -> str:
        return self.log.read_text()[-4000:]

    def answered(self, path: str) -> int:
        """Return the number of POST requests for a path that were answered with status 200."""
        return self.log.read_text().count(f'"POST {path} HTTP/1.1" 200')

    def post(self, path: str, body: object, headers: dict[str, str] | None = None) -> tuple[int, dict]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(
            self.address + path, data, {"content-type": "application/json", **(headers or {})}
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"{}")

    def get(self, path: str) -> dict:
        with urllib.request.urlopen(self.address + path, timeout=120) as response:
            return json.load(response)

    def chat(self, *parts: dict, **options) -> tuple[int, dict]:
        return self.post("/v1/chat/completions", {"messages": [{"role": "user", "content": list(parts)}], **options})


def halve_heads(folder: Path) -> None:
    """Write the published tiny model with half the heads, whose head_dim is 32; its tokenizer is our own."""
    llama_folder(folder / "model", vocabulary=320)
    weights = load_file(GOLDEN / "model_v320" / "model.safetensors")
    weights["lm_head.weight"][BYTES] = 0  # vLLM decodes bytes that are no text in another way than transformers
    save_file(weights, folder / "model" / "model.safetensors", {"format": "pt"})
    shutil.copy(GOLDEN / "clip_tiny" / "preprocessor_config.json", folder / "model")
    config = json.loads((GOLDEN / "model_v320" / "config.json").read_text())
    config |= {"num_attention_heads": 2, "num_key_value_heads": 2}
    config["vision_config"] = json.loads((GOLDEN / "clip_tiny" / "config.json").read_text())
    (folder / "model" / "config.json").write_text(json.dumps(config))
    write_calibration(folder / "model", replace(CALIBRATION, model_content=model_content(folder / "model")))


@pytest.fixture(scope="session")
def model_folder(once) -> Path:
    return once("served", halve_heads) / "model"


@pytest.fixture(scope="session")
def reference(model_folder):
    """Return our own model, tokenizer and image processor."""
    from senna.model import load_model

    return load_model(model_folder, dtype=torch.float32, device="cpu")


@contextlib.contextmanager
def running(log: Path, *command: object) -> Iterator[Server]:
    """Run a server, which must live until the end."""
    server = Server(log, *command)
    try:
        server.start()
        yield server
        assert server.is_stopped or server.process.poll() is None, f"the server died:\n{server.tail()}"
    finally:
        server.stop()


@pytest.fixture(scope="session")
def shared_server(model_folder, tmp_path_factory):
    log = tmp_path_factory.mktemp("server") / "log"
    flags = ["--dtype", "float32", "--max-num-seqs", 32, "--max-model-len", 2048]
    flags += ["--kv-cache-memory-bytes", "64M", "--mm-processor-cache-gb", 0.05]  # full after a few dozen requests
    flags += ["--decision", "balanced"]
    with running(log, "senna", "serve", model_folder, *flags) as started:
        yield started


@pytest.fixture
def server(shared_server) -> Server:
    """Return the running server of all tests."""
    if shared_server.is_stopped:
        shared_server.start()
    return shared_server


def draw_images(count: int, seed: int = 0) -> list[Image.Image]:
    """Return images of noise, one of them transparent, one grey and one portrait."""
    noise = np.random.default_rng(seed)
    sizes, modes = [(160, 90), (160, 90), (64, 64), (90, 160), (200, 90), (160, 90)], "RGB RGBA L RGB RGB RGB".split()
    images = []
    for (width, height), mode in list(zip(sizes, modes, strict=True))[:count]:
        levels = noise.integers(0, 256, (height, width, len(mode)), dtype=np.uint8)
        images.append(Image.fromarray(levels[..., 0] if mode == "L" else levels))
    return images


def data_url(image: Image.Image, **options) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def image_part(image: Image.Image | str, **more) -> dict:
    url = image if isinstance(image, str) else data_url(image)
    return {"type": "image_url", "image_url": {"url": url}, **more}


def text_part(text: str) -> dict:
    return {"type": "text", "text": text}
