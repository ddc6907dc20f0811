"""The checks of the HTTP server: every request passes through ``Guard`` before gradio sees it."""

import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

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

Message = dict[str, Any]


class Guard:
    """ASGI middleware that closes routes, restricts file names in requests to ``uploads``, and adds security headers.

    A request names a file by a path or a URL. When gradio is mounted in another application it does not check paths: it
    would fetch any URL and serve any file of this machine.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], uploads: str) -> None:
        self.app, self.uploads = app, Path(uploads).resolve()

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        if path.lower().startswith(_CLOSED_ROUTES):
            await _refuse(send, 404, b"not found")
            return
        if path.startswith(_FILE) and not self._is_upload(path.removeprefix(_FILE)):
            await _refuse(send, 403, b"not an upload")
            return
        if scope["method"] != "GET" and scope["path"] != _UPLOAD:
            body = await _read(receive)
            if body is None:
                await _refuse(send, 413, b"request too large")
                return
            if not all(self._is_upload(name) for name in named_files(body)):
                await _refuse(send, 403, b"not an upload")
                return
            receive = _replay(body, receive)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *_HEADERS]}
            await send(message)

        await self.app(scope, receive, send_with_headers)

    def _is_upload(self, name: object) -> bool:
        return isinstance(name, str) and "\0" not in name and Path(name).resolve().is_relative_to(self.uploads)


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
