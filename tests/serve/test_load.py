"""A server under load: 32 clients with good and bad requests, some of which leave. Answers stay right and memory flat."""

import json
import random
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("vllm") is None:
    pytest.skip("vLLM is not installed (sh scripts/test_serve.sh runs these tests)", allow_module_level=True)

import psutil

from tests.serve.conftest import data_url, draw_images, image_part, text_part
from tests.serve.test_server import META_ACTIONS, body, check_scores, encoded, expected_scores, generated, large_image

CLIENTS, ROUNDS, WARM_UP, REQUESTS = 32, 8, 3, 49  # requests in each round
FRAMES = 10
TOLERANCE = 64 << 20
"""Bytes by which memory may grow in three rounds after the warm-up: 450 KB for each of their 147 requests. Answers to
/v1/meta_actions alone that kept their pixels would take 84 MiB."""


class Client:
    """Sends requests of each kind and checks the responses."""

    def __init__(self, server, reference) -> None:
        self.server = server
        self.images = [draw_images(6, 200 + number) for number in range(FRAMES)]
        self.bodies = [body([data_url(image) for image in images]) for images in self.images]
        self.scores = [expected_scores(reference, *pair) for pair in zip(self.bodies, self.images, strict=True)]
        self.tokens = [generated(reference, "<image>\nSay it.", images[:1]) for images in self.images]
        self.large = large_image()

    def send(self, number: int) -> str:
        """Send a request, check its response, and return its kind."""
        kind = [self.meta_actions, self.chat, self.bad, self.meta_actions, self.chat, self.bad, self.leave][number % 7]
        kind(number)
        return kind.__name__

    def meta_actions(self, number: int) -> None:
        status, answer = self.server.post(META_ACTIONS, self.bodies[number % FRAMES])
        assert status == 200, answer
        check_scores(answer, self.scores[number % FRAMES])

    def chat(self, number: int) -> None:
        image = image_part(self.images[number % FRAMES][0])
        status, answer = self.server.chat(image, text_part("Say it."), max_tokens=12, return_token_ids=True)
        assert status == 200, answer
        assert answer["choices"][0]["token_ids"] == self.tokens[number % FRAMES]

    def bad(self, number: int) -> None:
        request = self.bodies[number % FRAMES]
        images = request["images"]
        wrong, reason = [
            (request | {"images": {}}, "0 of the 6 views"),
            (request | {"images": dict(list(images.items())[:5])}, "missing: back"),
            (request | {"images": images | {"back": self.large}}, "60 megapixels"),
            (request | {"images": images | {"front": encoded(b"This is no image.")}}, "not a JPEG, PNG or WebP"),
            ({"question": "x" * 100_000}, "100000 characters"),
        ][number // 7 % 5]
        status, answer = self.server.post(META_ACTIONS, wrong)
        assert status == 400, answer
        assert reason in answer["error"]["message"]

    def leave(self, number: int) -> None:
        """Close the connection in the middle of the request, or while the server works."""
        data = json.dumps(self.bodies[number % FRAMES]).encode()
        head = f"POST {META_ACTIONS} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(data)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", self.server.port)) as connection:
            connection.sendall(head.encode() + (data if number % 3 else data[: len(data) // 2]))
            time.sleep(random.Random(number).uniform(0, 0.5))

    def memory(self) -> int:
        """Return the bytes of memory of the server's processes, shared memory divided among them.

        Pages of files do not count: the share of a process depends on what else runs on the machine.
        """
        ports = {found.laddr.port: found.pid for found in psutil.net_connections("tcp") if found.status == "LISTEN"}
        process = psutil.Process(ports[self.server.port])
        return sum(_anonymous(found.pid) for found in (process, *process.children(recursive=True)))


def _anonymous(process: int) -> int:
    sizes = dict(line.split(":") for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:])
    return sum(int(sizes[name].removesuffix("kB")) for name in ("Pss_Anon", "Pss_Shmem")) << 10


def test_good_requests_are_answered_bad_ones_refused_and_memory_stays_flat(server, reference):
    client = Client(server, reference)
    memory = []
    for part in range(ROUNDS):
        with ThreadPoolExecutor(CLIENTS) as pool:
            kinds = Counter(pool.map(client.send, range(part * REQUESTS, (part + 1) * REQUESTS)))
        assert kinds == {"meta_actions": 14, "chat": 14, "bad": 14, "leave": 7}
        memory.append(client.memory())
    # A leak raises the smallest sizes too; many simultaneous requests raise single ones.
    growth = min(memory[-2:]) - min(memory[WARM_UP : WARM_UP + 2])
    assert growth < TOLERANCE, [f"{size >> 20} MiB" for size in memory]
