"""A server on loopback that answers the requests of a download like the hub, and can fail like real servers."""

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


def git_blob(content: bytes) -> str:
    """Return git's blob id of a file with that content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repository:
    """A repository of the hub.

    Attributes:
        large: names of LFS files, which are listed with their sha256 and served from another address.
        status: HTTP status of the file list.
        files_status: HTTP status of the files.
        listed: contents whose hashes the file list states, for files where it differs from what is sent.
    """

    files: dict[str, bytes]
    kind: str = "model"
    commit: str = "c" * 40
    large: frozenset[str] = frozenset()
    status: int = 200
    files_status: int = 200
    listed: dict[str, bytes] = field(default_factory=dict)

    def info(self, name: str) -> dict:
        """Return the file list, as the hub's API gives it."""
        siblings = []
        for path, sent in self.files.items():
            content = self.listed.get(path, sent)
            sibling = {"rfilename": path, "size": len(content), "blobId": git_blob(content)}
            if path in self.large:
                digest = hashlib.sha256(content).hexdigest()
                sibling["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 134}
            siblings.append(sibling)
        return {"id": name, "modelId": name, "sha": self.commit, "private": False, "tags": [], "siblings": siblings}


class Hub:
    """The server.

    Attributes:
        cuts: file -> the number of bytes after which the connection is closed, for each of the next responses.
        ranges: (file, Range header or "") of every response that sent bytes.
        sent: file -> number of bytes sent.
        requests: every requested path, in order.
        authorization: the Authorization header of every request, in order.
        ignores_ranges: whether the server always sends files from the beginning, as some proxies do.
        busy: number of file requests that are answered with status 503 first.
        pause: seconds between blocks, so that a download can be killed in the middle.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.cuts: dict[str, list[int]] = {}
        self.ranges: list[tuple[str, str]] = []
        self.sent: dict[str, int] = {}
        self.requests: list[str] = []
        self.authorization: list[str] = []
        self.ignores_ranges = False
        self.busy = 0
        self.pause = 0.0
        self.stopping = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_GET(self):
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(path)
            hub.authorization.append(self.headers.get("Authorization", ""))
            parts = path.strip("/").split("/")
            if parts[0] == "api":
                return self._info(parts[1].removesuffix("s"), "/".join(parts[2:4]), parts[4:])
            if parts[0] == "elsewhere":
                return self._send("/".join(parts[1:3]), "/".join(parts[3:]))
            if parts[0] == "datasets":
                parts = parts[1:]
            name, (_, commit, *rest) = "/".join(parts[:2]), parts[2:]
            repository, file = hub.repositories[name], "/".join(rest)
            if repository.files_status != 200 or commit != repository.commit or file not in repository.files:
                return self._answer(repository.files_status if repository.files_status != 200 else 404)
            if file in repository.large:
                return self._answer(302, {"Location": f"{hub.endpoint}/elsewhere/{name}/{file}"})
            self._send(name, file)

        def _info(self, kind, name, rest):
            repository = hub.repositories.get(name)
            if repository is None or repository.kind != kind or (rest and rest[1] != repository.commit):
                return self._answer(404)
            if repository.status != 200:
                return self._answer(repository.status)
            self._answer(200, {"Content-Type": "application/json"}, json.dumps(repository.info(name)).encode())

        def _send(self, name, file):
            if hub.busy:
                hub.busy -= 1
                return self._answer(503)
            content = hub.repositories[name].files[file]
            requested = self.headers.get("Range", "")
            hub.ranges.append((file, requested))
            has_range = requested and not hub.ignores_ranges
            start = int(requested.removeprefix("bytes=").rstrip("-")) if has_range else 0
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            cuts = hub.cuts.get(file)
            end = min(len(content), start + cuts.pop(0)) if cuts else len(content)
            while start < end:
                block = content[start : min(end, start + (1 << 16))]
                try:
                    self.wfile.write(block)
                except OSError:
                    break
                hub.sent[file] = hub.sent.get(file, 0) + len(block)
                start += len(block)
                hub.stopping.wait(hub.pause)
            if start < len(content):
                self.close_connection = True

        def _answer(self, status, headers=(), body=b""):
            self.send_response(status)
            for key, value in dict(headers).items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler
