"""The addresses that get the user's token."""

from dataclasses import replace

import pytest

from senna.download import assets
from senna.download.endpoint import parse_endpoint
from senna.errors import UsageError


@pytest.fixture
def vicuna(hub):
    return hub.repositories[assets.VICUNA.repo]


def test_the_token_is_sent_where_the_user_asks_for_it_and_its_refusal_reported(download, hub, vicuna, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    vicuna.status = 401
    with pytest.raises(UsageError, match=r"does not accept your token \(401\).*check HF_TOKEN"):
        download("--send-token")
    assert hub.authorization == ["Bearer hf_mine"]


def test_the_token_is_not_sent_to_a_mirror(download, hub, vicuna, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    assert download() == 0
    assert set(hub.authorization) == {""}
    assert f"your token is not sent to {hub.endpoint}; --send-token sends it" in capsys.readouterr().err
    vicuna.commit, vicuna.status = "e" * 40, 401
    monkeypatch.setattr(assets, "PRESETS", {"7b": (replace(assets.VICUNA, revision="e" * 40),)})
    with pytest.raises(UsageError, match=r"\(401\), and your token was not sent") as error:
        download()
    assert "--send-token" in error.value.remedy
    assert set(hub.authorization) == {""}


@pytest.mark.parametrize(
    ("address", "is_sent"),
    [
        ("https://huggingface.co", True),
        ("https://HuggingFace.co:443/", True),
        ("https://hub-ci.huggingface.co", True),
        ("https://hf.co", True),
        ("http://huggingface.co", False),
        ("https://huggingface.co:8443", False),
        ("https://huggingface.co.example.org", False),
        ("https://nothuggingface.co", False),
        ("https://example.org/huggingface.co", False),
        ("https://hf-mirror.com", False),
        ("http://127.0.0.1:8080", False),
    ],
)
def test_the_token_goes_to_https_hosts_of_the_hub_only(address, is_sent):
    assert parse_endpoint(address).may_see_token == is_sent
    assert parse_endpoint(address).token is (None if is_sent else False)
    assert parse_endpoint(address, send_token=True).token is None


def test_an_address_that_looks_like_another_host_is_refused():
    for address in (
        "https://huggingface.co@example.org",
        "https://example.org\\@huggingface.co",
        "https://",
        "https://a:b",
    ):
        with pytest.raises(UsageError, match="is no address"):
            parse_endpoint(address)
