"""The page in a real browser with the server in a process of its own; nothing leaves the machine."""

import itertools
import json
import os
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from PIL import Image

from senna.demo.questions import Choices, question_text
from senna.demo.result import grid, percent
from senna.templates import load_templates
from senna.views import VIEWS
from tests.helpers.demo import Server

pytestmark = pytest.mark.slow
pytest.importorskip("gradio", reason="gradio is not installed: pip install '.[demo]'")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("chromium is not installed", allow_module_level=True)

DESK, PHONE = {"width": 1400, "height": 1000}, {"width": 390, "height": 844}
DONE = ".answer[data-done=true]"


@pytest.fixture(scope="module")
def server(model, frames, tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"), "--model", model, "--data", frames)
    yield server
    code = server.stop()
    assert "Traceback" not in server.log, server.log
    assert code == 0
    assert not list(server.temporary.glob("senna-demo-*"))  # what visitors uploaded


@pytest.fixture(scope="module")
def answerer(model):
    """Return the same model in the process of the tests, for expected values."""
    from senna.demo.answer import Answerer
    from senna.model import load_model

    return Answerer(*load_model(str(model), device="cpu"))


@pytest.fixture(scope="module")
def chromium():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"] if os.geteuid() == 0 else []
        )
        yield browser
        browser.close()


class Visitor:
    """A new browser context on the page."""

    def __init__(self, chromium, url: str, viewport=DESK, **options) -> None:
        self.context = chromium.new_context(viewport=viewport, **options)
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.console: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.console.append(f"{message.type}: {message.text}"))
        self.page.goto(url)
        self.page.wait_for_selector("#ask")

    def upload(self, view: str, path: Path) -> None:
        slot = f"#view-{view.replace(' ', '-')}"
        self.page.set_input_files(f"{slot} input[type=file]", str(path))

    def upload_frame(self, folder: Path, frame: int, views: Sequence[str] = VIEWS) -> None:
        for view in views:
            self.upload(view, folder / f"samples/CAM_{view.upper().replace(' ', '_')}/{frame}.jpg")
        self.wait_for_images(len(views))

    def wait_for_images(self, count: int) -> None:
        """Wait until so many images were uploaded and are shown on the page."""
        self.page.wait_for_function(
            "count => document.querySelectorAll('#views img[src*=\"/gradio_api/file=\"]').length == count", arg=count
        )

    def choose(self, kind: str) -> None:
        self.page.click(f"#kind label:has-text('{kind}')")

    def ask(self) -> None:
        self.page.click("#ask")

    def answer(self) -> str:
        self.page.wait_for_selector(DONE)
        return self.page.text_content(".answer-text").strip()

    def wait_for_problem(self, message: str) -> None:
        self.page.wait_for_selector(f".problem:has-text('{message}')")

    def fits(self) -> bool:
        """Return whether nothing needs horizontal scrolling and no cell of the chart overflows."""
        width, seen = self.page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
        cut = self.page.evaluate(
            "[...document.querySelectorAll('.answer .grid > *')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
        )
        return width <= seen and cut == 0


@pytest.fixture
def visit(chromium, server):
    """Return a function that opens the page for another visitor."""
    visitors = []

    def new(**options) -> Visitor:
        visitors.append(Visitor(chromium, server.url, **options))
        return visitors[-1]

    yield new
    for visitor in visitors:
        visitor.context.close()


def images_of(folder: Path, frame: int) -> list[Image.Image]:
    return [Image.open(folder / f"samples/CAM_{view.upper().replace(' ', '_')}/{frame}.jpg") for view in VIEWS]


def test_a_plan_is_shown_with_twenty_probabilities_and_a_growing_text(visit, answerer, frames):
    visitor = visit()
    visitor.upload_frame(frames.parent, 1)
    visitor.page.evaluate(
        """window.seen = []; new MutationObserver(() => {
            const text = document.querySelector('.answer-text'); if (text) window.seen.push(text.textContent.trim()); })
        .observe(document.querySelector('#result'), {subtree: true, childList: true, characterData: true})"""
    )
    visitor.ask()
    answer = visitor.answer()
    question = question_text(Choices("plan", speed=5.0, command="go straight"), load_templates())
    images = answerer.pixels(images_of(frames.parent, 1))
    bars = {str(bar.action): bar for row in grid(answerer.plan(question, VIEWS, images).log_probs) for bar in row}
    shown = visitor.page.eval_on_selector_all(
        ".cell", "cells => cells.map(c => [c.title.split(':')[0], c.querySelector('b').textContent])"
    )
    assert dict(shown) == {action: percent(bar.probability) for action, bar in bars.items()}
    [best] = [action for action, bar in bars.items() if bar.is_best]
    assert visitor.page.text_content(".winner b") == best
    assert visitor.page.locator(".cell.best").get_attribute("title").startswith(best)
    *_, text = answerer.stream(question, VIEWS, images, 32)
    assert answer == " ".join(text.split())
    grown = list(dict.fromkeys(visitor.page.evaluate("window.seen")))
    assert len(grown) >= 3
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(grown))


def test_an_example_sets_images_speed_command_and_ground_truth(visit):
    visitor = visit()
    visitor.page.locator("#examples button").nth(2).click()
    visitor.wait_for_images(6)
    assert visitor.page.input_value("#speed input[type=number]") == "7.5"
    assert visitor.page.input_value("#command input") == "go straight and turn left"
    visitor.ask()
    visitor.answer()
    assert visitor.page.locator(".cell.truth").get_attribute("title").startswith("ACCELERATE, LEFT_TURN:")
    visitor.page.click("#clear")
    visitor.wait_for_images(0)
    visitor.ask()
    visitor.wait_for_problem("no images yet")


def test_bad_and_missing_images_are_refused_and_the_server_continues(visit, frames, tmp_path):
    Image.new("L", (10_000, 6_000), 90).save(tmp_path / "large.jpg")
    (tmp_path / "text.jpg").write_text("this is no image")
    visitor = visit()
    visitor.upload_frame(frames.parent, 0, VIEWS[:-1])  # all but the back
    for name, message in (
        ("large", "The back image has 60 megapixels"),
        ("text", "not an image that this page can read"),
    ):
        visitor.upload("back", tmp_path / f"{name}.jpg")
        visitor.wait_for_problem(message)
        visitor.page.wait_for_selector(f"[data-testid=toast-body]:has-text('{message}')")
        visitor.wait_for_images(5)
    visitor.ask()
    visitor.wait_for_problem("The back view is missing")
    visitor.page.click("#front-only label")
    visitor.ask()
    assert visitor.answer()
    assert "about the front view" in visitor.page.text_content(".asked summary")
    visitor.choose("My own question")
    visitor.page.wait_for_selector("#own textarea")
    visitor.ask()
    visitor.wait_for_problem("no question yet")


def test_two_concurrent_visitors_get_their_own_answers(visit, answerer, frames):
    asked = {0: "What is ahead?", 2: "Are there two pedestrians?"}
    visitors = {frame: visit() for frame in asked}
    for frame, visitor in visitors.items():
        visitor.upload_frame(frames.parent, frame)
        visitor.choose("My own question")
        visitor.page.fill("#own textarea", asked[frame])
    for visitor in visitors.values():
        visitor.ask()
    answers = {frame: visitor.answer() for frame, visitor in visitors.items()}
    for frame, visitor in visitors.items():
        *_, text = answerer.stream(asked[frame], VIEWS, answerer.pixels(images_of(frames.parent, frame)), 256)
        assert " ".join(answers[frame].split()) == " ".join(text.split())
        assert asked[frame] in visitor.page.text_content(".asked p")
    assert answers[0] != answers[2]


def test_the_page_fits_a_phone(visit):
    visitor = visit(viewport=PHONE, is_mobile=True, has_touch=True)
    assert visitor.fits()
    visitor.page.locator("#examples button").nth(0).tap()
    visitor.wait_for_images(6)
    visitor.page.tap("#ask")
    visitor.page.wait_for_selector(DONE)
    assert visitor.fits()


def test_the_page_contacts_no_other_host_and_only_this_machine_can_connect(visit, server):
    visitor = visit()
    visitor.page.locator("#examples button").nth(1).click()
    visitor.wait_for_images(6)
    visitor.choose("Traffic light")
    visitor.ask()
    assert visitor.answer()
    hosts = {urlsplit(url).netloc for url in visitor.requests if not url.startswith(("data:", "blob:"))}
    assert hosts == {urlsplit(server.url).netloc}
    # The content security policy would log every blocked request here.
    assert not [line for line in visitor.console if "Content Security Policy" in line or line.startswith("error")]
    listening = [
        connection.laddr.ip
        for connection in psutil.Process(server.process.pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening == ["127.0.0.1"]


def get(url: str, path: str, host: str | None = None) -> int:
    """Return the HTTP status of a path that is sent unchanged."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        host = host or address.netloc
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        return int(connection.recv(64).split()[1])


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=README.md",
        "/gradio_api/file=../../etc/passwd",
        "/gradio_api/file=https://example.com/",
        "/gradio_api/proxy=https://example.com/",
        "/gradio_api/info",
        "/gradio_api/openapi.json",
        "/openapi.json",
    ],
)
def test_nothing_but_the_page_is_served(server, path):
    assert get(server.url, "/") == 200
    assert get(server.url, path) in (403, 404)


def test_a_foreign_name_of_the_server_is_refused(server):
    port = urlsplit(server.url).port
    assert get(server.url, "/", f"localhost:{port}") == 200
    assert get(server.url, "/", f"evil.example:{port}") == 403


@pytest.mark.parametrize("target", ["a file of this machine", "a path out of the uploads", "a URL"])
@pytest.mark.parametrize("headers", [{}, {"content-type": "text/plain"}])
def test_a_request_that_names_a_file_in_place_of_an_upload_is_refused(server, tmp_path, target, headers):
    import httpx

    image = tmp_path / "private.png"
    Image.new("RGB", (64, 64), (200, 0, 0)).save(image)
    [uploads] = server.temporary.glob("senna-demo-*")
    path = {
        "a file of this machine": str(image),
        "a path out of the uploads": f"{uploads}/../../{tmp_path.name}/private.png",
        "a URL": "http://127.0.0.1:9/private.png",
    }[target]
    body = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}, ""], "fn_index": 5, "session_hash": "x"}
    for route in ("queue/join", "run/check", "call/check"):
        address = f"{server.url}/gradio_api/{route}"
        answer = httpx.post(address, content=json.dumps(body), headers=headers, trust_env=False)
        assert (answer.status_code, answer.text) == (403, "not an upload")


def test_a_file_above_the_limit_is_refused(server):
    import httpx

    big = {"files": ("big.jpg", b"\xff\xd8" + bytes(41 << 20))}
    assert httpx.post(f"{server.url}/gradio_api/upload", files=big, trust_env=False, timeout=60).status_code == 413
