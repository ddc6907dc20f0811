"""The hub or mirror that a download asks, and whether it may see the user's token."""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from huggingface_hub import constants, get_token

from senna.errors import UsageError

_HUB_HOSTS = ("huggingface.co", "hf.co")


@dataclass(frozen=True)
class Endpoint:
    """An address of a hub.

    Attributes:
        address: with scheme and without a slash at the end.
        send_token: whether the user asked to send the token to this address, whatever it is.
    """

    address: str
    send_token: bool = False

    @property
    def may_see_token(self) -> bool:
        """True for hosts of the hub over https, and where the user asked to send the token."""
        if self.send_token:
            return True
        parts = urlsplit(self.address)
        host = parts.hostname or ""
        is_hub = host in _HUB_HOSTS or host.endswith(tuple(f".{name}" for name in _HUB_HOSTS))
        return is_hub and parts.scheme == "https" and parts.port in (None, 443)

    @property
    def token(self) -> bool | None:
        """The ``token`` argument of huggingface_hub: None sends the token that it finds, if any; False sends none."""
        return None if self.may_see_token else False

    @property
    def withholds_token(self) -> bool:
        """True if the user has a token that this address does not get."""
        return not self.may_see_token and not constants.HF_HUB_DISABLE_IMPLICIT_TOKEN and get_token() is not None


def parse_endpoint(text: str, send_token: bool = False) -> Endpoint:
    """Return the endpoint of an address.

    Raises:
        UsageError: the text is not an address with http:// or https:// and a host. An address with a user name is refused too,
            because it can be mistaken for another host.
    """
    text = text.strip().rstrip("/")
    try:
        parts = urlsplit(text)
        is_address = (
            parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
        )
    except ValueError:
        is_address, parts = False, None
    if not is_address or parts is None or "@" in parts.netloc or re.search(r"[\s\\\x00-\x1f]", text):
        shown = text if parts is None or "@" not in parts.netloc else f"{parts.scheme}://...@{parts.hostname}"
        raise UsageError(f"--endpoint {shown} is no address", remedy="give one that begins with https://")
    return Endpoint(text, send_token)
