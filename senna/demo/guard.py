"""The checks of the HTTP server: every request passes through ``Guard`` before gradio sees it."""

import asyncio
import ipaddress
import json
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from senna.demo.uploads import size_of_uploads

# The browser refuses to load anything from another host.
_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; "
    "style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; worker-src 'self' blob:; "
    "connect-src 'self'; form-action 'self'; object-src 'none'; base-uri 'self'; frame-ancestors 'self'"
)
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
# Routes by which gradio would fetch remote files for a visitor, and its description of the server.
_CLOSED_ROUTES = (
    "/gradio_api/proxy=",
    "/gradio_api/file=http",
    "/gradio_api/file/",
    "/gradio_api/info",
    "/gradio_api/openapi.json",
    "/monitoring",
)

_UPLOAD, _FILE = "/gradio_api/upload", "/gradio_api/file="
_MOST_REQUEST = 1 << 20  # bytes of a request that is no upload
MOST_UPLOADS = 2 << 30  # bytes of all files in the folder of the uploads

Message = dict[str, Any]
Headers = Iterable[tuple[bytes, bytes]]


class Guard:
    """ASGI middleware that refuses foreign requests, closes routes, limits files to ``uploads``, and adds security headers.

    Requests of other websites, which a visitor's browser sends on their behalf, are refused: those with the Origin of
    another page, and with ``loopback`` those whose Host is no name of this machine (DNS rebinding: a foreign name that
    resolves to 127.0.0.1).

    A request names a file by a path or a URL. When gradio is mounted in another application it does not check paths: it
    would fetch any URL and serve any file of this machine.
    """

    def __init__(
        self,
        app: Callable[..., Awaitable[None]],
        uploads: str,
        loopback: bool = False,
        most_uploads: int = MOST_UPLOADS,
    ) -> None:
        self.app, self.uploads, self.loopback = app, Path(uploads).resolve(), loopback
        self.most_uploads, self._arriving = most_uploads, 0

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":  # the page uses none
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if reason := refusal_of(scope["headers"], self.loopback):
            await _refuse(send, 403, reason)
            return
        path = scope["path"]
        if path.lower().startswith(_CLOSED_ROUTES):
            await _refuse(send, 404, b"not found")
            return
        if path.startswith(_FILE) and not self._is_upload(path.removeprefix(_FILE)):
            await _refuse(send, 403, b"not an upload")
            return
        if path == _UPLOAD:
            await self._upload(scope, receive, send)
            return
        if scope["method"] != "GET":
            body = await _read(receive)
            if body is None:
                await _refuse(send, 413, b"request too large")
                return
            if not all(self._is_upload(name) for name in named_files(body)):
                await _refuse(send, 403, b"not an upload")
                return
            receive = _replay(body, receive)
        await self._pass_on(scope, receive, send)

    async def _upload(self, scope: Message, receive: Any, send: Any) -> None:
        """Pass on an upload, unless the uploads would exceed their limit with it."""
        lengths = _values(scope["headers"], b"content-length")
        if len(lengths) != 1 or not lengths[0].isdecimal():
            await _refuse(send, 411, b"an upload must state its length")
            return
        length = int(lengths[0])
        self._arriving += length  # other uploads may arrive at the same time
        try:
            stored = await asyncio.to_thread(size_of_uploads, self.uploads)
            if stored + self._arriving > self.most_uploads:
                await _refuse(send, 413, b"the server holds too many uploads; try again in an hour")
                return
            await self._pass_on(scope, receive, send)
        finally:
            self._arriving -= length

    async def _pass_on(self, scope: Message, receive: Any, send: Any) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *_HEADERS]}
            await send(message)

        await self.app(scope, receive, send_with_headers)

    def _is_upload(self, name: object) -> bool:
        return isinstance(name, str) and "\0" not in name and Path(name).resolve().is_relative_to(self.uploads)


def refusal_of(headers: Headers, loopback: bool) -> bytes | None:
    """Return why a request is foreign, None where it is not.

    Args:
        headers: (name in lower case, value) of the request.
        loopback: whether the server can be reached from this machine only.
    """
    hosts, origins = _values(headers, b"host"), _values(headers, b"origin")
    if len(hosts) != 1:
        return b"a request must name one Host"
    if loopback and not _is_loopback_name(hosts[0]):
        return b"this page is for this machine only; open it as 127.0.0.1 or localhost"
    if any(origin.lower().partition("://")[2] != hosts[0].lower() for origin in origins):
        return b"the request comes from another website"
    return None


def _values(headers: Headers, name: bytes) -> list[str]:
    return [value.decode("latin-1").strip() for key, value in headers if key.lower() == name]


def _is_loopback_name(host: str) -> bool:
    """Return whether a Host header, with any port (of a tunnel, for example), names this machine's loopback address."""
    name, _, port = host.rpartition(":") if not host.endswith("]") and ":" in host else (host, "", "")
    if port and not port.isdecimal():
        return False
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name[1:-1] if name.startswith("[") and name.endswith("]") else name).is_loopback
    except ValueError:
        return False


def named_files(body: bytes) -> Iterator[object]:
    """Yield the value of every key "path" in a JSON text; nothing where it is not JSON."""
    try:
        todo = [json.loads(body)]
    except (ValueError, RecursionError):
        return
    while todo:
        value = todo.pop()
        if isinstance(value, dict):
            if value.get("path") is not None:
                yield value["path"]
            todo.extend(value.values())
        elif isinstance(value, list):
            todo.extend(value)


async def _read(receive: Any) -> bytes | None:
    """Return the body of a request, None where it is too large."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > _MOST_REQUEST:
            return None
        if not message.get("more_body"):
            return body


def _replay(body: bytes, receive: Any) -> Any:
    """Return a ``receive`` that yields the body again and then continues with the original one."""
    is_replayed = False

    async def receive_again() -> Message:
        nonlocal is_replayed
        if is_replayed:
            return await receive()
        is_replayed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


async def _refuse(send: Any, status: int, reason: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": reason})
