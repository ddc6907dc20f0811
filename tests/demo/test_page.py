"""The page in a real browser, the server in a process of its own: what a visitor sees, and that nothing leaves the machine."""

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
from tests.demo.conftest import Server

pytestmark = pytest.mark.slow
pytest.importorskip("gradio", reason="gradio, which makes the page, is not installed: pip install '.[demo]'")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright, which drives the browser, is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("no chromium is installed to look at the page with", allow_module_level=True)

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
    """The same model in the tests' process: what the page has to show."""
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
    """A browser with nothing in it, on the page."""

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
        self.wait_for_pictures(len(views))

    def wait_for_pictures(self, count: int) -> None:
        """Until so many pictures are on the server and back on the page."""
        self.page.wait_for_function(
            "count => document.querySelectorAll('#views img[src*=\"/gradio_api/file=\"]').length == count", arg=count
        )

    def choose(self, kind: str) -> None:
        self.page.click(f"#kind label:has-text('{kind}')")

    def ask(self) -> None:
        self.page.click("#ask")

    def answer(self) -> str:
        self.page.wait_for_selector(DONE)
        return self.page.text_content(".said").strip()

    def wait_for_problem(self, told: str) -> None:
        self.page.wait_for_selector(f".problem:has-text('{told}')")

    def fits(self) -> bool:
        """Whether nothing has to be scrolled sideways, and no cell of the chart is wider than its place."""
        width, seen = self.page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
        cut = self.page.evaluate(
            "[...document.querySelectorAll('.answer .grid > *')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
        )
        return width <= seen and cut == 0


@pytest.fixture
def visit(chromium, server):
    """Opens the page for one more visitor."""
    visitors = []

    def new(**options) -> Visitor:
        visitors.append(Visitor(chromium, server.url, **options))
        return visitors[-1]

    yield new
    for visitor in visitors:
        visitor.context.close()


def pictures(folder: Path, frame: int) -> list[Image.Image]:
    return [Image.open(folder / f"samples/CAM_{view.upper().replace(' ', '_')}/{frame}.jpg") for view in VIEWS]


def test_a_plan_is_shown_as_the_models_twenty_probabilities_and_its_words_as_they_come(visit, answerer, frames):
    visitor = visit()
    visitor.upload_frame(frames.parent, 1)
    visitor.page.evaluate(
        """window.seen = []; new MutationObserver(() => {
            const said = document.querySelector('.said'); if (said) window.seen.push(said.textContent.trim()); })
        .observe(document.querySelector('#result'), {subtree: true, childList: true, characterData: true})"""
    )
    visitor.ask()
    answer = visitor.answer()
    question = question_text(Choices("plan", speed=5.0, command="go straight"), load_templates())
    images = answerer.pixels(pictures(frames.parent, 1))
    bars = {str(bar.action): bar for row in grid(answerer.plan(question, VIEWS, images).log_probs) for bar in row}
    shown = visitor.page.eval_on_selector_all(
        ".cell", "cells => cells.map(c => [c.title.split(':')[0], c.querySelector('b').textContent])"
    )
    assert dict(shown) == {action: percent(bar.probability) for action, bar in bars.items()}
    [best] = [action for action, bar in bars.items() if bar.is_best]
    assert visitor.page.text_content(".winner b") == best
    assert visitor.page.locator(".cell.best").get_attribute("title").startswith(best)
    *_, said = answerer.stream(question, VIEWS, images, 32)
    assert answer == " ".join(said.split())
    grown = list(dict.fromkeys(visitor.page.evaluate("window.seen")))
    assert len(grown) >= 3
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(grown))


def test_an_example_brings_pictures_speed_command_and_what_the_driver_did(visit):
    visitor = visit()
    visitor.page.locator("#examples button").nth(2).click()
    visitor.wait_for_pictures(6)
    assert visitor.page.input_value("#speed input[type=number]") == "7.5"
    assert visitor.page.input_value("#command input") == "go straight and turn left"
    visitor.ask()
    visitor.answer()
    assert visitor.page.locator(".cell.truth").get_attribute("title").startswith("ACCELERATE, LEFT_TURN:")
    visitor.page.click("#clear")
    visitor.wait_for_pictures(0)
    visitor.ask()
    visitor.wait_for_problem("no pictures yet")


def test_bad_pictures_and_missing_ones_are_refused_kindly_and_the_server_goes_on(visit, frames, tmp_path):
    Image.new("L", (10_000, 6_000), 90).save(tmp_path / "large.jpg")
    (tmp_path / "text.jpg").write_text("this is no picture")
    visitor = visit()
    visitor.upload_frame(frames.parent, 0, VIEWS[:-1])  # all but the back
    for name, told in (
        ("large", "The back picture has 60 megapixels"),
        ("text", "not a picture that this page can read"),
    ):
        visitor.upload("back", tmp_path / f"{name}.jpg")
        visitor.wait_for_problem(told)
        visitor.page.wait_for_selector(f"[data-testid=toast-body]:has-text('{told}')")
        visitor.wait_for_pictures(5)
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


def test_two_visitors_at_once_get_each_their_own_answer(visit, answerer, frames):
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
        *_, said = answerer.stream(asked[frame], VIEWS, answerer.pixels(pictures(frames.parent, frame)), 256)
        assert " ".join(answers[frame].split()) == " ".join(said.split())
        assert asked[frame] in visitor.page.text_content(".asked p")
    assert answers[0] != answers[2]


def test_on_a_phone_nothing_has_to_be_scrolled_sideways(visit):
    visitor = visit(viewport=PHONE, is_mobile=True, has_touch=True)
    assert visitor.fits()
    visitor.page.locator("#examples button").nth(0).tap()
    visitor.wait_for_pictures(6)
    visitor.page.tap("#ask")
    visitor.page.wait_for_selector(DONE)
    assert visitor.fits()


def test_the_page_asks_nothing_of_any_other_machine_and_only_this_machine_reaches_it(visit, server):
    visitor = visit()
    visitor.page.locator("#examples button").nth(1).click()
    visitor.wait_for_pictures(6)
    visitor.choose("Traffic light")
    visitor.ask()
    assert visitor.answer()
    hosts = {urlsplit(url).netloc for url in visitor.requests if not url.startswith(("data:", "blob:"))}
    assert hosts == {urlsplit(server.url).netloc}
    # Not even tried: the policy sent with the page would have stopped it, and said so here.
    assert not [line for line in visitor.console if "Content Security Policy" in line or line.startswith("error")]
    listening = [
        connection.laddr.ip
        for connection in psutil.Process(server.process.pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening == ["127.0.0.1"]


def get(url: str, path: str) -> int:
    """The status of a path that is sent as it stands."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {address.netloc}\r\nConnection: close\r\n\r\n".encode())
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


@pytest.mark.parametrize("place", ["a file of this machine", "a way out of the uploads", "an address"])
@pytest.mark.parametrize("headers", [{}, {"content-type": "text/plain"}])
def test_a_request_that_names_a_file_in_place_of_an_upload_is_refused(server, tmp_path, place, headers):
    import httpx

    picture = tmp_path / "private.png"
    Image.new("RGB", (64, 64), (200, 0, 0)).save(picture)
    [uploads] = server.temporary.glob("senna-demo-*")
    path = {
        "a file of this machine": str(picture),
        "a way out of the uploads": f"{uploads}/../../{tmp_path.name}/private.png",
        "an address": "http://127.0.0.1:9/private.png",
    }[place]
    body = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}, ""], "fn_index": 5, "session_hash": "x"}
    for route in ("queue/join", "run/check", "call/check"):
        address = f"{server.url}/gradio_api/{route}"
        answer = httpx.post(address, content=json.dumps(body), headers=headers, trust_env=False)
        assert (answer.status_code, answer.text) == (403, "not an upload")


def test_a_file_over_the_limit_is_not_taken(server):
    import httpx

    big = {"files": ("big.jpg", b"\xff\xd8" + bytes(41 << 20))}
    assert httpx.post(f"{server.url}/gradio_api/upload", files=big, trust_env=False, timeout=60).status_code == 413
