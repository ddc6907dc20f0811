"""A connection to a server: many requests at a time, with retries, and without the parameters that the server refuses."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from senna.errors import SennaError, UsageError
from senna.servers.address import RetryPolicy, Server
from senna.servers.background import Results, run_in_thread
from senna.servers.replies import REFUSAL_STATUS, NoAnswer, is_truncated, read_answer, without_refused_parameter

if TYPE_CHECKING:
    from openai import AsyncOpenAI

logger = logging.getLogger(__name__)

_NO_PATH = (404, 405)  # no such path, or one for other requests

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Refusal:
    """A request that the server rejects, while it may accept the next one.

    Attributes:
        reason: the status and the server's message.
        body: the body of the reply.
    """

    reason: str
    body: object


class Connection:
    """Requests to a server.

    Args:
        concurrency: the number of simultaneous requests.
        max_tokens: the maximum length of an answer in tokens.
        limit_flag: the flag that sets ``max_tokens``, for messages.
        needed_by: the flag that needs the package ``openai``, for messages.

    Raises:
        UsageError: the package ``openai`` is not installed, or ``concurrency`` is too small.
    """

    def __init__(
        self,
        server: Server,
        concurrency: int,
        max_tokens: int,
        retry: RetryPolicy | None,
        limit_flag: str,
        needed_by: str,
    ) -> None:
        if concurrency < 1:
            raise UsageError(f"--concurrency {concurrency} is too small", remedy="give 1 or more")
        self.server, self.concurrency, self.retry = server, concurrency, retry or RetryPolicy()
        self._max_tokens, self._limit_flag = max_tokens, limit_flag
        self._client = _import_client(needed_by)
        self._parameters: dict[str, Any] = {"max_tokens": max_tokens, "temperature": 0.0}
        self._reported: set[str] = set()

    def stream(
        self,
        items: Sequence[Item],
        ask: Callable[["AsyncOpenAI", Item], Awaitable[Answer]],
        check: Callable[[Answer], None] = lambda answer: None,
    ) -> Iterator[list[tuple[int, Answer]]]:
        """Yield the pairs (index of the item, answer) that have arrived, in any order, each index once.

        After a failure no other request is started, those in progress are completed, and the failure is raised.

        Args:
            ask: (client, item) -> the answer.
            check: is called with every answer; what it raises is a failure.
        """
        progress, numbered = self._client.Progress(), iter(enumerate(items))

        async def work(client: "AsyncOpenAI", results: Results) -> None:
            for index, item in numbered:
                if progress.stopped:
                    break
                try:
                    answer = await ask(client, item)
                    results.put((index, answer))
                    check(answer)
                except self._client.Stopped:
                    break
                except Exception as error:
                    results.put((index, error))
                    progress.stop()

        async def work_all(results: Results) -> None:
            async with self._client.make_client(self.server, self.retry, progress) as client:
                workers = min(self.concurrency, len(items))
                progress.workers += [asyncio.create_task(work(client, results)) for _ in range(workers)]
                try:
                    await asyncio.wait(progress.workers)
                finally:
                    progress.stopped = True  # asyncio.wait_for may swallow the cancellation of a task
                    for task in progress.workers:
                        task.cancel()
                    await asyncio.gather(*progress.workers, return_exceptions=True)

        return run_in_thread(work_all) if items else iter(())

    def call(self, ask: Callable[["AsyncOpenAI"], Awaitable[Answer]]) -> Answer:
        """Return the answer to a single request."""
        ((_, answer),) = [pair for group in self.stream([None], lambda client, _: ask(client)) for pair in group]
        return answer

    def models(self) -> list[dict[str, Any]]:
        """Return what the server says of each of its models; ``id`` is the name. Raises SennaError."""
        return self.call(self.list_models)

    async def list_models(self, client: "AsyncOpenAI") -> list[dict[str, Any]]:
        """Return the same as `models`, with a client of the caller's event loop."""
        reply = await self.send(client.models.list())
        if isinstance(reply, Refusal):
            raise SennaError(f"--server {self.server}: {reply.reason}", remedy="see the server's log")
        return [model.model_dump() for model in reply.data]

    def make_client(self, longest: float = math.inf) -> "AsyncOpenAI":
        """Return a client that sends each request once; it must be used and closed in one event loop. Raises UsageError.

        Args:
            longest: a time limit in seconds for each request, if it is shorter than that of the retry policy.
        """
        policy = replace(self.retry, attempts=1, timeout=min(self.retry.timeout, longest))
        return self._client.make_client(self.server, policy, self._client.Progress())

    def has_route(self, path: str) -> bool:
        """Return whether the server has a path for POST requests: it then refuses an empty request with status 400.

        Other servers answer 404 or 405, some 200 with an error.
        """

        async def ask(client: "AsyncOpenAI") -> bool:
            try:
                await client.post(path, cast_to=object, body={})
            except Exception as error:
                status = getattr(error, "status_code", None)
                if status is None or self._client.is_temporary(status):
                    raise self._client.explain(error, self.server, "") from None
                return status == 400
            return False

        return self.call(ask)

    def get(self, path: str) -> Any:
        """Return the JSON that the server has at a path; None if it has no such path. Raises SennaError."""

        async def ask(client: "AsyncOpenAI") -> Any:
            try:
                return await client.get(path, cast_to=object)
            except Exception as error:
                if getattr(error, "status_code", None) in _NO_PATH:
                    return None
                raise self._client.explain(error, self.server, "") from None

        return self.call(ask)

    async def chat(self, client: "AsyncOpenAI", model: str, content: list[Any], about: str = "") -> str:
        """Return the greedy answer to one message, or ``NoAnswer`` where the server refuses it or the model gives no text.

        Args:
            content: the parts of the message, texts and images.
            about: what the request is about, for errors.

        Raises:
            SennaError: the server refuses all requests, or did not answer in any attempt.
        """
        while True:
            parameters = self._parameters
            messages: Any = [{"role": "user", "content": content}]
            reply = await self.send(client.chat.completions.create(model=model, messages=messages, **parameters), about)
            if not isinstance(reply, Refusal):
                return self._read(reply)
            if not self._adapt(parameters, reply.body):
                return NoAnswer(reply.reason, is_refused=True)

    async def send(self, request: Awaitable[Any], about: str = "") -> Any:
        """Return the reply to a request of the client, or a `Refusal`. Errors are those of `chat`."""
        try:
            return await request
        except self._client.Stopped:
            raise
        except Exception as error:
            if isinstance(error, self._client.openai.APIStatusError) and error.status_code in REFUSAL_STATUS:
                return Refusal(self._client.status_text(error, self.server), error.body)
            # without the package's traceback, whose frames hold the key
            raise self._client.explain(error, self.server, about) from None

    def report_once(self, topic: str, text: str | None = None) -> None:
        """Log a warning, unless one of the same topic has been logged. The text is the topic by default."""
        if topic not in self._reported:
            self._reported.add(topic)
            logger.warning("--server %s: %s", self.server, text or topic)

    def _adapt(self, sent: dict[str, Any], body: object) -> bool:
        """Return whether the request should be sent again, with other parameters, after a refusal."""
        if sent is not self._parameters:
            return True  # another request learnt it
        parameters = without_refused_parameter(sent, body)
        if parameters is None:
            return False
        self._parameters = parameters
        if "temperature" in sent and "temperature" not in parameters:
            self.report_once("the server refuses temperature 0: it samples its answers, and a second run gives others")
        return True

    def _read(self, reply: Any) -> str:
        text = read_answer(reply, self._max_tokens)
        if isinstance(text, NoAnswer):
            self.report_once("empty", f"an answer is empty: {text.reason}")
        elif is_truncated(reply):
            self.report_once(
                "truncated",
                f"an answer was cut off at the limit of {self._max_tokens} tokens (finish_reason: length); "
                f"{self._limit_flag} raises it",
            )
        return text


def _import_client(needed_by: str):
    """Return the module of the client. Raises UsageError where the package ``openai`` is missing."""
    try:
        from senna.servers import client
    except ImportError as error:
        raise UsageError(
            f"{needed_by} needs the package openai, which cannot be imported ({error})",
            remedy="pip install -c constraints.txt -e '.[captions]'",
        ) from error
    return client
