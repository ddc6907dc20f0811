"""The openai captioner with two servers of `transformers serve`, one of which is killed and started again."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from contextlib import contextmanager, suppress
from itertools import islice

import pytest
from transformers.utils.import_utils import is_serve_available

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


@contextmanager
def transformers_servers(model):
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


@pytest.mark.slow
@pytest.mark.skipif(not is_serve_available(), reason="transformers serve needs fastapi, uvicorn and openai")
def test_a_killed_server_is_replaced_and_used_again_when_it_is_back(ask_for, tmp_path, monkeypatch):
    model, requests, asked, chat = tiny_llava(tmp_path / "model"), ask_for(12), Counter(), Connection.chat

    async def counted_chat(connection, *arguments):
        answer = await chat(connection, *arguments)
        asked[connection.server.endpoint[2]] += 1
        return answer

    monkeypatch.setattr(Connection, "chat", counted_chat)
    first, second = free_ports(2)
    with transformers_servers(model) as servers:
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
