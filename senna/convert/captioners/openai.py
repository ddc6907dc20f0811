"""Captions from a server with OpenAI's chat protocol (vLLM, SGLang, LMDeploy, transformers serve).

Requests are concurrent, have a time limit and are retried after temporary failures; see ``openai_client``.
"""

import asyncio
import base64
import io
import logging
import queue
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from senna.convert.captioners import EMPTY_REMEDY, NoAnswer, Request, in_order
from senna.convert.captioners.openai_replies import (
    REFUSAL_STATUS,
    is_truncated,
    read_answer,
    without_refused_parameter,
)
from senna.convert.captioners.server import RetryPolicy, parse_server
from senna.errors import DataError, SennaError, UsageError
from senna.image_file import check_image_file

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from senna.convert.captioners.openai_client import RetryPolicy

logger = logging.getLogger(__name__)

_FIRST_ANSWERS = 16  # if all of these have no text, the run stops
_REPORTED_REFUSALS = 10  # the others are only marked
_TYPES = ("JPEG", "PNG", "WEBP", "GIF")

Results = queue.SimpleQueue[tuple[int, str | Exception] | None]


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
            UsageError: there is no server, it is not a valid address, or its key cannot be one; or the package ``openai`` is
                not installed.
        """
        if concurrency < 1:
            raise UsageError(f"--concurrency {concurrency} is too small", remedy="give 1 or more")
        self._server = parse_server(server)
        self._asked_model, self._concurrency, self._max_tokens = model, concurrency, max_tokens
        self._client = _import_client()
        self._retry = retry or RetryPolicy()
        self._parameters: dict[str, Any] = {"max_tokens": max_tokens, "temperature": 0.0}
        self._has_text, self._empty = False, 0  # whether an answer had text, and the number of answers without before
        self._reported: set[str] = set()
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
        model, results = self._model, Results()
        cancel = _start(lambda: self._answer_all(requests, model, results), results)
        try:
            yield from _collected(results)
        finally:
            cancel()

    async def _answer_all(self, requests: Sequence[Request], model: str, results: Results) -> None:
        """Answer all requests and put the results into the queue; after a failure, no other request is started."""
        progress, indices = self._client.Progress(), iter(range(len(requests)))

        async def work(client: "AsyncOpenAI") -> None:
            for index in indices:
                if progress.stopped:
                    break
                try:
                    text = await self._ask(client, requests[index], model)
                    results.put((index, text))
                    self._check_first_answers(text)
                except self._client.Stopped:
                    break
                except Exception as error:
                    results.put((index, error))
                    progress.stop()

        async with self._client.make_client(self._server, self._retry, progress) as client:
            workers = min(self._concurrency, len(requests))
            progress.workers += [asyncio.create_task(work(client)) for _ in range(workers)]
            try:
                await asyncio.wait(progress.workers)
            finally:
                for task in progress.workers:
                    task.cancel()

    async def _ask(self, client: "AsyncOpenAI", request: Request, model: str) -> str:
        """Send a request and return the answer, or ``NoAnswer`` where the server refuses it or the model gives no text."""
        content: list[Any] = [
            {"type": "image_url", "image_url": {"url": _data_url(request.image)}},
            {"type": "text", "text": request.question},
        ]
        while True:
            parameters = self._parameters
            try:
                reply = await client.chat.completions.create(
                    model=model, messages=[{"role": "user", "content": content}], **parameters
                )
            except self._client.Stopped:
                raise
            except Exception as error:
                if getattr(error, "status_code", None) not in REFUSAL_STATUS:
                    # without the package's traceback, whose frames hold the key
                    raise self._client.explain(error, self._server, f" about {request.image}") from None
                if self._adapt(parameters, error):
                    continue
                return self._refused(request, self._client.status_text(error, self._server))
            return self._read(reply)

    def _adapt(self, sent: dict[str, Any], error: Any) -> bool:
        """Return whether the request should be sent again, with other parameters, after a refusal."""
        if sent is not self._parameters:
            return True  # another request learnt it
        parameters = without_refused_parameter(sent, error.body)
        if parameters is None:
            return False
        self._parameters = parameters
        if "temperature" in sent and "temperature" not in parameters:
            self._report_once("the server refuses temperature 0: it samples its answers, and a second run gives others")
        return True

    def _refused(self, request: Request, reason: str) -> NoAnswer:
        image = str(request.image)
        if image not in self._reported and len(self._reported) < _REPORTED_REFUSALS:
            self._report_once(image, f"the server refused {image} ({reason}); it is marked, and the run goes on")
        return NoAnswer(reason, is_refused=True)

    def _read(self, reply: Any) -> str:
        text = read_answer(reply, self._max_tokens)
        if isinstance(text, NoAnswer):
            self._report_once("empty", f"an answer is empty: {text.reason}")
        elif is_truncated(reply):
            self._report_once(
                "truncated",
                f"an answer was cut off at the limit of {self._max_tokens} tokens (finish_reason: length); "
                "--captioner-max-tokens raises it",
            )
        return text

    def _report_once(self, topic: str, text: str | None = None) -> None:
        if topic not in self._reported:
            self._reported.add(topic)
            logger.warning("--server %s: %s", self._server, text or topic)

    def _check_first_answers(self, text: str) -> None:
        """Raise SennaError where none of the first answers has text."""
        self._has_text = self._has_text or bool(text)
        if self._has_text or not isinstance(text, NoAnswer):
            return
        self._empty += 1
        if self._empty >= _FIRST_ANSWERS:
            what = "refused" if text.is_refused else "empty"
            raise SennaError(
                f"--server {self._server}: the first {self._empty} answers have no text; the last is {what}: {text.reason}",
                remedy="see the server's log, and run the same command again" if text.is_refused else EMPTY_REMEDY,
            )

    @cached_property
    def _model(self) -> str:
        if self._asked_model:
            return self._asked_model
        results = Results()
        _start(lambda: self._list_models(results), results)
        names = [text for _, text in _collected(results)]
        if len(names) != 1:
            raise UsageError(
                f"--server {self._server} serves {len(names)} models",
                remedy=f"give --captioner-model ({', '.join(names)})",
            )
        return names[0]

    async def _list_models(self, results: Results) -> None:
        async with self._client.make_client(self._server, self._retry, self._client.Progress()) as client:
            try:
                reply = await client.models.list()
            except Exception as error:
                raise self._client.explain(error, self._server, "") from None
            for index, model in enumerate(reply.data):
                results.put((index, str(model.id)))


def _import_client():
    """Return the module of the client. Raises UsageError where the package ``openai`` is missing."""
    try:
        from senna.convert.captioners import openai_client
    except ImportError as error:
        raise UsageError(
            f"--captioner openai needs the package openai, which cannot be imported ({error})",
            remedy="pip install -c constraints.txt -e '.[captions]'",
        ) from error
    return openai_client


def _start(work: Callable[[], Coroutine[Any, Any, None]], results: Results) -> Callable[[], None]:
    """Run a coroutine in a thread of its own, which Ctrl-C does not wait for; put its failure and then None into the queue.

    Returns:
        A function that cancels the coroutine.
    """
    loop = asyncio.new_event_loop()
    task = loop.create_task(work())

    def run() -> None:
        try:
            loop.run_until_complete(task)
        except asyncio.CancelledError:
            pass
        except Exception as error:
            results.put((-1, error))
        finally:
            results.put(None)
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    def cancel() -> None:
        try:
            loop.call_soon_threadsafe(task.cancel)
        except RuntimeError:  # the loop is closed: the work is done
            return

    threading.Thread(target=run, daemon=True).start()
    return cancel


def _collected(results: Results) -> Iterator[tuple[int, str]]:
    """Yield the answers until the work has ended, then raise the first failure, if any."""
    failure: Exception | None = None
    while (item := results.get()) is not None:
        if isinstance(item[1], Exception):
            failure = failure or item[1]
        else:
            yield item[0], item[1]
    if failure is not None:
        raise failure


def _data_url(path: Path) -> str:
    """Return an image file as a data URL. Raises DataError for every other file: none of its bytes may leave this machine."""
    check_image_file(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        fault = DataError.MISSING_IMAGE if isinstance(error, FileNotFoundError) else None
        raise DataError(
            f"the image cannot be read ({error.strerror or error})", remedy="copy it again", file=path, kind=fault
        ) from error
    try:
        with Image.open(io.BytesIO(content), formats=_TYPES) as image:
            kind = "jpeg" if image.format == "MPO" else str(image.format).lower()  # some cameras' JPEG files are MPO
            image.verify()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        remedy = "copy it again"
        raise DataError("the image is not a JPEG, PNG, WebP or GIF", remedy=remedy, file=path) from None
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
