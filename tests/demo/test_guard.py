"""The checks in front of the page: requests that reach it, and requests that are refused."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from senna.demo.guard import Guard

Headers = dict[str, str]


@pytest.fixture
def uploads(tmp_path) -> Path:
    folder = tmp_path / "senna-demo-x"
    folder.mkdir()
    return folder


def status_of(
    guard: Guard, path: str = "/", method: str = "GET", headers: Headers | None = None, body: bytes = b""
) -> int:
    """Send a request and return its status."""
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()],
    }
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(guard(scope, receive, send))
    return sent[0]["status"]


async def answer(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer every request with status 200."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def test_only_files_in_the_folder_of_the_uploads_are_served(uploads):
    guard = Guard(answer, str(uploads))
    (uploads / "link.jpg").symlink_to("/etc/passwd")
    assert status_of(guard, f"/gradio_api/file={uploads}/a/image.jpg") == 200
    for path in ("/etc/passwd", f"{uploads}/../secret.jpg", f"{uploads}/link.jpg", "README.md", "", "a\0b"):
        assert status_of(guard, f"/gradio_api/file={path}") == 403
