"""The address of a server, its key, and the proxy on the way to it."""

import socket
import sys
import traceback

import pytest

from senna.convert.captioners import make_captioner
from senna.convert.captioners.openai import OpenAICaptioner
from senna.errors import SennaError, UsageError
from senna.servers import address
from senna.servers.address import KEY, RetryPolicy, parse_server, parse_servers, proxy_of, read_key
from tests.convert import caption_server
from tests.convert.caption_server import QUICK, answers_to, serving

ask_for = caption_server.ask_for
PROXY = "http://jo:hidden@127.0.0.1:1"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv(KEY, raising=False)


@pytest.fixture
def unknown_names(monkeypatch):
    """No host name has an address."""
    monkeypatch.setattr(address, "_resolve", lambda name: [])


@pytest.mark.parametrize(
    "value",
    ["sesame", "sesame\r\n", " sesame\r", "\u201csesame\u201d", "\u2018sesame\u2019\n", "'sesame'", '"sesame"', "\ufeffsesame",
     "Bearer sesame", "\u201cBearer sesame\u201d"],
)  # fmt: skip
def test_line_breaks_and_quotation_marks_around_a_key_are_removed(ask_for, monkeypatch, value):
    monkeypatch.setenv(KEY, value)
    with serving() as server:
        OpenAICaptioner(server.address, "tiny", retry=QUICK).answer(ask_for(1))
        assert server.keys == {"Bearer sesame"}


@pytest.mark.parametrize("value", ["", "\r\n", "  ", "\u201c\u201d"])
def test_an_empty_key_is_none(value):
    assert read_key(value) is None


@pytest.mark.parametrize(
    ("value", "character"),
    [
        ("sesame-open\rsecret", "CARRIAGE RETURN"),
        ("sesame-open\nX-Evil: 1", "LINE FEED"),
        ("sesame\u201dopen", "RIGHT DOUBLE QUOTATION MARK"),
        ("sesame\u00e9", "LATIN SMALL LETTER E WITH ACUTE"),
        ("sesame open", "SPACE"),
        ("sesame\x07open", "a control character"),
        ("sesame\udce9open", "a control character"),
    ],
)
def test_a_key_with_other_characters_is_refused_and_not_printed(monkeypatch, value, character):
    monkeypatch.setenv(KEY, value)
    with pytest.raises(UsageError, match=character) as error:
        make_captioner("openai", server="localhost:1")
    text = "".join(traceback.format_exception(error.value)) + repr(error.value)
    assert "sesame" not in text
    assert KEY in text


def test_a_key_that_the_server_repeats_in_a_refusal_is_not_printed(ask_for, monkeypatch, caplog):
    monkeypatch.setenv(KEY, "sesame-open")
    caplog.set_level("DEBUG")
    with serving(lambda question, attempt: ("status", 400, "wrong key sesame-open")) as server:
        (answer,) = OpenAICaptioner(server.address, "tiny", retry=QUICK).answer(ask_for(1))
    assert "wrong key ***" in answer.reason
    assert "sesame" not in caplog.text


@pytest.mark.parametrize("status", [401, 500])
def test_a_key_that_the_server_repeats_is_not_printed(ask_for, monkeypatch, caplog, status):
    monkeypatch.setenv(KEY, "sesame-open")
    policy = RetryPolicy(1, 2, 0.01, 0.01)
    caplog.set_level("DEBUG")
    with serving(lambda question, attempt: ("status", status, "wrong key sesame-open")) as server:  # noqa: SIM117
        with pytest.raises(SennaError, match=r"wrong key \*\*\*") as error:
            list(OpenAICaptioner(server.address, "tiny", retry=policy).stream(ask_for(1)))
    assert "sesame" not in "".join(traceback.format_exception(error.value)) + caplog.text
    assert "sesame" not in repr(parse_server(server.address))


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST", "app.localhost", "127.0.0.1", "127.8.8.8", "0.0.0.0", "[::1]", "[::]", "10.1.2.3", "172.16.0.9",
     "192.168.1.5", "169.254.7.7", "100.64.0.1", "[fd00::7]", "[fe80::1]", "[::ffff:10.0.0.1]", socket.gethostname(),
     socket.gethostname().upper(), f"{socket.gethostname()}.", "vllm.default.svc.cluster.local"],
)  # fmt: skip
def test_near_servers_are_asked_without_the_proxy(monkeypatch, unknown_names, host):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, PROXY)
    assert proxy_of(f"http://{host}:8000/v1") is None
    assert proxy_of(f"https://{host}/v1") is None


def test_a_name_is_near_if_all_its_addresses_are(monkeypatch):
    monkeypatch.setenv("http_proxy", PROXY)
    for addresses, proxy in (
        [["172.18.0.2"], None],
        [["8.8.8.8"], PROXY],
        [["8.8.8.8", "10.0.0.1"], PROXY],
        [[], PROXY],
    ):
        monkeypatch.setattr(address, "_resolve", lambda name, addresses=addresses: addresses)
        assert proxy_of("http://vllm:8000/v1") == proxy


def test_other_servers_are_asked_through_the_proxy_of_their_scheme(monkeypatch, unknown_names):
    assert proxy_of("http://captions.example/v1") is None
    monkeypatch.setenv("https_proxy", "proxy.example:3128")
    assert proxy_of("http://captions.example/v1") is None
    assert proxy_of("https://captions.example/v1") == "http://proxy.example:3128"
    monkeypatch.setenv("all_proxy", PROXY)
    assert proxy_of("http://captions.example/v1") == proxy_of("http://8.8.8.8/v1") == PROXY
    monkeypatch.setenv("no_proxy", "captions.example,.other.example")
    assert proxy_of("http://captions.example:8000/v1") is None
    assert proxy_of("http://a.other.example/v1") is None


@pytest.mark.parametrize("proxy", ["ftp://proxy:1", "http://", "http://jo:hidden@proxy:port"])
def test_a_proxy_that_is_no_address_is_refused(monkeypatch, unknown_names, proxy):
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(UsageError, match="is not an address") as error:
        make_captioner("openai", server="captions.example")
    assert "add captions.example to no_proxy" in error.value.remedy
    assert "hidden" not in str(error.value)


def test_an_error_through_a_proxy_names_it_without_its_password(ask_for, monkeypatch, unknown_names):
    monkeypatch.setenv("http_proxy", PROXY)
    policy = RetryPolicy(1, 2, 0.01, 0.01)
    with pytest.raises(SennaError, match=r"through the proxy http://127\.0\.0\.1:1.*refused") as error:
        OpenAICaptioner("http://captions.example/v1", "tiny", retry=policy).answer(ask_for(1))
    assert "add captions.example to no_proxy" in error.value.remedy
    assert "hidden" not in "".join(traceback.format_exception(error.value))
    with serving(lambda question, attempt: ("status", 403, "not on the list")) as proxy:
        monkeypatch.setenv("http_proxy", proxy.address)
        with pytest.raises(
            SennaError, match=rf"through the proxy {proxy.address}: 403 Forbidden.*not on the list"
        ) as error:
            OpenAICaptioner("http://captions.example/v1", "tiny", retry=policy).answer(ask_for(1))
    assert "add captions.example to no_proxy" in error.value.remedy


def test_a_server_on_all_addresses_is_reached_although_there_is_a_proxy(ask_for, monkeypatch):
    monkeypatch.setenv("http_proxy", PROXY)
    with serving() as server:
        address = f"http://0.0.0.0:{server.server_address[1]}"
        assert OpenAICaptioner(address, "tiny", retry=QUICK).answer(ask_for(1)) == answers_to(ask_for(1))


def test_a_socks_proxy_without_its_package_is_reported(ask_for, monkeypatch, unknown_names):
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv("all_proxy", "socks5://proxy.example:1080")
    with pytest.raises(UsageError, match=r"through the proxy socks5://proxy\.example:1080 need the package socksio"):
        OpenAICaptioner("http://captions.example/v1", "tiny", retry=QUICK).answer(ask_for(1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a:8000,,b:8000", "address 2 of 3 is empty"),
        ("a:8000,", "address 2 of 2 is empty"),
        (",", "address 1 of 2 is empty"),
        ("a:8000, http://a:8000/v1/", "names http://a:8000/v1 twice"),
        ("http://A/v1,http://jo:hidden@a:80/v1", "names http://a:80/v1 twice"),
        ("a:8000,ftp://b/v1", "ftp://b/v1 is not an address"),
        ("http://jo:hid,den@a:8000", "a comma before an @.*%2C"),
        ("jo:80,hidden@a:8000", "a comma before an @.*%2C"),
    ],
)
def test_addresses_that_cannot_be_used_are_named(text, message):
    with pytest.raises(UsageError, match=message) as error:
        make_captioner("openai", server=text)
    assert "hid" not in str(error.value)


def test_addresses_may_have_blanks_and_logins_between_commas():
    text = "a:8000 ,http://jo:hidden@b/v1,  https://c:8000/api/v1/chat/completions"
    assert [str(server) for server in parse_servers(text)] == [
        "http://a:8000/v1", "http://b/v1", "https://c:8000/api/v1",
    ]  # fmt: skip
