"""An OpenAI-compatible server on loopback that counts the questions it gets."""

import base64
import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from senna.convert.captioners.cache import answer_key


class CountingServer(ThreadingHTTPServer):
    """Answers depend on image and question only.

    Attributes:
        asked: key of the cache of answers -> how often the question arrived.
        delay: seconds for an answer.
        holds: returns whether the answer waits until ``release`` is set; it gets the SHA-256 of the image and the question.
    """

    daemon_threads, request_queue_size = True, 128

    def __init__(self, delay: float = 0.0, max_tokens: int = 256) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: Counter[str] = Counter()
        self.images: Counter[str] = Counter()
        self.delay, self.settings, self.lock = delay, f"max_tokens={max_tokens}", threading.Lock()
        self.holds: Callable[[str, str], bool] = lambda image, question: False
        self.release = threading.Event()

    @property
    def address(self) -> str:
        """The address for ``--server``."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that closed the connection."""


class _Handler(BaseHTTPRequestHandler):
    server: CountingServer

    def log_message(self, *_: Any) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        self.reply({"data": [{"id": "toy"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        image, text = body["messages"][0]["content"]
        digest = hashlib.sha256(base64.b64decode(image["image_url"]["url"].partition(",")[2])).hexdigest()
        key = answer_key(digest, "openai:toy", self.server.settings, text["text"])
        with self.server.lock:
            self.server.asked[key] += 1
            self.server.images[digest] += 1
        if self.server.holds(digest, text["text"]):
            self.server.release.wait(60)
        time.sleep(self.server.delay)
        is_light = "Answer with one word" in text["text"]
        answer = "Red" if is_light else f"This image shows a street, number {key[:12]}, and nothing else."
        self.reply({"choices": [{"message": {"role": "assistant", "content": answer}}]})

    def reply(self, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def counting(delay: float = 0.0) -> Iterator[CountingServer]:
    """Run a server within the block."""
    server = CountingServer(delay)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server
    finally:
        server.release.set()
        server.shutdown()
        server.server_close()
