"""Runs of `senna convert` whose server refuses images or gives no text."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest

from senna.cli import main
from senna.convert import pipeline
from senna.convert.caption_checks import ask
from senna.convert.caption_limits import CaptionLimits, allowed_refusals
from senna.convert.captioners import Request
from senna.errors import SennaError, UsageError
from senna.servers.replies import NoAnswer
from tests.convert.caption_server import serving


def answering(server, refused: set[str]):
    """Make a server refuse images with these hashes, and describe others."""
    server.images = Counter()
    content_of = server.RequestHandlerClass.image_of

    def behave(question, attempt):
        image = hashlib.sha256(content_of(server.bodies[-1])).hexdigest()
        server.images[image] += 1
        if image in refused:
            return "status", 400, "cannot decode this image"
        light = "one word" in question
        return "content", "Red" if light else "A street with two lanes lies ahead, and it is empty."

    server.behave = behave
    return server


@pytest.fixture
def convert(drawn_world, tmp_path):
    """Return a function that converts three frames with a server."""

    def run(server, *flags) -> int:
        words = ["--nuscenes", str(drawn_world), "--version", "v1.0-mini", "--limit", "3", "--out", str(tmp_path)]
        words += [
            "--captioner",
            "openai",
            "--server",
            server.address,
            "--captioner-model",
            "tiny",
            "--concurrency",
            "1",
        ]
        return main(["convert", *words, *flags])

    return run


@pytest.fixture
def front_image(drawn_world):
    return min((drawn_world / "samples" / "CAM_FRONT").iterdir())


def test_a_refused_image_is_marked_in_the_quality_report(convert, front_image, tmp_path, capsys):
    refused = {hashlib.sha256(front_image.read_bytes()).hexdigest()}
    with serving() as server:
        answering(server, refused)
        assert convert(server, "--max-refused", "0") == 1
        error = capsys.readouterr().err
        assert f"1 of 18 images were refused, and --max-refused 0 allows 0; the first is {front_image}" in error
        assert "cannot decode this image" in error
        assert convert(server) == 0
    problems = json.loads((tmp_path / "quality.json").read_text())["problems"]
    assert problems["caption refused by the server"] >= 1
    assert "A street with two lanes" in (tmp_path / "senna_nusc_train.jsonl").read_text()


def test_a_run_whose_answers_are_all_empty_stops_early(convert, tmp_path, capsys):
    message = {"content": None, "reasoning_content": "Let me see"}
    with serving(lambda question, attempt: ("message", message, "length")) as server:
        assert convert(server) == 1
        error = capsys.readouterr().err
        assert "the model wrote its reasoning but no answer, and reached the limit of 256 tokens" in error
        assert "--captioner-max-tokens" in error
        assert not list(tmp_path.glob("*.jsonl"))
        assert sum(server.tries.values()) <= 17
        answering(server, set())
        assert convert(server) == 0  # the empty answers were not stored
    assert list(tmp_path.glob("*.jsonl"))


def test_a_short_run_of_empty_answers_stops_too(monkeypatch):
    monkeypatch.setattr(pipeline, "finish", lambda *_: None)
    requests = [Request(None, "front", Path("a.jpg"), "description", "what?")] * 2  # type: ignore[arg-type]

    class Empty:
        name, window = "model", 2

        def answer(self, requests):
            return [NoAnswer("the model wrote no text") for _ in requests]

    captions = ask(Empty(), requests)
    limits = CaptionLimits("1%", 6)
    frame = pipeline.PreparedFrame(None, "train", [], requests, 0)  # type: ignore[arg-type]
    with pytest.raises(SennaError, match="all 2 answers of the captioner are empty: the model wrote no text"):
        next(pipeline.finish_checked([(frame, captions)], "model", limits))
    with pytest.raises(SennaError, match="all 16 answers of the captioner are empty"):
        limits.check(requests * 7, captions * 7)
    resumed = CaptionLimits("1%", 6, has_text=True)
    for _ in range(20):
        resumed.check(requests, captions)


@pytest.mark.parametrize(
    ("text", "images", "allowed"),
    [("0", 600, 0), ("7", 600, 7), ("1%", 600, 6), ("1 %", 6, 1), ("0.5%", 1000, 5), ("0%", 600, 0), ("100%", 12, 12)],
)
def test_max_refused_is_a_number_or_a_percentage(text, images, allowed):
    assert allowed_refusals(text, images) == allowed


@pytest.mark.parametrize("text", ["", "-1", "many", "1.5", "101%", "nan%", "%"])
def test_other_values_of_max_refused_are_refused(text, capsys):
    with pytest.raises(UsageError, match="--max-refused"):
        allowed_refusals(text, 1)


def test_one_bad_image_counts_once_for_all_its_questions():
    limits = CaptionLimits("1", 600)
    refusal = NoAnswer("bad", is_refused=True)

    class Refusing:
        name, window = "model", 2

        def answer(self, requests):
            return [
                refusal if request.image.name == "bad.jpg" else "A street with two lanes lies ahead."
                for request in requests
            ]

    requests = [
        Request(None, "front", Path(name), "description", "what?") for name in ("bad.jpg", "bad.jpg", "good.jpg")
    ]  # type: ignore[arg-type]
    limits.check(requests, ask(Refusing(), requests))
    limits.check(requests, ask(Refusing(), requests))
