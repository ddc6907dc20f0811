"""The checks in front of the page: requests that reach it, and requests that are refused."""

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import pytest

from senna.demo.guard import Guard, refusal_of
from senna.demo.uploads import size_of_uploads

Headers = dict[str, str | None]


@pytest.fixture
def uploads(tmp_path) -> Path:
    folder = tmp_path / "senna-demo-x"
    folder.mkdir()
    return folder


def status_of(
    guard: Guard, path: str = "/", method: str = "GET", headers: Headers | None = None, body: bytes = b""
) -> int:
    """Send a request and return its status."""
    headers = {"host": "127.0.0.1:7860", "content-length": str(len(body)), **(headers or {})}
    pairs = [(name.encode(), value.encode()) for name, value in headers.items() if value is not None]
    scope = {"type": "http", "method": method, "path": path, "headers": pairs}
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


OWN = ("127.0.0.1", "127.0.0.1:7860", "localhost:9000", "LOCALHOST", "[::1]:7860", "[::1]", "127.8.8.8:1")
FOREIGN = (
    None, "", "evil.example", "evil.example:7860", "127.0.0.1.evil.example", "localhost.evil.example", "192.168.0.7:7860",
    "0.0.0.0:7860", "localhost:80@evil.example", "127.0.0.1:evil", "::1:evil", "2130706433",
)  # fmt: skip


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_on_loopback_only_names_of_this_machine_are_served(uploads, method):
    guard = Guard(answer, str(uploads), loopback=True)
    assert {host: status_of(guard, "/", method, {"host": host}) for host in OWN} == dict.fromkeys(OWN, 200)
    assert {host: status_of(guard, "/", method, {"host": host}) for host in FOREIGN} == dict.fromkeys(FOREIGN, 403)
    assert refusal_of([(b"host", b"localhost"), (b"host", b"evil.example")], loopback=True)


def test_an_address_of_the_network_can_be_opened_under_any_name(uploads):
    guard = Guard(answer, str(uploads), loopback=False)
    assert status_of(guard, headers={"host": "workstation.lan:7860"}) == 200


@pytest.mark.parametrize("loopback", [True, False])
@pytest.mark.parametrize("path", ["/", "/gradio_api/upload", "/gradio_api/queue/join"])
@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:7860", 200),
        (None, 200),
        ("null", 403),
        ("", 403),
        ("https://evil.example", 403),
        ("http://127.0.0.1:3000", 403),
        ("http://localhost:7860", 403),
        ("http://127.0.0.1:7860.evil.example", 403),
    ],
)
def test_requests_of_other_websites_are_refused(uploads, loopback, path, origin, status):
    guard = Guard(answer, str(uploads), loopback=loopback)
    assert status_of(guard, path, "POST", {"origin": origin}, b"{}") == status


def test_a_websocket_is_closed(uploads):
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(Guard(answer, str(uploads))({"type": "websocket", "path": "/", "headers": []}, None, send))
    assert [message["type"] for message in sent] == ["websocket.close"]


def test_the_total_of_the_uploads_is_limited(uploads):
    guard = Guard(answer, str(uploads), most_uploads=300 << 10)

    def upload(length: str | None) -> int:
        return status_of(guard, "/gradio_api/upload", "POST", {"content-length": length})

    assert upload(str(200 << 10)) == 200
    assert upload(str(301 << 10)) == 413
    (uploads / "a").mkdir()
    (uploads / "a" / "image.jpg").write_bytes(bytes(150 << 10))
    assert upload(str(200 << 10)) == 413
    assert upload(str(100 << 10)) == 200
    (uploads / "a" / "tiny.jpg").write_bytes(b"x")  # counts 64 KiB, so that their number is limited too
    assert upload(str(100 << 10)) == 413
    (uploads / "a" / "image.jpg").unlink()
    assert upload(str(100 << 10)) == 200
    assert {upload(length) for length in (None, "-1", "x", "")} == {411}


def test_uploads_at_the_same_time_share_the_limit(uploads):
    statuses, arrived = [], []

    async def slow(scope, receive, send):
        arrived.append(scope)
        await asyncio.sleep(0.05)
        await answer(scope, receive, send)

    async def send(message):
        statuses.extend([message["status"]] if "status" in message else [])

    headers = [(b"host", b"localhost"), (b"content-length", b"100")]
    scope = {"type": "http", "method": "POST", "path": "/gradio_api/upload", "headers": headers}
    guard = Guard(slow, str(uploads), most_uploads=250)

    async def all_at_once():
        await asyncio.gather(*(guard(scope, None, send) for _ in range(2)))
        await asyncio.gather(*(guard(scope, None, send) for _ in range(3)))

    asyncio.run(all_at_once())
    assert statuses.count(413) >= 1
    assert statuses.count(200) == len(arrived) >= 2


def test_what_an_interrupted_upload_left_is_deleted_after_an_hour(uploads):
    for name, age in (("tmpold", 4000), ("tmpnew", 10)):
        (uploads / name).write_bytes(b"x")
        os.utime(uploads / name, (time.time() - age,) * 2)
    assert size_of_uploads(uploads) == 64 << 10
    assert [path.name for path in uploads.iterdir()] == ["tmpnew"]
