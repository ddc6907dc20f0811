"""Requests to the hub: the list of a repository's files, and their bytes from any offset.

huggingface_hub 2.4 restarts an interrupted file from the beginning and compares no hashes, so only its addresses, token, HTTP
client and offline switch are used. Files are requested by plain HTTP, not by hf_xet: mirrors support it, and it can be resumed
at any byte.
"""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from huggingface_hub import HfApi, constants, get_token, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from senna.download.assets import Asset
from senna.download.endpoint import Endpoint
from senna.errors import UsageError

Answer = TypeVar("Answer")

RESPONSE_TIMEOUT = 15.0  # seconds for a request, including the DNS look-up, which has no timeout of its own


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository.

    Attributes:
        name: path in the repository.
        size: bytes.
        digest: the sha256 (64 hex digits) of a large file, git's blob id (40 hex digits) of a small one.
    """

    name: str
    size: int
    digest: str


@dataclass(frozen=True)
class Listing:
    """The files of a repository at one commit."""

    revision: str
    files: dict[str, RemoteFile]


class Failure(NamedTuple):
    """The description of an error of the hub, and what the user can do about it."""

    message: str
    remedy: str


def list_repository(asset: Asset, revision: str | None, endpoint: Endpoint) -> Listing:
    """Return the files of ``asset`` at a commit; None stands for the current commit of `main`.

    Raises:
        UsageError: the hub does not answer within RESPONSE_TIMEOUT, refuses, or has another commit.
    """
    api = HfApi(endpoint=endpoint.address, token=endpoint.token)
    try:
        info = call_with_timeout(
            lambda: api.repo_info(
                asset.repo, revision=revision, repo_type=asset.kind, files_metadata=True, timeout=RESPONSE_TIMEOUT
            )
        )
        files = {sibling.rfilename: _remote_file(sibling) for sibling in info.siblings or []}
        commit = info.sha
    except (HTTPError, OSError) as error:
        failure = explain(error, asset, endpoint)
        raise UsageError(failure.message, remedy=failure.remedy) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # HTML, or JSON of another service
        raise UsageError(
            f"{endpoint.address} does not answer like a hub", remedy="check --endpoint and HF_ENDPOINT"
        ) from error
    if not commit or (revision is not None and commit != revision):
        raise UsageError(
            f"{endpoint.address} returned commit {commit} of {asset.repo} instead of {revision or 'its newest commit'}",
            remedy="use another mirror",
        )
    return Listing(commit, files)


def _remote_file(sibling) -> RemoteFile:
    """Return a file of the hub's answer. Raises ValueError for a digest that is none; it becomes part of a file name."""
    if sibling.lfs is not None:
        file, digits = RemoteFile(sibling.rfilename, int(sibling.lfs.size), sibling.lfs.sha256.lower()), 64
    else:
        file, digits = RemoteFile(sibling.rfilename, int(sibling.size), sibling.blob_id.lower()), 40
    if not re.fullmatch(f"[0-9a-f]{{{digits}}}", file.digest) or file.size < 0:
        raise ValueError(file)
    return file


def call_with_timeout(call: Callable[[], Answer], seconds: float | None = None) -> Answer:
    """Return the result of ``call``, run in a thread of its own.

    Args:
        seconds: the time limit; default: RESPONSE_TIMEOUT. A call that takes longer is left running in its daemon thread.

    Raises:
        TimeoutError: the call takes longer.
        Exception: whatever ``call`` raises.
    """
    outcome: list[Answer] = []
    raised: list[Exception] = []

    def run() -> None:
        try:
            outcome.append(call())
        except Exception as error:
            raised.append(error)

    seconds = RESPONSE_TIMEOUT if seconds is None else seconds
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if raised:
        raise raised[0]
    if not outcome:
        raise TimeoutError(f"no answer in {seconds:.0f} s")
    return outcome[0]


@contextmanager
def open_file(
    asset: Asset, file: RemoteFile, revision: str, endpoint: Endpoint, start: int
) -> Iterator[tuple[int, Iterator[bytes]]]:
    """Request a file from the byte offset ``start`` on and yield (offset, blocks of bytes).

    The offset is 0 if the server ignores the range and sends the file from its beginning.

    Raises:
        HTTPError: the request failed, possibly while the blocks are read (huggingface_hub's class).
    """
    url = hf_hub_url(asset.repo, file.name, repo_type=asset.kind, revision=revision, endpoint=endpoint.address)
    headers = build_hf_headers(token=endpoint.token) | {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    with get_session().stream("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response:
        if response.is_error:
            response.close()  # hf_raise_for_status would read all of a message, which may not end
        hf_raise_for_status(response)
        resumed = response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        yield (start if resumed else 0), response.iter_bytes()


def is_transient(error: Exception) -> bool:
    """Return whether a retry can succeed: after an interrupted connection, a timeout or a busy server."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in (408, 429) or error.response.status_code >= 500
    return not isinstance(error, OfflineModeIsEnabled)


def explain(error: Exception, asset: Asset, endpoint: Endpoint) -> Failure:
    """Describe an error of a request to the hub, for the user."""
    if isinstance(error, OfflineModeIsEnabled):
        return Failure(
            f"{asset.repo} is incomplete, and HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) forbids network access",
            "unset it",
        )
    if isinstance(error, HfHubHTTPError):
        page = f"{endpoint.address}/{'datasets/' if asset.kind == 'dataset' else ''}{asset.repo}"
        message, remedy = _explain_status(error.response.status_code, endpoint)
        return Failure(f"{page}: {message}", remedy)
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return Failure(
        f"{endpoint.address} cannot be reached: {reason}",
        "check the network, set HTTPS_PROXY behind a proxy, or name a mirror with --endpoint URL or HF_ENDPOINT=URL",
    )


def _explain_status(status: int, endpoint: Endpoint) -> Failure:
    if status in (401, 403) and endpoint.withholds_token:
        return Failure(
            f"it requires an account ({status}), and your token was not sent, because this is no https address of the hub",
            "if you trust this address with your token, add --send-token",
        )
    if status == 401 and get_token() is not None:
        return Failure("the hub does not accept your token (401)", "check HF_TOKEN")
    if status == 401:
        return Failure(
            "the hub requires an account (401), or the repository no longer exists",
            "set HF_TOKEN=hf_... or run `hf auth login`",
        )
    if status == 403:
        return Failure(
            "your account has no access (403)", "open the page, accept its terms and run the same command again"
        )
    if status == 404:
        return Failure(
            "no such repository, commit or file (404); it was moved, or this mirror lacks it",
            "name another mirror with --endpoint URL",
        )
    return Failure(f"the hub answered with status {status}", "run the same command again later")
