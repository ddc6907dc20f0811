"""The openai captioner with `transformers serve`: its answers, and two servers of which one is killed and started again."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from contextlib import suppress
from itertools import islice

import numpy as np
import pytest
from PIL import Image
from transformers.utils.import_utils import is_serve_available

from senna.convert.captioners import Request, make_captioner
from senna.convert.captioners.llava import LlavaCaptioner
from senna.convert.captioners.openai import OpenAICaptioner
from senna.servers.address import RetryPolicy
from senna.servers.connection import Connection
from tests.convert import caption_server
from tests.convert.tiny_llava import tiny_llava

ask_for = caption_server.ask_for

# Importing transformers takes longer than all the rest, so that the servers are forks of one process.
PROGRAM = """
import os, signal, sys
import transformers.cli.serve
from transformers import LlavaNextForConditionalGeneration, LlavaNextProcessor
from transformers.cli.transformers import main

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for port in sys.stdin:
    if pid := os.fork():
        print(pid, flush=True)
    else:
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
        sys.argv += ["--port", port.strip()]
        main()
        os._exit(0)
"""


class Servers:
    def __init__(self, process):
        self._process, self.pids = process, {}

    def start(self, port):
        self._process.stdin.write(f"{port}\n")
        self._process.stdin.flush()
        self.pids[port] = int(self._process.stdout.readline())

    def wait(self, port):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with suppress(OSError):
                return urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
            time.sleep(0.05)
        raise AssertionError("transformers serve does not answer")

    def kill(self, port):
        with suppress(ProcessLookupError):
            os.kill(self.pids.pop(port), signal.SIGKILL)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_llava(tmp_path_factory.mktemp("llava") / "model")


@pytest.fixture(scope="module")
def servers(model):
    flags = ["serve", str(model), "--host", "127.0.0.1", "--device", "cpu", "--dtype", "float32"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *flags], env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        servers = Servers(process)
        try:
            yield servers
        finally:
            for port in list(servers.pids):
                servers.kill(port)


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not is_serve_available(), reason="transformers serve needs fastapi, uvicorn and openai"),
]


def test_transformers_serve_gives_the_answers_of_the_llava_captioner(servers, model, tmp_path):
    rng = np.random.default_rng(0)
    requests = []
    for number, (height, width) in enumerate([(90, 160), (90, 160), (64, 64)]):
        path = tmp_path / f"{number}.png"
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(path)
        requests += [
            Request(None, "front", path, "description", text) for text in ("the white car?", "what is your plan?")
        ]
    [port] = free_ports(1)
    servers.start(port)
    servers.wait(port)
    address = f"127.0.0.1:{port}"
    served = make_captioner("openai", server=address, model=str(model), concurrency=2, max_tokens=24).answer(requests)
    servers.kill(port)
    assert served == LlavaCaptioner(str(model), "fp32", 4, 24).answer(requests)
    assert len(set(served)) == len(served)


def test_a_killed_server_is_replaced_and_used_again_when_it_is_back(servers, model, ask_for, monkeypatch):
    requests, asked, chat = ask_for(12), Counter(), Connection.chat

    async def counted_chat(connection, *arguments):
        answer = await chat(connection, *arguments)
        asked[connection.server.endpoint[2]] += 1
        return answer

    monkeypatch.setattr(Connection, "chat", counted_chat)
    first, second = free_ports(2)
    servers.start(first)
    servers.start(second)
    servers.wait(first)
    servers.wait(second)
    addresses = f"127.0.0.1:{first},127.0.0.1:{second}"
    captioner = OpenAICaptioner(addresses, str(model), 1, 16, RetryPolicy(60.0, 200, 0.05, 0.2))
    stream = captioner.stream(requests)
    answers = dict(islice(stream, 6))
    servers.kill(first)
    answers |= dict(stream)
    assert set(asked) == {first, second}
    assert asked.total() == len(answers) == 12
    assert captioner.alive == "1 of 2 servers"

    servers.start(first)
    servers.wait(first)
    asked.clear()
    assert captioner.answer(requests) == [answers[index] for index in range(12)]
    assert captioner.alive == "2 of 2 servers"
    assert set(asked) == {first, second}
    assert asked.total() == 12
