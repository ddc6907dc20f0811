"""The openai captioner against a local HTTP server, which is faulty."""

import os
import sys
import threading
import time

import pytest
from PIL import Image

from senna.convert.captioners import Request, make_captioner
from senna.convert.captioners.cache import CachedCaptioner
from senna.convert.captioners.openai import OpenAICaptioner, _data_url
from senna.errors import DataError, SennaError, UsageError
from senna.servers.address import RetryPolicy
from tests.convert import caption_server
from tests.convert.caption_server import QUICK, answers_to, serving

ask_for = caption_server.ask_for

FAULTS = [
    ("status", 500), ("status", 503), ("status", 429), ("garbage",), ("without_answer",), ("cut_off",), ("stall",), ("reset",),
    ("hang_up",), ("dribble",), ("status", 502), ("dribbling_headers",), ("endless",), ("status", 425),
    ("message", {"content": "question"}, "abort"),
]  # fmt: skip


def test_every_temporary_failure_is_retried_and_no_answer_is_lost_or_doubled(ask_for):
    def behave(question, attempt):
        number = int(question.split()[1])
        return FAULTS[(number + attempt) % len(FAULTS)] if attempt <= number % 4 else None

    requests = ask_for(56)
    with serving(behave) as server:
        got = list(OpenAICaptioner(server.address, "tiny", 8, retry=QUICK).stream(requests))
        assert sorted(got) == list(enumerate(answers_to(requests)))
        assert {server.answered[request.question] for request in requests} == {1}
        assert [server.tries[request.question] for request in requests] == [1 + number % 4 for number in range(56)]


def test_concurrency_limits_simultaneous_requests(ask_for):
    with serving(lambda question, attempt: ("slow", 0.1)) as server:
        OpenAICaptioner(server.address, "tiny", 4).answer(ask_for(16))
        assert server.busiest == 4


def test_retry_after_header_is_respected(ask_for):
    def behave(question, attempt):
        return ("status", 429, "busy", [("Retry-After", "0.2")]) if attempt == 1 else None

    with serving(behave) as server:
        OpenAICaptioner(server.address, "tiny", 2, retry=QUICK).answer(ask_for(2))
        assert all(0.19 < second - first < 1 for first, second in server.times.values())


def test_permanent_failure_names_image_and_reason_and_keeps_other_answers(ask_for):
    requests, all_received = ask_for(3), threading.Barrier(3)

    def behave(question, attempt):
        all_received.wait(10)
        return ("status", 403, "this image is not yours") if question.endswith("1") else ("slow", 0.2)

    got = []
    with serving(behave) as server:
        with pytest.raises(SennaError, match=r"1\.png.*this image is not yours"):
            got.extend(OpenAICaptioner(server.address, "tiny", 3, retry=QUICK).stream(requests))
        assert server.tries["question 1"] == 1
    assert sorted(index for index, _ in got) == [0, 2]


def test_after_a_failure_only_missing_answers_are_requested(ask_for, tmp_path):
    requests = ask_for(6)
    broken = threading.Event()
    broken.set()

    def behave(question, attempt):
        return ("status", 404) if question.endswith("4") and broken.is_set() else None

    with serving(behave) as server:
        cached = CachedCaptioner(OpenAICaptioner(server.address, "tiny", 1, retry=QUICK), tmp_path / "captions.sqlite")
        with pytest.raises(SennaError):
            cached.answer(requests)
        broken.clear()
        assert cached.answer(requests) == answers_to(requests)
        assert [server.answered[f"question {number}"] for number in range(6)] == [1] * 6


def test_unreachable_server_is_reported_after_all_attempts(ask_for):
    with serving() as server:
        address = server.address
    with pytest.raises(SennaError, match=r"after 3 attempts .*refused.*run the same command again"):
        OpenAICaptioner(address, "tiny", 2, retry=RetryPolicy(1, 3, 0.01, 0.01)).answer(ask_for(3))


@pytest.mark.parametrize("status", [400, 413, 415, 422])
def test_a_refused_image_is_marked_and_the_others_are_answered(ask_for, tmp_path, caplog, status):
    requests = ask_for(6)
    is_broken = [True]

    def behave(question, attempt):
        return ("status", status, "the image is too large") if is_broken[0] and question.endswith("2") else None

    with serving(behave) as server:
        cached = CachedCaptioner(OpenAICaptioner(server.address, "tiny", 2, retry=QUICK), tmp_path / "captions.sqlite")
        answers = cached.answer(requests)
        assert answers == [*answers_to(requests)[:2], "", *answers_to(requests)[3:]]
        assert answers[2].is_refused
        assert "the image is too large" in answers[2].reason
        assert server.tries["question 2"] == 1
        assert len(caplog.messages) == 1
        assert f"refused {requests[2].image}" in caplog.text
        is_broken[0] = False
        assert cached.answer(requests) == answers_to(requests)  # a refusal is not stored
        assert server.answered == {request.question: 1 for request in requests}


def test_a_server_that_refuses_every_request_ends_the_run(ask_for):
    with serving(lambda question, attempt: ("status", 400, "this model takes no images")) as server:
        with pytest.raises(
            SennaError, match="no text; the last is refused: 400 Bad Request: this model takes no images"
        ):
            OpenAICaptioner(server.address, "tiny", 4, retry=QUICK).answer(ask_for(64))
        assert sum(server.tries.values()) <= 16 + 4


@pytest.mark.parametrize(
    ("message", "finish_reason", "reason"),
    [
        (
            {"content": None, "reasoning_content": "Let me see"},
            "length",
            "wrote its reasoning but no answer.*limit of 256",
        ),
        ({"content": "", "reasoning": "Let me see"}, "stop", "wrote its reasoning but no answer"),
        ({"content": "<think>Let me see"}, "length", "wrote its reasoning but no answer.*limit of 256"),
        ({"content": None}, "length", "wrote no text, and reached the limit of 256"),
        ({"content": None, "refusal": "I must not"}, "stop", "the model refused: I must not"),
        ({}, "content_filter", "finish_reason: content_filter"),
        ({"content": ""}, "stop", "sent an empty text"),
    ],
)
def test_empty_answers_are_reported_at_once_and_end_the_run_early(ask_for, caplog, message, finish_reason, reason):
    with serving(lambda question, attempt: ("message", message, finish_reason)) as server:
        with pytest.raises(SennaError, match=f"first 16 answers have no text.*{reason}") as error:
            OpenAICaptioner(server.address, "tiny", 4, retry=QUICK).answer(ask_for(64))
        assert len(caplog.messages) == 1
        assert "--captioner-max-tokens" in error.value.remedy
        assert sum(server.tries.values()) <= 16 + 4


def test_single_empty_answers_do_not_end_the_run(ask_for):
    def behave(question, attempt):
        return None if int(question.split()[1]) % 10 == 0 else ("message", {"content": None}, "stop")

    with serving(behave) as server:
        answers = OpenAICaptioner(server.address, "tiny", 4, retry=QUICK).answer(ask_for(50))
        assert sum(map(bool, answers)) == 5


def test_a_truncated_answer_is_reported(ask_for, caplog):
    with serving(lambda question, attempt: ("message", {"content": "A road with"}, "length")) as server:
        assert set(OpenAICaptioner(server.address, "tiny", retry=QUICK).answer(ask_for(5))) == {"A road with"}
    assert len(caplog.messages) == 1
    assert "cut off at the limit of 256 tokens" in caplog.text


MAX_TOKENS_REFUSED = {
    "message": "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
    "type": "invalid_request_error", "param": "max_tokens", "code": "unsupported_parameter",
}  # fmt: skip
TEMPERATURE_REFUSED = {
    "message": "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is supported.",
    "type": "invalid_request_error", "param": "temperature", "code": "unsupported_value",
}  # fmt: skip
FORBIDDEN = {"type": "extra_forbidden", "loc": ["body", "max_tokens"], "msg": "Extra inputs are not permitted"}


@pytest.mark.parametrize(
    ("refusals", "status", "sent"),
    [
        ({"max_tokens": {"error": MAX_TOKENS_REFUSED}}, 400, {"max_completion_tokens": 256, "temperature": 0.0}),
        ({"temperature": {"error": TEMPERATURE_REFUSED}}, 400, {"max_tokens": 256}),
        (
            {"max_tokens": {"error": MAX_TOKENS_REFUSED}, "temperature": {"error": TEMPERATURE_REFUSED}},
            400,
            {"max_completion_tokens": 256},
        ),
        ({"temperature": {"error": "`temperature` must be strictly positive"}}, 422, {"max_tokens": 256}),
        ({"max_tokens": {"detail": [FORBIDDEN]}}, 422, {"max_completion_tokens": 256, "temperature": 0.0}),
    ],
)
def test_parameters_that_a_server_refuses_are_replaced(ask_for, caplog, refusals, status, sent):
    requests = ask_for(12)
    with serving() as server:
        server.refusals, server.refusal_status = refusals, status
        assert OpenAICaptioner(server.address, "tiny", 3, retry=QUICK).answer(requests) == answers_to(requests)
        assert server.answered == {request.question: 1 for request in requests}
        names = ("max_tokens", "max_completion_tokens", "temperature")
        assert {name: server.bodies[-1][name] for name in names if name in server.bodies[-1]} == sent
        assert sum(server.tries.values()) <= 12 + 3 * len(refusals)
    assert len(caplog.messages) == ("temperature" in refusals)


@pytest.mark.parametrize("fault", ["stall", "dribble", "dribbling_headers", "endless"])
def test_a_reply_that_never_ends_is_cut_off(ask_for, fault):
    start = time.monotonic()
    policy = RetryPolicy(timeout=0.6, attempts=2, first_pause=0.01, longest_pause=0.01)
    with serving(lambda question, attempt: (fault,)) as server:  # noqa: SIM117
        with pytest.raises(
            SennaError, match=r"0\.png after 2 attempts \((no complete reply in 0\.6 s|a reply of more than)"
        ):
            OpenAICaptioner(server.address, "tiny", retry=policy).answer(ask_for(1))
    assert time.monotonic() - start < 4


def test_the_package_openai_is_needed_and_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    monkeypatch.delitem(sys.modules, "senna.servers.client", raising=False)
    monkeypatch.delattr("senna.servers.client", raising=False)
    with pytest.raises(UsageError, match="needs the package openai") as error:
        make_captioner("openai", server="localhost:1")
    assert error.value.remedy == "pip install -c constraints.txt -e '.[captions]'"


def test_missing_key_is_named(ask_for, monkeypatch):
    with serving(lambda question, attempt: ("status", 401, "who are you?")) as server:
        with pytest.raises(SennaError, match="OPENAI_API_KEY"):
            OpenAICaptioner(server.address, "tiny", retry=QUICK).answer(ask_for(1))
        monkeypatch.setenv("OPENAI_API_KEY", "sesame")
        with pytest.raises(SennaError):
            OpenAICaptioner(server.address, "tiny", retry=QUICK).answer(ask_for(1))
        assert server.keys == {None, "Bearer sesame"}


def test_name_of_the_only_model_is_requested(ask_for):
    with serving() as server:
        captioner = make_captioner("openai", server=server.address, max_tokens=77)
        captioner.answer(ask_for(1))
        assert captioner.name == "openai:tiny"
        assert (server.bodies[0]["model"], server.bodies[0]["max_tokens"], server.bodies[0]["temperature"]) == (
            "tiny",
            77,
            0,
        )
        server.models = ["one", "two"]
        with pytest.raises(UsageError, match=r"--captioner-model \(one, two\)"):
            make_captioner("openai", server=server.address).answer(ask_for(1))


def test_redirect_is_not_followed(ask_for):
    redirect = ("status", 307, "", [("Location", "http://127.0.0.1:1/v1")])
    with serving(lambda question, attempt: redirect) as server, pytest.raises(SennaError, match="307"):
        OpenAICaptioner(server.address, "tiny", retry=QUICK).answer(ask_for(1))


@pytest.mark.parametrize(
    ("content", "text"), [(None, ""), (" ", ""), ([{"type": "text", "text": "in parts"}], "in parts")]
)
def test_answer_can_be_empty_or_in_parts(ask_for, content, text):
    with serving(lambda question, attempt: ("content", content)) as server:
        assert OpenAICaptioner(server.address, "tiny", retry=QUICK).answer(ask_for(1)) == [text]


@pytest.mark.parametrize(
    "written", ["127.0.0.1:{port}", "http://127.0.0.1:{port}/", "http://127.0.0.1:{port}/v1/chat/completions"]
)
def test_address_can_be_written_in_several_ways(written, ask_for):
    with serving() as server:
        captioner = OpenAICaptioner(written.format(port=server.server_address[1]), "tiny")
        assert captioner.answer(ask_for(1)) == answers_to(ask_for(1))


@pytest.mark.parametrize(
    ("server", "message"),
    [
        (None, "needs --server"),
        ("http://", "not an address"),
        ("ftp://a/v1", "not an address"),
        ("a:b", "not an address"),
    ],
)
def test_invalid_addresses_are_refused(server, message):
    with pytest.raises(UsageError, match=message):
        make_captioner("openai", server=server)


def test_files_that_are_not_images_are_named(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not an image")
    with serving() as server, pytest.raises(DataError, match=r"notes\.txt"):
        OpenAICaptioner(server.address, "tiny").answer([Request(None, "front", path, "description", "what?")])
    with serving() as server, pytest.raises(DataError, match="gone"):
        OpenAICaptioner(server.address, "tiny").answer(
            [Request(None, "front", tmp_path / "gone", "description", "what?")]
        )


@pytest.mark.parametrize(
    "content", [b"root:x:0:0", b"RIFF$\0\0\0WAVEfmt a recording", b"\xff\xd8\xffa secret", b"\x89PNG"]
)
def test_no_byte_of_a_file_that_is_no_image_is_sent(content, tmp_path):
    (tmp_path / "image.jpg").write_bytes(content)
    with serving() as server:
        with pytest.raises(DataError, match=r"image\.jpg.*is not a JPEG, PNG, WebP or GIF"):
            OpenAICaptioner(server.address, "tiny").answer(
                [Request(None, "front", tmp_path / "image.jpg", "description", "what?")]
            )
        assert not server.tries


@pytest.mark.parametrize("kind", ["pipe", "device", "huge"])
def test_a_file_that_is_not_regular_or_too_large_is_not_read(kind, tmp_path):
    path = tmp_path / "image.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with path.open("wb") as file:
            file.truncate(1 << 40)
    with serving() as server:
        with pytest.raises(DataError, match=r"not a regular file|too large"):
            OpenAICaptioner(server.address, "tiny").answer([Request(None, "front", path, "description", "what?")])
        assert not server.tries


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_images_of_the_usual_formats_are_sent(kind, tmp_path):
    path = tmp_path / "image"
    Image.new("RGB", (9, 9)).save(path, kind)
    assert _data_url(path).startswith(f"data:image/{kind.lower()};base64,")
