"""What is asked of the hub: which files a repository has, and their bytes from any place on.

The library's own download (huggingface_hub 2.4) begins a file anew when it was stopped, and compares no hashes, so only its
addresses, token, client and offline switch are used. Files come by plain HTTP, which mirrors speak too and which can be
continued at any byte; hf_xet is not asked.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from huggingface_hub import HfApi, constants, get_token, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from senna.download.assets import Asset
from senna.errors import UsageError

Answer = TypeVar("Answer")

PATIENCE = 15.0  # seconds for the hub's answer, the look-up of its address included, which has no limit of its own


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository. ``digest``: of a large file its sha256 (64 hex digits), of a small one git's name for it (40)."""

    name: str
    size: int
    digest: str


@dataclass(frozen=True)
class Listing:
    """A repository at one commit."""

    revision: str
    files: dict[str, RemoteFile]


def list_repository(asset: Asset, revision: str | None, endpoint: str) -> Listing:
    """The files of ``asset`` at a commit, or at the one that `main` names. Raises UsageError, within seconds."""
    api = HfApi(endpoint=endpoint)
    try:
        info = patiently(
            lambda: api.repo_info(
                asset.repo, revision=revision, repo_type=asset.kind, files_metadata=True, timeout=PATIENCE
            )
        )
        files = {one.rfilename: _remote(one) for one in info.siblings or []}
        commit = info.sha
    except (HTTPError, OSError) as error:
        raise UsageError(explain(error, asset, endpoint)) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # HTML, or JSON of another service
        raise UsageError(f"{endpoint} does not answer as a hub does; check --endpoint and HF_ENDPOINT") from error
    if not commit or (revision is not None and commit != revision):
        raise UsageError(
            f"{endpoint} gives {asset.repo} at {commit} where {revision} was asked for; use another mirror"
        )
    return Listing(commit, files)


def _remote(sibling) -> RemoteFile:
    if sibling.lfs is not None:
        return RemoteFile(sibling.rfilename, int(sibling.lfs.size), sibling.lfs.sha256.lower())
    return RemoteFile(sibling.rfilename, int(sibling.size), sibling.blob_id.lower())


def patiently(call: Callable[[], Answer], seconds: float | None = None) -> Answer:
    """What ``call`` returns or raises; TimeoutError after ``seconds`` (None: `PATIENCE`). Its thread is left behind then."""
    outcome: list[Answer] = []
    failure: list[Exception] = []

    def run() -> None:
        try:
            outcome.append(call())
        except Exception as error:
            failure.append(error)

    seconds = PATIENCE if seconds is None else seconds
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if failure:
        raise failure[0]
    if not outcome:
        raise TimeoutError(f"no answer in {seconds:.0f} s")
    return outcome[0]


@contextmanager
def opened(
    asset: Asset, file: RemoteFile, revision: str, endpoint: str, start: int
) -> Iterator[tuple[int, Iterator[bytes]]]:
    """(place, bytes): a file from ``start`` on, or, where the server cannot do that, from its beginning (place 0).

    Raises huggingface_hub's HTTPError, also while the bytes are read.
    """
    url = hf_hub_url(asset.repo, file.name, repo_type=asset.kind, revision=revision, endpoint=endpoint)
    headers = build_hf_headers() | {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    with get_session().stream("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response:
        hf_raise_for_status(response)
        continued = response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        yield (start if continued else 0), response.iter_bytes()


def may_pass(error: Exception) -> bool:
    """Whether a failure may be gone in a moment: a cut, a time-out, a busy server."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in (408, 429) or error.response.status_code >= 500
    return not isinstance(error, OfflineModeIsEnabled)


def explain(error: Exception, asset: Asset, endpoint: str) -> str:
    """What a failure of the hub means, and what to do about it."""
    page = f"{endpoint}/{'datasets/' if asset.kind == 'dataset' else ''}{asset.repo}"
    if isinstance(error, OfflineModeIsEnabled):
        return f"{asset.repo} is not complete here, and HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) forbids the network; unset it"
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status == 401:
        known = get_token() is not None
        who = "does not accept your token" if known else "wants to know who asks"
        remedy = "check HF_TOKEN" if known else "HF_TOKEN=hf_... or `hf auth login`"
        return f"{page}: the hub {who} (401); the repository needs an account, or is no longer there: {remedy}"
    if status == 403:
        return (
            f"{page}: your account may not read it (403); open the page, accept its terms, run the same command again"
        )
    if status == 404:
        return (
            f"{page}: no such repository, commit or file (404); it was moved, or this mirror lacks it: --endpoint URL"
        )
    if status is not None:
        return f"{page}: the hub answers {status}; run the same command again later"
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return (
        f"{endpoint} cannot be reached: {reason}; check the network, behind a proxy HTTPS_PROXY, "
        "or name a mirror: --endpoint URL or HF_ENDPOINT=URL"
    )
