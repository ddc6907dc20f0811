"""The address of a server, its key, and the proxy on the way to it."""

import ipaddress
import os
import random
import re
import socket
import threading
import unicodedata
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit

from senna.errors import UsageError

KEY = "OPENAI_API_KEY"

EXAMPLE = "give an address, for example --server http://localhost:8000/v1"
LONGEST_WANTED_PAUSE = 120.0  # seconds that a server's Retry-After header may ask for
_PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")
_PORTS = {"http": 80, "https": 443}
_LOCAL_SUFFIXES = (".localhost", ".local", ".internal", ".lan")
_DNS_SECONDS = 5.0
_QUOTES = "\"'`\u201c\u201d\u201e\u201f\u2018\u2019\u201a\u201b\u00ab\u00bb\u2039\u203a"  # straight, curly and angular
_INVISIBLE = "\ufeff\u200b\u200c\u200d\u2060\u00ad"


@dataclass(frozen=True)
class RetryPolicy:
    """Time limit of a request, and how often and after which pauses it is retried."""

    timeout: float = 300.0  # seconds for a complete reply, including the time in the server's queue
    attempts: int = 10  # in total; with these pauses about three minutes, enough to restart a server
    first_pause: float = 0.5  # seconds, doubled after each attempt
    longest_pause: float = 60.0  # seconds

    def pause(self, failures: int) -> float:
        """Return the seconds before the next attempt. They vary, so that requests that fail together come back apart."""
        return min(self.first_pause * 2.0 ** min(failures - 1, 30), self.longest_pause) * random.uniform(0.75, 1.25)


@dataclass(frozen=True)
class Server:
    """A server and how to reach it.

    Attributes:
        address: in the form ``http://host:8000/v1``.
        key: what is sent as the bearer token; None sends nothing.
        proxy: the address of the proxy; None connects directly.
    """

    address: str = field(repr=False)
    key: str | None = field(default=None, repr=False)
    proxy: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        """Return the address without user name and password."""
        return _without_login(self.address)

    @property
    def host(self) -> str:
        """The host name of the address."""
        return urlsplit(self.address).hostname or ""

    @property
    def endpoint(self) -> tuple[str, str, int | None, str]:
        """Scheme, host, port and path, which are equal for two ways to write the same address."""
        parts = urlsplit(self.address)
        return parts.scheme, self.host, parts.port or _PORTS.get(parts.scheme), parts.path

    @property
    def through(self) -> str:
        """Text that names the proxy, without its password; "" where there is none."""
        return f" through the proxy {_without_login(self.proxy)}" if self.proxy else ""

    @property
    def around_proxy(self) -> str:
        """Text that says how to do without the proxy; "" where there is none."""
        return f", or add {self.host} to no_proxy to connect without it" if self.proxy else ""

    def redact(self, text: str) -> str:
        """Return a text without the key and the passwords, which a server may repeat in its messages."""
        secrets = [self.key, urlsplit(self.address).password, self.proxy and urlsplit(self.proxy).password]
        for secret in sorted({secret for secret in secrets if secret}, key=len, reverse=True):
            text = text.replace(secret, "***")
        return text


def parse_server(text: str) -> Server:
    """Return the server of an address, whose scheme and path may be missing, with key and proxy from the environment.

    Raises:
        UsageError: there is no valid address, or the key or the proxy cannot be used.
    """
    address = _address(text)
    return Server(address, read_key(os.environ.get(KEY)), proxy_of(address))


def parse_servers(text: str) -> list[Server]:
    """Return the servers of one or several addresses with commas between them; see `parse_server`.

    Raises:
        UsageError: an address is empty, not valid or given twice.
    """
    if re.search(r"(\A|//)[^/]*,[^/]*@", text):  # no part of a password may be taken for an address, and be shown
        raise UsageError(
            "--server has a comma before an @, as if it were in a password",
            remedy="write %2C for a comma in a password, and start each address with http:// or https://",
        )
    addresses = [address.strip() for address in text.split(",")]
    servers: dict[tuple, Server] = {}
    for number, address in enumerate(addresses, 1):
        if not address:
            raise UsageError(f"--server: address {number} of {len(addresses)} is empty", remedy="remove the comma")
        server = parse_server(address)
        if server.endpoint in servers:
            raise UsageError(
                f"--server names {server} twice", remedy="give each server once; --concurrency raises its load"
            )
        servers[server.endpoint] = server
    return list(servers.values())


def read_key(value: str | None) -> str | None:
    """Return a key without line breaks, blanks and quotation marks around it; None where there is none.

    Raises:
        UsageError: a character inside the key cannot be part of a key. The message names the character, not the key.
    """
    if value is None:
        return None
    key = value.strip().strip(_QUOTES + _INVISIBLE).strip()
    key = re.sub(r"\Abearer\s+", "", key, flags=re.I).strip(_QUOTES + _INVISIBLE + " \t\r\n")
    for position, character in enumerate(key):
        if not "!" <= character <= "~":
            name = {"\r": "CARRIAGE RETURN", "\n": "LINE FEED", "\t": "TABULATOR"}.get(character)
            raise UsageError(
                f"the environment variable {KEY} is not a key: character {position + 1} of {len(key)} is "
                f"{name or unicodedata.name(character, 'a control character')}",
                remedy=f"set {KEY} again, to one line of plain characters without quotation marks",
            )
    return key or None


def proxy_of(address: str) -> str | None:
    """Return the proxy that the environment names for an address; None where the server is near.

    A server on this machine or in a private network is asked directly: proxies rarely know these addresses.

    Raises:
        UsageError: the proxy's address cannot be used.
    """
    parts, proxies = urlsplit(address), urllib.request.getproxies()
    proxy, host = proxies.get(parts.scheme) or proxies.get("all"), parts.hostname or ""
    if not proxy or urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]) or is_near(host):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    split = _split(proxy)
    if split is None or split.scheme not in _PROXY_SCHEMES or not split.hostname:
        raise UsageError(
            f"the proxy {_without_login(proxy)} of the environment is not an address",
            remedy=f"correct {parts.scheme}_proxy or all_proxy, or add {host} to no_proxy",
        )
    return proxy


def is_near(host: str) -> bool:
    """Return whether a host is this machine or has a private address."""
    name = host.rstrip(".").lower()
    own = socket.gethostname().lower()
    if name in ("localhost", own, own.partition(".")[0]) or name.endswith(_LOCAL_SUFFIXES):
        return True
    addresses = [name.partition("%")[0]] if _ip_address(name) else _resolve(name)
    return bool(addresses) and all(_is_near_address(address) for address in addresses)


def _is_near_address(text: str) -> bool:
    address = _ip_address(text)
    if address is None:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    if not (mapped or address).is_global:
        return True
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:  # only addresses of this machine can be bound
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True


def _ip_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None


def _resolve(name: str) -> list[str]:
    """Return the addresses of a host name; empty where it has none or the look-up takes too long."""
    found: list[str] = []

    def look_up() -> None:
        with suppress(OSError, UnicodeError):
            found.extend(str(entry[4][0]) for entry in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM))

    thread = threading.Thread(target=look_up, daemon=True)
    thread.start()
    thread.join(_DNS_SECONDS)
    return list(found)


def _address(server: str) -> str:
    """Return the address in the form ``http://host:8000/v1``."""
    text = server if "://" in server else f"http://{server}"
    text = text.rstrip("/").removesuffix("/chat/completions")
    parts = _split(text)
    if (
        parts is None
        or parts.scheme not in ("http", "https")
        or not parts.hostname
        or parts.query
        or not text.isprintable()
        or " " in text
    ):
        raise UsageError(f"--server {_without_login(server)} is not an address", remedy=EXAMPLE)
    return text if parts.path else f"{text}/v1"


def _split(text: str) -> SplitResult | None:
    try:
        parts = urlsplit(text)
        _ = parts.port  # raises ValueError where it is not a number
    except ValueError:
        return None
    return parts


def _without_login(text: str) -> str:
    """Return an address without user name and password."""
    return re.sub(r"(\A|//)[^/]*@", r"\1", text)
