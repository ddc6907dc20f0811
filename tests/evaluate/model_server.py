"""A server on loopback with the interface that `senna evaluate --server` asks: of a Senna, or of any other model."""

import base64
import io
import json
import threading
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from senna.data.images import load_image
from senna.decision import MOST_PROBABLE
from senna.evaluate.score import PlanScorer
from senna.model import load_model
from senna.serve.protocol import response


class Refused(Exception):
    """A request that the server answers with an error: status and message. The status 0 closes the connection."""


class ModelServer(ThreadingHTTPServer):
    """``answers`` maps the path of a POST request to a function from its body to the reply's body.

    Attributes:
        decision: the reply to a GET request for the scores' path; None for a server that has no such reply.
    """

    daemon_threads, request_queue_size, allow_reuse_address = True, 128, True

    def __init__(self, answers: dict[str, Callable[[dict], Any]], models: Sequence[dict], port: int = 0):
        super().__init__(("127.0.0.1", port), _Handler)
        self.answers, self.models = answers, list(models)
        self.decision: dict | None = None
        self.bodies: list[dict] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        """Ignore clients that closed the connection."""


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        """Print nothing."""

    def do_GET(self):
        if self.path == "/v1/models":
            self._reply(200, {"data": self.server.models})
        elif self.path in self.server.answers:
            self._reply(405 if self.server.decision is None else 200, self.server.decision or {})
        else:
            self._reply(404, {"error": {"message": "Not Found"}})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path not in self.server.answers:
            return self._reply(404, {"error": {"message": "Not Found"}})
        if not body:
            return self._reply(400, {"error": {"message": "an empty body"}})
        self.server.bodies.append(body)
        try:
            self._reply(200, self.server.answers[self.path](body))
        except Refused as refused:
            status, message = refused.args
            if status:
                self._reply(status, {"error": {"message": message}})
            else:
                self.close_connection = True

    def _reply(self, status, value):
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def serving(answers: dict[str, Callable[[dict], Any]], models: Sequence[dict] = ({"id": "tiny"},), port: int = 0):
    server = ModelServer(answers, models, port)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def senna_answers(folder: Path) -> dict[str, Callable[[dict], Any]]:
    """Return the answers of a server of `senna serve`, as `senna.serve.protocol` states them, computed by a `PlanScorer`."""
    model, tokenizer, processor = load_model(str(folder))
    lock = threading.Lock()

    def score(body: dict) -> dict:
        pixels = [load_image(image, processor) for image in images_of(body["images"])]
        with lock:
            scorer = PlanScorer(model, tokenizer, body["version"], body["ending"])
            (scores,) = scorer([[{"from": "human", "value": body["question"]}]], [torch.stack(pixels)])
        return response("request", body["model"], scores, 0, MOST_PROBABLE)

    return {"/v1/meta_actions": score, "/v1/chat/completions": chat_answers(lambda body: "KEEP, STRAIGHT")}


def chat_answers(answer: Callable[[dict], str]) -> Callable[[dict], dict]:
    return lambda body: {
        "choices": [{"message": {"role": "assistant", "content": answer(body)}, "finish_reason": "stop"}]
    }


def images_of(urls: Sequence[str]) -> list[Image.Image]:
    return [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]


def urls_of(body: dict) -> list[str]:
    """Return the data URLs in the body of a chat request."""
    return [part["image_url"]["url"] for part in parts_of(body) if part["type"] == "image_url"]


def parts_of(body: dict) -> list[dict]:
    """Return the parts of the message in the body of a chat request."""
    (message,) = body["messages"]
    assert message["role"] == "user"
    return message["content"]
