"""A faulty captioning server on loopback, and requests for it."""

import base64
import json
import socket
import struct
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from senna.convert.captioners import Request
from senna.servers.address import RetryPolicy

QUICK = RetryPolicy(timeout=1.5, attempts=8, first_pause=0.01, longest_pause=0.05)


class CaptionServer(ThreadingHTTPServer):
    daemon_threads, request_queue_size = True, 128

    def __init__(self, behave, port=0):
        super().__init__(("127.0.0.1", port), _Handler)
        self.behave, self.lock = behave, threading.Lock()
        self.tries, self.answered, self.times, self.bodies, self.keys = Counter(), Counter(), {}, [], set()
        self.busy = self.busiest = 0
        self.models, self.models_status, self.probes, self.is_killed = ["tiny"], 200, 0, False
        self.refusals, self.refusal_status = {}, 400  # parameter -> body of the reply to a request that has it

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def kill(self):
        """Stop listening, and reset the connections of the requests in progress."""
        self.is_killed = True
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        """Ignore clients that closed the connection."""


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        """Print nothing."""

    def do_GET(self):
        self.server.probes += 1
        models = self.server.models
        self.reply({"data": models and [{"id": name} for name in models]}, self.server.models_status)

    @staticmethod
    def image_of(body):
        """Return the bytes of the image in a request."""
        return base64.b64decode(body["messages"][0]["content"][0]["image_url"]["url"].partition(",")[2])

    def do_POST(self):
        server, body = self.server, json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        image, text = body["messages"][0]["content"]
        question, content = text["text"], base64.b64decode(image["image_url"]["url"].partition(",")[2])
        with server.lock:
            server.tries[question] += 1
            server.times.setdefault(question, []).append(time.monotonic())
            server.bodies.append(body)
            server.keys.add(self.headers.get("Authorization"))
        for name, refusal in server.refusals.items():
            if name in body:
                return self.reply(refusal, server.refusal_status)
        fault = server.behave(question, server.tries[question])
        if server.is_killed:
            self.fault_reset()
        elif fault is not None:
            getattr(self, f"fault_{fault[0]}")(*fault[1:])
        else:
            with server.lock:
                server.answered[question] += 1
            answer = f"{question} {len(content)}"
            self.reply({"choices": [{"message": {"content": answer}, "finish_reason": "stop"}]})

    def reply(self, value, status=200, headers=(), raw=None, length=None):
        content = raw if raw is not None else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(length or len(content)))
        for name, text in headers:
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(content)

    def fault_status(self, status, message="no", headers=()):
        self.reply({"error": {"message": message}}, status, headers)

    def fault_garbage(self):
        self.reply(None, raw=b"<html>this is no JSON")

    def fault_without_answer(self):
        self.reply({"choices": []})

    def fault_cut_off(self):
        self.reply(None, raw=b'{"choices": [{"message": {"content": "hal', length=400)

    def fault_stall(self):
        time.sleep(2 * QUICK.timeout)

    def fault_reset(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def fault_hang_up(self):
        self.close_connection = True

    def fault_dribble(self):
        self.send_response(200)
        self.end_headers()
        for _ in range(40):
            self.wfile.write(b" ")
            time.sleep(QUICK.timeout / 10)

    def fault_dribbling_headers(self):
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        for number in range(40):
            self.wfile.write(b"X-%d: 1\r\n" % number)
            time.sleep(QUICK.timeout / 10)

    def fault_endless(self):
        self.send_response(200)
        self.end_headers()
        for _ in range(1000):
            self.wfile.write(bytes(1 << 16))

    def fault_slow(self, seconds):
        with self.server.lock:
            self.server.busy += 1
            self.server.busiest = max(self.server.busiest, self.server.busy)
        time.sleep(seconds)
        with self.server.lock:
            self.server.busy -= 1
        self.fault_content("slow but sure")

    def fault_message(self, message, finish_reason):
        self.reply({"choices": [{"message": {"role": "assistant", **message}, "finish_reason": finish_reason}]})

    def fault_content(self, content):
        self.reply({"choices": [{"message": {"content": content}}]})


@contextmanager
def serving(behave=lambda question, attempt: None, port=0):
    server = CaptionServer(behave, port)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def ask_for(tmp_path):
    def make(count):
        requests = []
        for number in range(count):
            path = tmp_path / f"{number}.png"
            Image.fromarray(np.full((4, 4 + number, 3), number, np.uint8)).save(path)
            requests.append(Request(None, "front", path, "description", f"question {number}"))
        return requests

    return make


def answers_to(requests):
    return [f"{request.question} {request.image.stat().st_size}" for request in requests]
