"""Connect to a Ray cluster, or start one on this machine."""

import os
import secrets
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from senna.errors import UsageError

LOCAL = "local"
"""The address that stands for all of this machine."""

_OBJECT_STORE = 256 << 20  # bytes; frames are small, and a container's /dev/shm may be too
_LONGEST_FOLDER = 39  # characters; Ray's sockets lie 68 characters below it, and the system allows 107
_ANSWER_SECONDS = 10.0  # within which a cluster answers a connection
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000")  # of gRPC, with empty settings
_SETTINGS = b"\4"  # the kind of the first HTTP/2 frame of both sides


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect to a Ray cluster, or start one on this machine, which ends with the block.

    Args:
        address: `LOCAL`, "auto" for the cluster of this node, or "host:port".

    Raises:
        UsageError: Ray is not installed, or there is no cluster at the address.
    """
    if not address or "://" in address:
        raise UsageError(
            f"--ray {address} is not an address", remedy="run on a node of the cluster and give host:port or auto"
        )
    _set_environment(address)
    try:
        import ray
        from ray.exceptions import RayError
    except ImportError as error:
        raise UsageError(
            f"--ray needs the package ray, which cannot be imported ({error})",
            remedy="pip install -c constraints.txt -e '.[ray]'",
        ) from error
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address == LOCAL:
            context = ray.init(address=LOCAL, _node_ip_address="127.0.0.1", object_store_memory=_OBJECT_STORE, **quiet)
        else:
            context = ray.init(address=_reachable(address), **quiet)
    except (OSError, ValueError, RuntimeError, RayError) as error:
        raise UsageError(
            f"--ray {address}: {next(iter(str(error).strip().splitlines()), type(error).__name__)}",
            remedy=_remedy(address),
        ) from error
    # Ray's own handler prints a stack, and lets nothing be closed.
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        if context.dashboard_url:
            print(f"Ray's dashboard: http://{context.dashboard_url}", flush=True)
        yield
    except _Terminated:
        # The files are closed. Ray's processes often got the signal too, and a shutdown would wait for them for a minute.
        os._exit(128 + signal.SIGTERM)
    finally:
        ray.shutdown()
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _set_environment(address: str) -> None:
    """Set the variables that Ray reads when it is imported and when it starts. The user's own values stay."""
    variables = {
        "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",  # otherwise it prints the deaths of processes, which the pool reports
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # with uv run, it would send this folder to every node
    }
    if address == LOCAL:
        variables |= {
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # its switch for 127.0.0.1; otherwise it listens on all addresses
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),  # otherwise it writes one into the home folder
        }
        folder = tempfile.gettempdir()
        if not folder.isascii() or len(folder) > _LONGEST_FOLDER:
            variables["RAY_TMPDIR"] = "/tmp"
    for name, value in variables.items():
        os.environ.setdefault(name, value)


def _remedy(address: str) -> str:
    if address == LOCAL:
        return "see the reason; RAY_TMPDIR names the folder of Ray's files, which must be short and writable"
    return (
        "start a cluster with ray start --head and give its address (if it has a token, with RAY_AUTH_MODE=token and its "
        "~/.ray/auth_token), or give --ray alone to use this machine"
    )


def _reachable(address: str) -> str:
    """Return the host and port of a cluster. Where there is none, Ray itself would try for two minutes and print that.

    Raises:
        OSError: no cluster answers there.
        ValueError: it is not an address.
    """
    from ray._private.services import canonicalize_bootstrap_address

    resolved = str(canonicalize_bootstrap_address(address))
    host, _, port = resolved.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS) as connection:
            if os.environ.get("RAY_USE_TLS", "0") == "0":
                connection.sendall(_PREFACE)
                if connection.recv(9)[3:4] != _SETTINGS:
                    raise ConnectionError("another server is there")
    except OSError as error:
        raise ConnectionError(f"no Ray cluster answers at {resolved} ({error.strerror or error})") from None
    return resolved


class _Terminated(BaseException):
    """A SIGTERM."""


def _terminate(*_: object) -> None:
    raise _Terminated
