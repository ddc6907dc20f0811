"""`senna` in a process that may connect to this machine only."""

import socket
import sys

from senna.cli import main


def senna_without_network(arguments: list[str]) -> int:
    """Run a command; a connection to another machine, or a look-up of its name, raises AssertionError."""
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def is_here(host: object) -> bool:
        return str(host) in ("127.0.0.1", "localhost", "::1", socket.gethostname(), "None", "")

    def connect_here(self, address):
        if self.family != socket.AF_UNIX and not is_here(address[0]):
            print(f"CONNECTS TO {address}", flush=True)
            raise AssertionError(f"a connection to {address}")
        return connect(self, address)

    def look_up_here(host, *rest, **options):
        if not is_here(host):
            print(f"LOOKS UP {host}", flush=True)
            raise AssertionError(f"a look-up of {host}")
        return look_up(host, *rest, **options)

    socket.socket.connect, socket.getaddrinfo = connect_here, look_up_here  # type: ignore[method-assign]
    sys.argv[:] = ["senna", *arguments]  # trackers store it
    return main(arguments)
