"""The page on a port of this machine: nothing is fetched from elsewhere, nothing is served but the page."""

import json
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import uvicorn
from fastapi import FastAPI

from senna.demo.page import style

MOST_UPLOAD = "40mb"  # of one file; a camera's JPEG of 40 megapixels has 10 to 20

# Nothing that a page of gradio may name reaches another machine: the browser itself refuses it.
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
# What gradio would fetch for whoever asks, and its description of the server.
_SHUT = (
    "/gradio_api/proxy=",
    "/gradio_api/file=http",
    "/gradio_api/file/http",
    "/gradio_api/info",
    "/gradio_api/openapi.json",
    "/monitoring",
)

_UPLOAD = "/gradio_api/upload"
_MOST_REQUEST = 1 << 20  # bytes of any other request

Message = dict[str, Any]


class Guard:
    """ASGI middleware: shuts the addresses above, lets requests name files in ``uploads`` only, and gives every answer the
    headers above.

    A request names a file by its path or by an address. gradio fetches the address, and takes any file of this machine,
    as it does not check paths where it is mounted in another application.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], uploads: str) -> None:
        self.app, self.uploads = app, Path(uploads).resolve()

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["path"].lower().startswith(_SHUT):
            await _refuse(send, 404, b"not here")
            return
        if scope["method"] != "GET" and scope["path"] != _UPLOAD:
            body = await _read(receive)
            if body is None:
                await _refuse(send, 413, b"too long")
                return
            if not all(self._is_upload(name) for name in named_files(body)):
                await _refuse(send, 403, b"not an upload")
                return
            receive = _again(body, receive)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *_HEADERS]}
            await send(message)

        await self.app(scope, receive, send_with_headers)

    def _is_upload(self, name: object) -> bool:
        return isinstance(name, str) and "\0" not in name and Path(name).resolve().is_relative_to(self.uploads)


def named_files(body: bytes) -> Iterator[object]:
    """The value of every "path" in a JSON text; nothing where it is none."""
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
    """A request's body; None where it is too long."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > _MOST_REQUEST:
            return None
        if not message.get("more_body"):
            return body


def _again(body: bytes, receive: Any) -> Any:
    """A ``receive`` that gives the body that was read, then what comes after it."""
    given = False

    async def receive_again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


async def _refuse(send: Any, status: int, why: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": why})


def serve(page: gr.Blocks, listener: socket.socket, uploads: str, ready: Callable[[], None]) -> None:
    """Serve the page until SIGINT or SIGTERM. ``uploads`` is gradio's folder; ``ready`` is called before."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        show_error=False,
        max_file_size=MOST_UPLOAD,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        app_kwargs={"openapi_url": None},
        **style(),
    )
    config = uvicorn.Config(Guard(app, uploads), log_level="warning", access_log=False, timeout_graceful_shutdown=2)
    ready()
    uvicorn.Server(config).run(sockets=[listener])
