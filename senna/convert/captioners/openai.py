"""Captions from a server with OpenAI's chat protocol (vLLM, SGLang, LMDeploy, transformers serve).

Requests are concurrent, have a time limit and are retried after temporary failures; see ``senna.servers``.
"""

import base64
import io
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from senna.convert.captioners import EMPTY_REMEDY, Request, in_order
from senna.errors import DataError, SennaError, UsageError
from senna.image_file import check_image_file
from senna.servers.address import EXAMPLE, RetryPolicy, parse_server
from senna.servers.connection import Connection
from senna.servers.replies import NoAnswer

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_FIRST_ANSWERS = 16  # if all of these have no text, the run stops
_REPORTED_REFUSALS = 10  # the others are only marked
_TYPES = ("JPEG", "PNG", "WEBP", "GIF")


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
        if not server:
            raise UsageError("--captioner openai needs --server", remedy=EXAMPLE)
        self._connection = Connection(
            parse_server(server), concurrency, max_tokens, retry, "--captioner-max-tokens", "--captioner openai"
        )
        self._asked_model = model
        self._has_text, self._empty = False, 0  # whether an answer had text, and the number of answers without before
        self._refused: set[Path] = set()
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

        async def ask(client: "AsyncOpenAI", request: Request) -> str:
            return await self._ask(client, request, model)

        for answers in self._connection.stream(requests, ask, self._check_first_answers):
            yield from answers

    async def _ask(self, client: "AsyncOpenAI", request: Request, model: str) -> str:
        """Send a request and return the answer, or ``NoAnswer`` where the server refuses it or the model gives no text."""
        content: list[Any] = [
            {"type": "image_url", "image_url": {"url": _data_url(request.image)}},
            {"type": "text", "text": request.question},
        ]
        text = await self._connection.chat(client, model, content, f" about {request.image}")
        if isinstance(text, NoAnswer) and text.is_refused:
            self._report_refusal(request.image, text.reason)
        return text if isinstance(text, NoAnswer) else text.strip()

    def _report_refusal(self, image: Path, reason: str) -> None:
        if image not in self._refused and len(self._refused) < _REPORTED_REFUSALS:
            self._refused.add(image)
            self._connection.report_once(f"the server refused {image} ({reason}); it is marked, and the run goes on")

    def _check_first_answers(self, text: str) -> None:
        """Raise SennaError where none of the first answers has text."""
        self._has_text = self._has_text or bool(text)
        if self._has_text or not isinstance(text, NoAnswer):
            return
        self._empty += 1
        if self._empty >= _FIRST_ANSWERS:
            what = "refused" if text.is_refused else "empty"
            raise SennaError(
                f"--server {self._connection.server}: the first {self._empty} answers have no text; the last is {what}: "
                f"{text.reason}",
                remedy="see the server's log, and run the same command again" if text.is_refused else EMPTY_REMEDY,
            )

    @cached_property
    def _model(self) -> str:
        if self._asked_model:
            return self._asked_model
        names = [str(model["id"]) for model in self._connection.models()]
        if len(names) != 1:
            raise UsageError(
                f"--server {self._connection.server} serves {len(names)} models",
                remedy=f"give --captioner-model ({', '.join(names)})",
            )
        return names[0]


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
