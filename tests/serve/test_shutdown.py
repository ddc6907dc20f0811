"""The end of a server that is asked to stop: requests in work get an error, and no process remains."""

import http.client
import json
import os
import signal
import socket
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from importlib.util import find_spec
from typing import Any

import pytest

if find_spec("vllm") is None:
    pytest.skip("vLLM is not installed (sh scripts/test_serve.sh runs these tests)", allow_module_level=True)

import psutil

from tests.serve.conftest import Server, draw_images, image_part, text_part
from tests.serve.test_server import META_ACTIONS

CLIENTS = 8
LIMIT = 30
"""Seconds from the signal to the end of the last process."""


def ask(server: Server, number: int) -> tuple[int, str]:
    """Send a request that takes long; return the status and the reason, or 0 and the error of the connection."""
    image = image_part(draw_images(1, 300 + number)[0])
    try:
        status, answer = server.chat(image, text_part("Say it."), max_tokens=1500, ignore_eos=True)
    except OSError as error:
        return 0, repr(error)
    return status, answer["error"]["message"] if status != 200 else ""


def open_requests(server: Server, stack: ExitStack) -> list[Any]:
    """Send half a body and a request for a stream, and wait for the first token of the stream."""
    half = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=60))
    half.sendall(f"POST {META_ACTIONS} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{{".encode())
    body = {"prompt": "the lead car", "max_tokens": 1500, "ignore_eos": True, "stream": True}
    url = f"{server.address}/v1/completions"
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    stream = stack.enter_context(urllib.request.urlopen(request, timeout=60))
    assert stream.readline().startswith(b"data: ")
    return [half.makefile("rb"), stream]


def rest(response: Any) -> str:
    try:
        return response.read().decode()
    except (OSError, http.client.HTTPException) as error:
        return repr(error)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["SIGTERM", "Ctrl-C"])
def test_a_stopped_server_answers_its_clients_with_an_error_and_leaves_no_process(server, way):
    process = psutil.Process(server.process.pid)
    family = [process, *process.children(recursive=True)]
    assert len(family) > 2
    with ThreadPoolExecutor(CLIENTS) as pool, ExitStack() as stack:
        answers = [pool.submit(ask, server, number) for number in range(CLIENTS - 2)]
        half, stream = open_requests(server, stack)  # those before it are in work too
        assert not any(answer.done() for answer in answers)
        asked, server.is_stopped = time.monotonic(), True
        if way == "SIGTERM":
            server.process.terminate()
        else:  # a terminal signals all processes of the group
            os.killpg(server.process.pid, signal.SIGINT)
        try:
            server.process.wait(LIMIT)
            _, alive = psutil.wait_procs(family, timeout=max(0.0, LIMIT - (time.monotonic() - asked)))
        finally:
            server.signal(signal.SIGKILL)
        for status, reason in [answer.result() for answer in answers]:
            assert status == 0 or status >= 500, reason
            assert reason
        assert b"503" in half.readline()
        ending = rest(stream)
        assert "error" in ending or "[DONE]" not in ending
    assert not alive, alive
