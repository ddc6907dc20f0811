"""The socket of the demo page. It is opened before the model is loaded, so that a busy port is reported at once."""

import ipaddress
import socket

from senna.errors import UsageError


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; ``port`` 0 chooses a free port. Raises UsageError where that fails."""
    if not 0 <= port <= 65535:
        raise UsageError(f"--port {port} is no port", remedy="use a number from 0 to 65535")
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, proto)
    except OSError as error:
        raise UsageError(
            f"--host {host} --port {port}: no such address ({error})", remedy="use an address of this machine"
        ) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise UsageError(
            f"--host {host} --port {port} cannot be used ({error.strerror})",
            remedy="choose another port, or --port 0 for a free one",
        ) from error
    return listener


def address_of(listener: socket.socket) -> str:
    """Return the address to open in a browser."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def is_loopback(listener: socket.socket) -> bool:
    """Return whether only this machine can connect."""
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback
