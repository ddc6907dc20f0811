"""Captions from a server with OpenAI's chat protocol (vLLM, SGLang, LMDeploy, transformers serve).

Requests are concurrent, have a time limit and are retried after temporary failures.
"""

import base64
import http.client
import json
import math
import os
import queue
import random
import re
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cached_property
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from senna.convert.captioners import Request, in_order
from senna.errors import DataError, SennaError, UsageError

KEY = "OPENAI_API_KEY"
Reply = TypeVar("Reply")

_RETRY_STATUS = (408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529)
_MAX_BYTES = 1 << 24  # of a reply
_EXAMPLE = "give an address, for example --server http://localhost:8000/v1"
_LOOPBACK = re.compile(r"localhost|127(?:\.\d+){3}|::1")
_TYPES = ((b"\xff\xd8\xff", "jpeg"), (b"\x89PNG", "png"), (b"RIFF", "webp"), (b"GIF8", "gif"))


@dataclass(frozen=True)
class RetryPolicy:
    """Time limit of a request, and how often and after which pauses it is retried."""

    timeout: float = 300.0  # seconds for a reply, including the time in the server's queue
    attempts: int = 10  # in total; with these pauses about four minutes, enough to restart a server
    first_pause: float = 0.5  # seconds, doubled after each attempt
    longest_pause: float = 60.0  # seconds; a server's Retry-After header may ask for five times as long


class _TemporaryError(Exception):
    """A failure that a retry may avoid; ``pause`` is the time in seconds that the server asks to wait."""

    def __init__(self, reason: str, pause: float | None = None) -> None:
        super().__init__(reason)
        self.pause = pause


class OpenAICaptioner:
    """Answers questions with greedy decoding of a server's model."""

    def __init__(
        self,
        server: str | None,
        model: str | None = None,
        concurrency: int = 16,
        max_tokens: int = 256,
        retry: RetryPolicy | None = None,
    ) -> None:
        """Initialize the captioner; see ``make_captioner`` for the arguments.

        Raises:
            UsageError: there is no server, or it is not a valid address.
        """
        if concurrency < 1:
            raise UsageError(f"--concurrency {concurrency} is too small", remedy="give 1 or more")
        self._address = _address(server)
        self._asked_model, self._concurrency, self._max_tokens = model, concurrency, max_tokens
        self._retry = retry or RetryPolicy()
        self.window, self.settings = 8 * concurrency, f"max_tokens={max_tokens}"

    @property
    def name(self) -> str:
        """The name with that of the model, which is requested from the server where it was not given."""
        return f"openai:{self._model}"

    def answer(self, requests: Sequence[Request]) -> list[str]:
        """Return one text for each request, in order. Raises SennaError where the server fails permanently."""
        return in_order(self.stream(requests))

    def stream(self, requests: Sequence[Request]) -> Iterator[tuple[int, str]]:
        """Yield (index, text) as they arrive. Before a permanent failure is raised, requests in progress are completed."""
        if not requests:
            return
        model = self._model
        todo: queue.SimpleQueue[int] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[int, str | Exception] | None] = queue.SimpleQueue()
        stop = threading.Event()
        for index in range(len(requests)):
            todo.put(index)

        def work() -> None:
            while not stop.is_set():
                try:
                    index = todo.get_nowait()
                except queue.Empty:
                    break
                try:
                    done.put((index, self._ask(requests[index], model, stop)))
                except Exception as error:
                    done.put((index, error))  # before the event, so that this failure is the first in the queue
                    stop.set()
            done.put(None)

        workers = min(self._concurrency, len(requests))
        for _ in range(workers):  # daemon threads, so that Ctrl-C does not wait for the server
            threading.Thread(target=work, daemon=True).start()
        try:
            yield from _collected(done, workers)
        finally:
            stop.set()

    def _ask(self, request: Request, model: str, stop: threading.Event) -> str:
        content = [
            {"type": "image_url", "image_url": {"url": _data_url(request.image)}},
            {"type": "text", "text": request.question},
        ]
        body = {
            "model": model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self._max_tokens,
            "temperature": 0.0,
            "stream": False,
        }
        return self._request("chat/completions", body, _text_of, stop, f" about {request.image}")

    def _request(
        self,
        endpoint: str,
        body: dict | None,
        read: Callable[[object], Reply],
        stop: threading.Event | None = None,
        about: str = "",
    ) -> Reply:
        """Send a request, with retries, and return what ``read`` makes of the reply."""
        policy, failure, attempt = self._retry, "", 0
        for attempt in range(1, policy.attempts + 1):
            try:
                return read(self._send(endpoint, body, about))
            except _TemporaryError as error:
                failure, wanted = str(error), error.pause
            if attempt == policy.attempts or (stop is not None and stop.is_set()):
                break
            if stop is None and attempt == 1:  # the first request of a run: the address may be wrong
                print(f"--server {self._address}: no answer ({failure}); trying again", file=sys.stderr, flush=True)
            pause = min(policy.first_pause * 2 ** (attempt - 1), policy.longest_pause) * random.uniform(0.75, 1.25)
            pause = pause if wanted is None else min(max(wanted, 0.0), 5 * policy.longest_pause)
            if stop is None:
                time.sleep(pause)
            elif stop.wait(pause):
                break
        raise SennaError(
            f"--server {self._address}: no answer{about} after {attempt} attempts ({failure}); the answers so far are saved",
            remedy="check that the server is running and run the same command again",
        )

    def _send(self, endpoint: str, body: dict | None, about: str) -> object:
        """Send a request once and return the JSON of the reply."""
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key := os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self._address}/{endpoint}", data, headers)
        deadline = time.monotonic() + self._retry.timeout
        try:
            with self._opener.open(request, timeout=self._retry.timeout) as reply:
                raw = _read(reply, deadline)
        except urllib.error.HTTPError as error:
            with error:
                raise self._status_error(error, about) from None
        except (OSError, http.client.HTTPException) as error:  # URLError and timeouts are OSErrors
            reason = getattr(error, "reason", None) or str(error) or type(error).__name__
            raise _TemporaryError(str(reason)) from None
        try:
            return json.loads(raw)
        except ValueError:
            raise _TemporaryError(f"a reply that is not JSON: {raw[:80]!r}") from None

    def _status_error(self, error: urllib.error.HTTPError, about: str) -> Exception:
        """Return the exception for a reply whose status is an error."""
        try:
            reason = re.sub(r"\s+", " ", error.read(4096).decode(errors="replace")).strip()[:300]
        except (OSError, http.client.HTTPException):
            reason = ""
        if error.code in _RETRY_STATUS:
            return _TemporaryError(
                f"{error.code} {error.reason} {reason}".strip(), _retry_after(error.headers.get("Retry-After"))
            )
        if error.code in (401, 403):
            remedy = f"set the environment variable {KEY} to the server's key"
        elif error.code == 404:
            remedy = (
                "check the path of the address (often /v1) and that --captioner-model is the server's name of the model"
            )
        else:
            remedy = "see the server's log; the server rejects this request permanently"
        return SennaError(
            f"--server {self._address}: {error.code} {error.reason}{about}: {reason or 'no reason given'}",
            remedy=remedy,
        )

    @cached_property
    def _model(self) -> str:
        if self._asked_model:
            return self._asked_model
        names = self._request("models", None, _names_of)
        if len(names) != 1:
            raise UsageError(
                f"--server {self._address} serves {len(names)} models",
                remedy=f"give --captioner-model ({', '.join(names)})",
            )
        return names[0]

    @cached_property
    def _opener(self) -> urllib.request.OpenerDirector:
        local = _LOOPBACK.fullmatch(urlsplit(self._address).hostname or "")
        proxies = [urllib.request.ProxyHandler({})] if local else []
        return urllib.request.build_opener(_NoRedirect, *proxies)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Makes a redirect an error: a redirected POST would lose its body and send the key to another server."""

    def redirect_request(self, *_args, **_named) -> None:
        return None


def _collected(
    done: "queue.SimpleQueue[tuple[int, str | Exception] | None]", workers: int
) -> Iterator[tuple[int, str]]:
    """Yield the answers until all workers have ended, then raise the first failure, if any."""
    failure: Exception | None = None
    while workers:
        item = done.get()
        if item is None:
            workers -= 1
        elif isinstance(item[1], Exception):
            failure = failure or item[1]
        else:
            yield item[0], item[1]
    if failure is not None:
        raise failure


def _address(server: str | None) -> str:
    """Return the address in the form ``http://host:8000/v1``; scheme and path may be missing."""
    if not server:
        raise UsageError("--captioner openai needs --server", remedy=_EXAMPLE)
    text = server if "://" in server else f"http://{server}"
    text = text.rstrip("/").removesuffix("/chat/completions")
    try:
        parts = urlsplit(text)
        _ = parts.port  # raises ValueError where it is not a number
    except ValueError:
        parts = None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
        raise UsageError(f"--server {server} is not an address", remedy=_EXAMPLE)
    return text if parts.path else f"{text}/v1"


def _read(reply: http.client.HTTPResponse, deadline: float) -> bytes:
    """Return the body of a reply. Raises _TemporaryError where it is truncated, too long or not complete in time."""
    header = reply.headers.get("Content-Length", "")
    length = int(header) if header.isdigit() else None
    pieces, size = [], 0
    while size != length and (piece := reply.read1(1 << 16)):
        pieces.append(piece)
        size += len(piece)
        if time.monotonic() > deadline or size > _MAX_BYTES:
            raise _TemporaryError("a reply that does not end")
    if length is not None and size < length:
        raise _TemporaryError(f"a reply of {size} bytes, truncated; its length is {length}")
    return b"".join(pieces)


def _text_of(reply: object) -> str:
    """Return the answer in a reply; "" where the model gave none."""
    try:
        content = reply["choices"][0]["message"]["content"]  # type: ignore[index]
        if isinstance(content, list):
            content = "".join(part.get("text", "") for part in content)
        if content is not None and not isinstance(content, str):
            raise TypeError(content)
    except (KeyError, IndexError, TypeError, AttributeError):
        raise _TemporaryError(f"a reply without an answer: {json.dumps(reply)[:120]}") from None
    return (content or "").strip()


def _names_of(reply: object) -> list[str]:
    """Return the names of the models in a reply."""
    try:
        return [str(model["id"]) for model in reply["data"]]  # type: ignore[index]
    except (KeyError, TypeError):
        raise _TemporaryError(f"a list of models without 'data': {json.dumps(reply)[:120]}") from None


def _retry_after(header: str | None) -> float | None:
    """Return the seconds of a Retry-After header, which is a number or a date."""
    if not header:
        return None
    try:
        return float(header) if math.isfinite(float(header)) else None
    except ValueError:
        pass  # it may be a date
    try:
        return parsedate_to_datetime(header).timestamp() - time.time()
    except ValueError:
        return None


def _data_url(path: Path) -> str:
    """Return an image file as a data URL."""
    try:
        content = path.read_bytes()
    except OSError as error:
        fault = DataError.MISSING_IMAGE if isinstance(error, FileNotFoundError) else None
        raise DataError(
            f"the image cannot be read ({error.strerror or error})", remedy="copy it again", file=path, kind=fault
        ) from error
    kind = next((name for head, name in _TYPES if content.startswith(head)), None)
    if kind is None:
        raise DataError("the image is not a JPEG, PNG, WebP or GIF", remedy="copy it again", file=path)
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
