"""The client of the ``openai`` package, with limits of time and size for each reply.

The package retries temporary failures. Replies that do not end, are too long or are no chat completions count as such.
"""

import asyncio
import json
import logging
import math
import os
import re
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any

import httpx2
import openai

from senna.errors import SennaError, UsageError
from senna.servers.address import KEY, LONGEST_WANTED_PAUSE, RetryPolicy, Server
from senna.servers.replies import NoReply

logger = logging.getLogger(__name__)

_MAX_BYTES = 1 << 24  # of a reply
_REPORT_SECONDS = 60.0  # between two warnings about temporary failures
_TEMPORARY_STATUS = (408, 409, 425, 429)  # and all from 500 on
_UNFINISHED = ("abort", "error")  # vLLM and SGLang send what they have when they are stopped, with status 200
_ENCODING_HEADERS = ("content-encoding", "content-length", "transfer-encoding", "content-type")


class Stopped(openai.OpenAIError):
    """The failure of a request that is not retried, because another request failed permanently."""


class _UnusableReply(httpx2.RemoteProtocolError):
    """A complete reply with a status of success that lacks what was asked for."""


@dataclass
class Progress:
    """The state that the requests of a run share.

    Attributes:
        stopped: whether a request failed permanently, so that no other is started or retried.
        workers: the tasks that send requests.
        sending: the tasks that wait for a reply; the others of ``workers`` pause before a retry.
        reported: when the last temporary failure was logged, by the monotonic clock.
    """

    stopped: bool = False
    workers: list[asyncio.Task] = field(default_factory=list)
    sending: set[asyncio.Task] = field(default_factory=set)
    reported: float = -math.inf

    def stop(self) -> None:
        """Let the requests that wait for a reply complete, and end the others."""
        self.stopped = True
        for task in self.workers:
            if task not in self.sending and task is not asyncio.current_task():
                task.cancel()


@cache
def _ssl_context() -> ssl.SSLContext:
    """Return the context of all clients; reading the certificates takes 25 ms."""
    return httpx2.create_ssl_context(trust_env=True)


class _HttpClient(openai.DefaultAsyncHttpxClient):
    """An HTTP client whose replies have a limit of time and size, and are checked."""

    def __init__(self, server: Server, policy: RetryPolicy, progress: Progress) -> None:
        # The proxy is chosen by `proxy_of`. A redirected POST would lose its body and send the key to another server.
        super().__init__(
            proxy=server.proxy,
            trust_env=False,
            verify=_ssl_context(),
            follow_redirects=False,
            timeout=None,  # `send` limits the time of the complete reply
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=256),
        )
        self._server, self._seconds, self._progress = server, policy.timeout, progress
        self._is_retried = policy.attempts > 1

    async def send(self, request, **options):
        """Send a request once and return the complete reply, within the time limit."""
        task, progress = asyncio.current_task(), self._progress
        assert task is not None
        progress.sending.add(task)
        try:
            response = await asyncio.wait_for(self._complete(request, options), self._seconds)
        except (asyncio.TimeoutError, httpx2.RequestError) as error:
            if progress.stopped:
                raise Stopped from error
            if isinstance(error, asyncio.TimeoutError):
                error = httpx2.ReadTimeout(f"no complete reply in {self._seconds:g} s", request=request)
            self._report(_reason(error, self._server))
            raise error from None
        finally:
            progress.sending.discard(task)
        if is_temporary(response.status_code):
            if progress.stopped:
                raise Stopped
            self._report(f"{response.status_code} {response.reason_phrase}".strip())
        if response.status_code == 425:  # the only temporary status that the package does not retry
            response.headers["x-should-retry"] = "true"
        return response

    def _report(self, reason: str) -> None:
        """Log a temporary failure, one in a minute, so that the user knows what the run waits for."""
        now = time.monotonic()
        if self._is_retried and now - self._progress.reported >= _REPORT_SECONDS:
            self._progress.reported = now
            logger.warning("--server %s: %s; trying again", self._server, reason)

    async def _complete(self, request: httpx2.Request, options: dict[str, Any]) -> httpx2.Response:
        for name in (
            "openai-organization",
            "openai-project",
            *(() if self._server.key is not None else ("authorization",)),
        ):
            if name in request.headers:
                del request.headers[name]
        response = await super().send(request, **{**options, "stream": True})
        pieces, size = [], 0
        try:
            async for piece in response.aiter_bytes():
                pieces.append(piece)
                size += len(piece)
                if size > _MAX_BYTES:
                    raise httpx2.RemoteProtocolError(f"a reply of more than {_MAX_BYTES} bytes", request=request)
        finally:
            await response.aclose()
        body = b"".join(pieces)
        headers = [item for item in response.headers.multi_items() if item[0].lower() not in _ENCODING_HEADERS]
        if response.status_code < 300 and (fault := _fault(request, body)):
            raise _UnusableReply(fault, request=request)
        headers.append(("content-type", "application/json"))
        return httpx2.Response(response.status_code, headers=headers, content=body, request=request)


class _Client(openai.AsyncOpenAI):
    """The package's client with the pauses of a policy."""

    def __init__(self, server: Server, policy: RetryPolicy, progress: Progress) -> None:
        super().__init__(
            base_url=server.address,
            api_key=server.key or "none",  # the HTTP client removes the header where there is no key
            admin_api_key="",
            organization="",
            project="",
            timeout=None,
            max_retries=policy.attempts - 1,
            http_client=_HttpClient(server, policy, progress),
        )
        self._policy = policy

    def _calculate_retry_timeout(self, remaining_retries, options, response_headers=None) -> float:
        wanted = self._parse_retry_after_header(response_headers)
        if wanted is not None and 0 < wanted <= LONGEST_WANTED_PAUSE:  # the package does not retry after a longer one
            return wanted
        return self._policy.pause(self._policy.attempts - remaining_retries)


def make_client(server: Server, policy: RetryPolicy, progress: Progress) -> openai.AsyncOpenAI:
    """Return a client; it must be used and closed in one event loop.

    Raises:
        UsageError: the proxy needs a package that is not installed.
    """
    try:
        return _Client(server, policy, progress)
    except ImportError:
        raise UsageError(
            f"--server {server}: connections{server.through} need the package socksio",
            remedy=f"pip install socksio, or add {server.host} to no_proxy",
        ) from None


def is_temporary(status: int) -> bool:
    """Return whether a retry may succeed after a reply with this HTTP status."""
    return status in _TEMPORARY_STATUS or status >= 500


def explain(error: Exception, server: Server, about: str) -> SennaError:
    """Return the error for a request that failed permanently, or in all attempts.

    Args:
        about: what the request was about, for the message; "" for none.
    """
    where = f"--server {server}{server.through}"
    if isinstance(error, openai.APIStatusError) and not is_temporary(error.status_code):
        return SennaError(
            f"{where}: {status_text(error, server, about)}",
            remedy=_status_remedy(error.status_code) + server.around_proxy,
        )
    if isinstance(error, openai.APIError):
        attempts = int(error.request.headers.get("x-stainless-retry-count", 0)) + 1
        status, wanted = 200 if isinstance(error.__cause__, _UnusableReply) else None, None
        if isinstance(error, openai.APIStatusError):
            status, wanted = error.status_code, _wanted_pause(error.response)
        return NoReply(server, attempts, _reason(error, server), about, status, wanted)
    return SennaError(
        f"{where}: the request{about} cannot be sent ({type(error).__name__})",
        remedy="check --server and the variables OPENAI_CUSTOM_HEADERS, http_proxy and https_proxy",
    )


def _wanted_pause(response: httpx2.Response) -> float | None:
    """Return the seconds that the header Retry-After asks for, as a number or a date; None where there is none."""
    text = response.headers.get("retry-after", "")
    with suppress(ValueError):
        return float(text)
    with suppress(ValueError):
        return parsedate_to_datetime(text).timestamp() - time.time()
    return None


def status_text(error: openai.APIStatusError, server: Server, about: str = "") -> str:
    """Return status and message of a reply in one line, without secrets; ``about`` is put between them."""
    message = error.body.get("message") if isinstance(error.body, dict) else None
    text = message if isinstance(message, str) and message else error.response.text
    text = server.redact(re.sub(r"\s+", " ", text).strip())[:300]
    return f"{error.status_code} {error.response.reason_phrase}".strip() + f"{about}: {text or 'no reason given'}"


def _reason(error: Exception, server: Server) -> str:
    if isinstance(error, openai.APIStatusError):
        return status_text(error, server)
    cause: BaseException | None = error
    reason = ""
    while cause is not None:  # the innermost reason is the most precise
        code = getattr(cause, "errno", None) or 0
        reason = (os.strerror(code) if code > 0 else str(cause)) or reason or type(cause).__name__
        cause = cause.__cause__ or cause.__context__
    return server.redact(re.sub(r"\s+", " ", reason))[:300]


def _status_remedy(status: int) -> str:
    if status in (401, 403):
        return f"set the environment variable {KEY} to the server's key"
    if status == 404:
        return "check the path of the address (often /v1) and that the server has a model of the given name"
    if status == 407:
        return "give the proxy's user name and password in http_proxy or https_proxy"
    return "see the server's log; the server rejects this request permanently"


def _fault(request: httpx2.Request, body: bytes) -> str | None:
    """Return what is wrong with the body of a successful reply; None where it can be used."""
    try:
        reply = json.loads(body)
    except (ValueError, RecursionError):
        return f"a reply that is not JSON: {body[:80]!r}"
    is_list = request.url.path.endswith("/models")
    try:
        if is_list:
            _ = [str(model["id"]) for model in reply["data"]]
        elif request.url.path.endswith("/chat/completions"):
            choice = reply["choices"][0]
            content = choice["message"].get("content")
            parts = content if isinstance(content, list) else []
            if not isinstance(content, str | list | None) or not all(isinstance(part, dict) for part in parts):
                raise TypeError(content)
            if choice.get("finish_reason") in _UNFINISHED:
                return f"an answer that the server did not finish (finish_reason: {choice['finish_reason']})"
    except (KeyError, IndexError, TypeError, AttributeError):
        return f"a reply without {'models' if is_list else 'an answer'}: {body[:120].decode(errors='replace')}"
    return None
