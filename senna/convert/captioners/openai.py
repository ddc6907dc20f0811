"""Captions from a server with OpenAI's chat protocol (vLLM, SGLang, LMDeploy, transformers serve).

Requests are concurrent, have a time limit and are retried after temporary failures; see ``openai_client``.
"""

import asyncio
import base64
import queue
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senna.convert.captioners import Request, in_order
from senna.convert.captioners.server import RetryPolicy, parse_server
from senna.errors import DataError, UsageError

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from senna.convert.captioners.openai_client import RetryPolicy

_TYPES = ((b"\xff\xd8\xff", "jpeg"), (b"\x89PNG", "png"), (b"RIFF", "webp"), (b"GIF8", "gif"))

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
        """Answer all requests and put the results into the queue, the first failure last."""
        progress, indices = self._client.Progress(), iter(range(len(requests)))

        async def work(client: "AsyncOpenAI") -> None:
            for index in indices:
                if progress.stopped:
                    break
                try:
                    results.put((index, await self._ask(client, requests[index], model)))
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
        """Send a request and return the answer."""
        content: list[Any] = [
            {"type": "image_url", "image_url": {"url": _data_url(request.image)}},
            {"type": "text", "text": request.question},
        ]
        try:
            reply = await client.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": content}],
                max_tokens=self._max_tokens,
                temperature=0.0,
            )
        except self._client.Stopped:
            raise
        except Exception as error:  # no traceback of the package's frames, which hold the key
            raise self._client.explain(error, self._server, f" about {request.image}") from None
        return _text_of(reply)

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
            remedy="pip install 'senna[captions]', or in a checkout: pip install -c constraints.txt -e '.[captions]'",
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


def _text_of(reply: Any) -> str:
    """Return the answer in a reply; "" where the model gave none."""
    content = reply.choices[0].message.content
    if isinstance(content, list):
        content = "".join(str(part.get("text") or "") for part in content)
    return (content or "").strip()


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
