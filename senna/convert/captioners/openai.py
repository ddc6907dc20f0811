"""Any server that speaks OpenAI's chat protocol (vLLM, SGLang, LMDeploy, transformers serve): many requests at a time,
each with a time limit, each sent again when the server stumbles.
"""

import base64
import http.client
import json
import math
import os
import queue
import random
import re
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

_TRY_LATER = (408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529)
_MOST_BYTES = 1 << 24  # of a reply: an endless one is no answer
_LOOPBACK = re.compile(r"localhost|127(?:\.\d+){3}|::1")
_TYPES = ((b"\xff\xd8\xff", "jpeg"), (b"\x89PNG", "png"), (b"RIFF", "webp"), (b"GIF8", "gif"))


@dataclass(frozen=True)
class RetryPolicy:
    """How long a server may take, and how often it may fail."""

    timeout: float = 300.0  # seconds for one reply, its waiting in the server's queue included
    attempts: int = 10  # in all; with these pauses about four minutes, in which a server can be started again
    first_pause: float = 0.5  # seconds, doubled from one attempt to the next
    longest_pause: float = 60.0  # seconds; a server that says when to come back may ask for five times that


class _TryLaterError(Exception):
    """What may go well another time; ``pause`` is the server's own word about when."""

    def __init__(self, reason: str, pause: float | None = None) -> None:
        super().__init__(reason)
        self.pause = pause


class OpenAICaptioner:
    """Greedy answers of a server's model."""

    def __init__(
        self,
        server: str | None,
        model: str | None = None,
        concurrency: int = 16,
        max_tokens: int = 256,
        patience: RetryPolicy | None = None,
    ) -> None:
        """See ``make_captioner``. Raises UsageError without a server, and for one that is no address."""
        if concurrency < 1:
            raise UsageError(f"--concurrency {concurrency}: 1 or more requests at the same time")
        self._address = _address(server)
        self._asked_model, self._concurrency, self._max_tokens = model, concurrency, max_tokens
        self._patience, self.window, self.settings = (
            patience or RetryPolicy(),
            8 * concurrency,
            f"max_tokens={max_tokens}",
        )

    @property
    def name(self) -> str:
        """With the model's; the server is asked for it where it was not given."""
        return f"openai:{self._model}"

    def answer(self, requests: Sequence[Request]) -> list[str]:
        """One text a request, in their order. Raises SennaError when the server fails for good or refuses."""
        return in_order(self.stream(requests))

    def stream(self, requests: Sequence[Request]) -> Iterator[tuple[int, str]]:
        """(place, text) as they come. When one fails for good, those under way are still handed on before it is raised."""
        if not requests:
            return
        model = self._model
        todo: queue.SimpleQueue[int] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[int, str | Exception] | None] = queue.SimpleQueue()
        stop = threading.Event()
        for place in range(len(requests)):
            todo.put(place)

        def work() -> None:
            while not stop.is_set():
                try:
                    place = todo.get_nowait()
                except queue.Empty:
                    break
                try:
                    done.put((place, self._ask(requests[place], model, stop)))
                except Exception as error:
                    done.put((place, error))  # before the others are stopped, who will fail for that alone
                    stop.set()
            done.put(None)

        workers = min(self._concurrency, len(requests))
        for _ in range(workers):  # daemons: whoever presses Ctrl-C need not wait for the server
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
        return self._patiently("chat/completions", body, _text_of, stop, f" about {request.image}")

    def _patiently(
        self,
        what: str,
        body: dict | None,
        read: Callable[[object], Reply],
        stop: threading.Event | None = None,
        about: str = "",
    ) -> Reply:
        """``read`` of the reply to a request, which is sent until it succeeds or patience ends."""
        patience, failure = self._patience, ""
        for attempt in range(1, patience.attempts + 1):
            try:
                return read(self._send(what, body, about))
            except _TryLaterError as error:
                failure, asked = str(error), error.pause
            if attempt == patience.attempts or (stop is not None and stop.is_set()):
                break
            pause = min(patience.first_pause * 2 ** (attempt - 1), patience.longest_pause) * random.uniform(0.75, 1.25)
            pause = pause if asked is None else min(max(asked, 0.0), 5 * patience.longest_pause)
            if stop is None:
                time.sleep(pause)
            elif stop.wait(pause):
                break
        raise SennaError(
            f"--server {self._address}: no answer{about} after {attempt} attempts ({failure}); see that the server runs and "
            "run the same command again: the answers so far are kept"
        )

    def _send(self, what: str, body: dict | None, about: str) -> object:
        """The JSON that the server replies with."""
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key := os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self._address}/{what}", data, headers)
        deadline = time.monotonic() + self._patience.timeout
        try:
            with self._opener.open(request, timeout=self._patience.timeout) as reply:
                raw = _read(reply, deadline)
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(error, about) from None
        except (OSError, http.client.HTTPException) as error:  # URLError and timeouts are OSErrors
            reason = getattr(error, "reason", None) or str(error) or type(error).__name__
            raise _TryLaterError(str(reason)) from None
        try:
            return json.loads(raw)
        except ValueError:
            raise _TryLaterError(f"a reply that is not JSON: {raw[:80]!r}") from None

    def _refusal(self, error: urllib.error.HTTPError, about: str) -> Exception:
        """What a status that is no success means."""
        try:
            said = re.sub(r"\s+", " ", error.read(4096).decode(errors="replace")).strip()[:300]
        except (OSError, http.client.HTTPException):
            said = ""
        if error.code in _TRY_LATER:
            return _TryLaterError(
                f"{error.code} {error.reason} {said}".strip(), _retry_after(error.headers.get("Retry-After"))
            )
        if error.code in (401, 403):
            remedy = f"put the server's key into the environment's {KEY}"
        elif error.code == 404:
            remedy = "see that the address ends as the server says (often /v1) and that --captioner-model is the server's name"
        else:
            remedy = "the server will not take this request however often it is sent"
        return SennaError(
            f"--server {self._address}: {error.code} {error.reason}{about}: {said or 'no reason given'}; {remedy}"
        )

    @cached_property
    def _model(self) -> str:
        if self._asked_model:
            return self._asked_model
        names = self._patiently("models", None, _names_of)
        if len(names) != 1:
            raise UsageError(
                f"--server {self._address} serves {len(names)} models; give --captioner-model ({', '.join(names)})"
            )
        return names[0]

    @cached_property
    def _opener(self) -> urllib.request.OpenerDirector:
        local = _LOOPBACK.fullmatch(urlsplit(self._address).hostname or "")
        proxies = [urllib.request.ProxyHandler({})] if local else []
        return urllib.request.build_opener(_NoRedirect, *proxies)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would arrive as a GET without its body, and the key at another server: it is an error instead."""

    def redirect_request(self, *_args, **_named) -> None:
        return None


def _collected(
    done: "queue.SimpleQueue[tuple[int, str | Exception] | None]", workers: int
) -> Iterator[tuple[int, str]]:
    """The answers until all workers have ended; then the first failure, if there was one."""
    failure: Exception | None = None
    while workers:
        got = done.get()
        if got is None:
            workers -= 1
        elif isinstance(got[1], Exception):
            failure = failure or got[1]
        else:
            yield got[0], got[1]
    if failure is not None:
        raise failure


def _address(server: str | None) -> str:
    """``http://host:8000/v1`` of whatever way of writing it."""
    if not server:
        raise UsageError("--captioner openai needs --server, as http://localhost:8000/v1")
    text = server if "://" in server else f"http://{server}"
    text = text.rstrip("/").removesuffix("/chat/completions")
    try:
        parts = urlsplit(text)
        fine = parts.scheme in ("http", "https") and parts.hostname and not parts.query
        _ = parts.port
    except ValueError:
        fine = False
    if not fine:
        raise UsageError(f"--server {server} is no address; give one as http://localhost:8000/v1")
    return text if parts.path else f"{text}/v1"


def _read(reply: http.client.HTTPResponse, deadline: float) -> bytes:
    """The whole reply; one that is cut off, or dribbles on for ever, is none."""
    told = reply.headers.get("Content-Length", "")
    whole = int(told) if told.isdigit() else None
    pieces, size = [], 0
    while size != whole and (piece := reply.read1(1 << 16)):
        pieces.append(piece)
        size += len(piece)
        if time.monotonic() > deadline or size > _MOST_BYTES:
            raise _TryLaterError("a reply that does not end")
    if whole is not None and size < whole:
        raise _TryLaterError(f"a reply of {size} bytes, cut off before its {whole}")
    return b"".join(pieces)


def _text_of(reply: object) -> str:
    """The answer in a reply; "" where the model said nothing."""
    try:
        content = reply["choices"][0]["message"]["content"]  # type: ignore[index]
        if isinstance(content, list):
            content = "".join(part.get("text", "") for part in content)
        if content is not None and not isinstance(content, str):
            raise TypeError(content)
    except (KeyError, IndexError, TypeError, AttributeError):
        raise _TryLaterError(f"a reply without an answer: {json.dumps(reply)[:120]}") from None
    return (content or "").strip()


def _names_of(reply: object) -> list[str]:
    try:
        return [str(one["id"]) for one in reply["data"]]  # type: ignore[index]
    except (KeyError, TypeError):
        raise _TryLaterError(f"a list of models without 'data': {json.dumps(reply)[:120]}") from None


def _retry_after(said: str | None) -> float | None:
    """Seconds, of either form that the header may have."""
    if not said:
        return None
    try:
        return float(said) if math.isfinite(float(said)) else None
    except ValueError:
        pass  # then it is a date
    try:
        return parsedate_to_datetime(said).timestamp() - time.time()
    except ValueError:
        return None


def _data_url(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"image {path} cannot be read ({error.strerror or error})") from error
    kind = next((name for head, name in _TYPES if content.startswith(head)), None)
    if kind is None:
        raise DataError(f"image {path} is no JPEG, PNG, WebP or GIF; copy it again")
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
