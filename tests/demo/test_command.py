"""`senna demo` before it serves: the port is opened first, and wrong use is reported before the model is loaded."""

import importlib.util
import socket

import pytest

from senna.demo.command import main
from senna.demo.port import address_of, is_loopback, listen
from senna.errors import UsageError


@pytest.fixture(autouse=True)
def _gradio(monkeypatch):
    """Run the same checks where gradio is not installed."""
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: name if name == "gradio" else found(name, *rest)
    )


def test_by_default_only_this_machine_reaches_the_page():
    with listen("127.0.0.1", 0) as listener:
        assert is_loopback(listener)
        assert address_of(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"
        socket.create_connection(listener.getsockname(), timeout=5).close()
    with listen("0.0.0.0", 0) as listener:
        assert not is_loopback(listener)


def test_a_busy_port_is_reported_before_the_model_is_loaded():
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"--port {port} cannot be used.*--port 0 for a free one"):
            main(["--model", "/no/such/model", "--port", str(port)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "no.such.host.invalid"], "no such address"),
        (["--port", "70000"], "from 0 to 65535"),
        (["--max-image-megapixels", "0"], "use a number above 0"),
        (["--image-folder", "x"], "--image-folder needs --data"),
        (["--dtype", "half"], "--dtype half"),
        (["--port", "0", "--device", "cuda:9"], "--device cuda:9 cannot be used"),
        (["--port", "0", "--device", "toaster"], "--device toaster cannot be used"),
    ],
)
def test_wrong_use_is_reported(arguments, message):
    if "--device" in arguments:
        pytest.importorskip("gradio", reason="gradio is not installed")
    with pytest.raises(UsageError, match=message):
        main(["--model", "/no/such/model", *arguments])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--model or --server is missing"),
        (["--model", "x", "--server", "http://127.0.0.1:1"], "--model does not fit --server"),
        (["--server", "http://127.0.0.1:1", "--device", "cpu"], "--device does not fit --server"),
        (["--model", "x", "--served-model", "y"], "--served-model needs --server"),
    ],
)
def test_a_model_is_here_or_behind_a_server(arguments, message):
    with pytest.raises(UsageError, match=message):
        main(arguments)


def test_without_gradio_the_command_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None)
    with pytest.raises(UsageError, match=r"pip install .*\.\[demo\]"):
        main(["--model", "x"])
