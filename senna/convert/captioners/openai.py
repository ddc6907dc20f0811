"""Captions from one or several servers with OpenAI's chat protocol (vLLM, SGLang, LMDeploy, transformers serve).

Requests are concurrent, have a time limit and are retried after temporary failures; see ``senna.servers``.
"""

import base64
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from senna.convert.captioners import EMPTY_REMEDY, Request, in_order
from senna.errors import DataError, SennaError, UsageError
from senna.image_file import check_image_file
from senna.servers.address import EXAMPLE, RetryPolicy, parse_servers
from senna.servers.connection import Connection
from senna.servers.pool import Pool
from senna.servers.replies import NoAnswer

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_FIRST_ANSWERS = 16  # if all of these have no text, the run stops
_REPORTED_REFUSALS = 10  # the others are only marked
_TYPES = ("JPEG", "PNG", "WEBP", "GIF")


class OpenAICaptioner:
    """Answers questions with greedy decoding of a model that one or several servers have.

    A pickled captioner is made again from its arguments, with key and proxies of the process that loads it.
    """

    def __init__(
        self,
        server: str | None,
        model: str | None = None,
        concurrency: int = 16,
        max_tokens: int = 256,
        retry: RetryPolicy | None = None,
    ) -> None:
        """Initialize the captioner; see ``make_captioner`` for the arguments. No server is asked yet.

        Raises:
            UsageError: there is no server, an address is not valid or given twice, or the key cannot be one; or the package
                ``openai`` is not installed.
        """
        if not server:
            raise UsageError("--captioner openai needs --server", remedy=EXAMPLE)
        connections = [
            Connection(address, concurrency, max_tokens, retry, "--captioner-max-tokens", "--captioner openai")
            for address in parse_servers(server)
        ]
        self._arguments = (server, model, concurrency, max_tokens, retry)
        self._pool = Pool(connections, model or None)
        self._has_text, self._empty = False, 0  # whether an answer had text, and the number of answers without before
        self._refused: set[Path] = set()
        self.window, self.settings = 8 * concurrency * len(connections), f"max_tokens={max_tokens}"

    def __reduce__(self) -> tuple[Any, ...]:
        return OpenAICaptioner, self._arguments

    @property
    def name(self) -> str:
        """The name with that of the model, which is requested from the servers where it was not given."""
        return f"openai:{self._pool.model}"

    @property
    def alive(self) -> str:
        """The number of servers in use, for example "2 of 3 servers"."""
        return self._pool.alive

    def answer(self, requests: Sequence[Request]) -> list[str]:
        """Return one text for each request, in order. Raises SennaError where a server fails permanently."""
        return in_order(self.stream(requests))

    def stream(self, requests: Sequence[Request]) -> Iterator[tuple[int, str]]:
        """Yield (index, text) as they arrive. Before a permanent failure is raised, requests in progress are completed."""
        if not requests:
            return
        model = self._pool.model

        async def ask(connection: Connection, client: "AsyncOpenAI", request: Request) -> str:
            return await self._ask(connection, client, request, model)

        for answers in self._pool.stream(requests, ask, self._check_first_answers):
            yield from answers

    async def _ask(self, connection: Connection, client: "AsyncOpenAI", request: Request, model: str) -> str:
        """Send a request and return the answer, or ``NoAnswer`` where the server refuses it or the model gives no text."""
        content: list[Any] = [
            {"type": "image_url", "image_url": {"url": _data_url(request.image)}},
            {"type": "text", "text": request.question},
        ]
        text = await connection.chat(client, model, content, f" about {request.image}")
        if isinstance(text, NoAnswer) and text.is_refused:
            self._report_refusal(connection, request.image, text.reason)
        return text if isinstance(text, NoAnswer) else text.strip()

    def _report_refusal(self, connection: Connection, image: Path, reason: str) -> None:
        if image not in self._refused and len(self._refused) < _REPORTED_REFUSALS:
            self._refused.add(image)
            connection.report_once(f"the server refused {image} ({reason}); it is marked, and the run goes on")

    def _check_first_answers(self, text: str) -> None:
        """Raise SennaError where none of the first answers has text."""
        self._has_text = self._has_text or bool(text)
        if self._has_text or not isinstance(text, NoAnswer):
            return
        self._empty += 1
        if self._empty >= _FIRST_ANSWERS:
            what = "refused" if text.is_refused else "empty"
            raise SennaError(
                f"--server {self._pool}: the first {self._empty} answers have no text; the last is {what}: "
                f"{text.reason}",
                remedy="see the server's log, and run the same command again" if text.is_refused else EMPTY_REMEDY,
            )


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
