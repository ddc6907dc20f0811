"""Captioners answer the questions that the tables do not answer. There are three, with one small interface.

``annotations`` composes text from the tables, ``llava`` runs a LLaVA-1.6 on this machine, ``openai`` asks servers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from senna.convert.facts import Frame
from senna.errors import UsageError

ANNOTATIONS = "annotations"
CAPTIONERS = (ANNOTATIONS, "llava", "openai")
PRECISIONS = ("nf4", "int8", "bf16", "fp16", "fp32")
DEFAULT_MODEL = "llava-hf/llava-v1.6-34b-hf"
EMPTY_REMEDY = (
    "raise --captioner-max-tokens, turn the model's reasoning off in the server, or use another model, "
    "and run the same command again"
)


@dataclass(frozen=True)
class Request:
    """A question about one image of a frame. Models do not see the frame, so that it may be None for them."""

    frame: Frame | None
    view: str  # one of `senna.views.VIEWS`
    image: Path
    kind: str  # of the record that the answer is for; its `senna.kinds.CaptionRules` apply
    question: str


class Captioner(Protocol):
    """Answers questions about images."""

    @property
    def name(self) -> str:
        """The captioner's name, which is in every record that it answers and part of the cache's keys."""
        ...

    @property
    def window(self) -> int:
        """The number of requests that keep it busy; callers should pass about as many at a time."""
        ...

    def answer(self, requests: Sequence[Request]) -> list[str]:
        """Return one text for each request, in order; "" or ``NoAnswer`` where it has none.

        Raises:
            SennaError: the captioner failed.
        """
        ...


class StreamingCaptioner(Captioner, Protocol):
    """A captioner that yields its answers one by one, so that earlier answers can be saved when a later one fails."""

    @property
    def settings(self) -> str:
        """The options that determine its answers, which are part of the cache's keys."""
        ...

    def stream(self, requests: Sequence[Request]) -> Iterator[tuple[int, str]]:
        """Yield (index of the request, text) in any order, each index once. Raises SennaError where it fails."""
        ...


def in_order(answers: Iterator[tuple[int, str]]) -> list[str]:
    """Return the texts of a complete stream in the order of its requests."""
    return [text for _, text in sorted(answers)]


def make_captioner(
    name: str,
    *,
    model: str | None = None,
    batch: str | int = "auto",
    quantization: str = "nf4",
    server: str | None = None,
    concurrency: int = 16,
    max_tokens: int = 256,
    cache: Path | None = None,
) -> Captioner:
    """Create a captioner. Nothing is loaded, requested or written before its first answer.

    Args:
        name: one of ``CAPTIONERS``.
        model: ``llava``: folder or hub name of a LlavaNext, default ``DEFAULT_MODEL``. ``openai``: the server's name for
            its model; not needed where the server has only one.
        batch: ``llava``: requests in a batch; "auto" starts high and halves it when memory runs out.
        quantization: ``llava``: one of ``PRECISIONS``.
        server: ``openai``: the server's address, for example ``http://localhost:8000/v1``, or several with commas between
            them. The key, where they need one, is read from the environment variable OPENAI_API_KEY.
        concurrency: ``openai``: number of simultaneous requests to each server.
        max_tokens: maximum length of a model's answer in tokens.
        cache: file that stores a model's answers, so that no question is asked twice. ``annotations`` does not use it: its
            texts depend on more than the image, and cost no time.

    Raises:
        UsageError: an unknown name, or an option that does not fit the captioner.
    """
    if name not in CAPTIONERS:
        raise UsageError(f"captioner {name!r} is unknown", remedy=f"use one of {', '.join(CAPTIONERS)}")
    if server is not None and name != "openai":
        raise UsageError(f"--server does not fit captioner {name}", remedy="use it with --captioner openai")
    if max_tokens < 1:
        raise UsageError(f"an answer of at most {max_tokens} tokens is empty", remedy="give 1 or more")
    if name == ANNOTATIONS:
        from senna.convert.captioners.annotations import AnnotationsCaptioner

        if model is not None:
            raise UsageError(
                f"--captioner-model {model}: captioner {ANNOTATIONS!r} has no model", remedy="use llava or openai"
            )
        return AnnotationsCaptioner()
    if name == "llava":
        from senna.convert.captioners.llava import LlavaCaptioner

        captioner: StreamingCaptioner = LlavaCaptioner(model or DEFAULT_MODEL, quantization, batch, max_tokens)
    else:
        from senna.convert.captioners.openai import OpenAICaptioner

        captioner = OpenAICaptioner(server, model, concurrency, max_tokens)
    if cache is None:
        return captioner
    from senna.convert.captioners.cache import CachedCaptioner

    return CachedCaptioner(captioner, cache)
