"""A model whose heads vLLM's CPU backend supports, and a real server of it on loopback that the tests share."""

import base64
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.paths import GOLDEN, REPOSITORY
from tests.helpers.small_tokenizers import llama_folder

START = 240  # seconds; about 30 on two idle cores


@dataclass(frozen=True)
class Server:
    """A running server. ``post`` returns the status and the JSON of the response."""

    port: int
    log: Path

    def post(self, path: str, body: object, headers: dict[str, str] | None = None) -> tuple[int, dict]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data, {"content-type": "application/json", **(headers or {})}
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"{}")

    def chat(self, *parts: dict, **options) -> tuple[int, dict]:
        return self.post("/v1/chat/completions", {"messages": [{"role": "user", "content": list(parts)}], **options})


def halve_heads(folder: Path) -> None:
    """Write the published tiny model with half the heads, whose head_dim is 32; its tokenizer is our own."""
    llama_folder(folder / "model", vocabulary=320)
    shutil.copy(GOLDEN / "model_v320" / "model.safetensors", folder / "model")
    shutil.copy(GOLDEN / "clip_tiny" / "preprocessor_config.json", folder / "model")
    config = json.loads((GOLDEN / "model_v320" / "config.json").read_text())
    config |= {"num_attention_heads": 2, "num_key_value_heads": 2}
    config["vision_config"] = json.loads((GOLDEN / "clip_tiny" / "config.json").read_text())
    (folder / "model" / "config.json").write_text(json.dumps(config))


@pytest.fixture(scope="session")
def model_folder(once) -> Path:
    return once("served", halve_heads) / "model"


@pytest.fixture(scope="session")
def reference(model_folder):
    """Return our own model, tokenizer and image processor."""
    from senna.model import load_model

    return load_model(model_folder, dtype=torch.float32, device="cpu")


@pytest.fixture(scope="session")
def server(model_folder, tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    flags = ["--port", port, "--dtype", "float32", "--max-num-seqs", 32, "--max-model-len", 2048]
    flags += ["--kv-cache-memory-bytes", "64M", "--mm-processor-cache-gb", 0.05]  # full after a few dozen requests
    command = [sys.executable, "-m", "senna", "serve", model_folder, *flags]
    environment = os.environ | {
        "VLLM_HOST_IP": "127.0.0.1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(REPOSITORY),
    }
    environment.pop("VLLM_CPU_KVCACHE_SPACE", None)  # would replace the flag
    with open(log, "w") as output:
        process = subprocess.Popen(list(map(str, command)), stdout=output, stderr=subprocess.STDOUT, env=environment)
    try:
        _wait(process, port, log)
        yield Server(port, log)
        assert process.poll() is None, f"the server died:\n{log.read_text()[-4000:]}"
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait(process: subprocess.Popen, port: int, log: Path) -> None:
    end = time.monotonic() + START
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"the server did not start (exit code {process.poll()}):\n{log.read_text()[-4000:]}")


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
