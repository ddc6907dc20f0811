"""Whoever answers what the tables do not say: one small interface, three ways.

``annotations`` composes the text from the tables, ``llava`` runs a LLaVA-1.6 here, ``openai`` asks a server.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from senna.convert.facts import Frame
from senna.errors import UsageError

CAPTIONERS = ("annotations", "llava", "openai")
PRECISIONS = ("nf4", "int8", "bf16", "fp16", "fp32")
DEFAULT_MODEL = "llava-hf/llava-v1.6-34b-hf"


@dataclass(frozen=True)
class Request:
    """A question about one picture of a frame."""

    frame: Frame
    view: str  # of `senna.views.VIEWS`
    image: Path
    kind: str  # of the record that the answer goes into: "traffic_light", "description", "explanation"
    question: str


class Captioner(Protocol):
    """Answers questions about pictures."""

    name: str  # stands in every record that it answered, and in the cache's keys
    window: int  # how many requests keep it busy: hand over about as many at a time

    def answer(self, requests: Sequence[Request]) -> list[str]:
        """One text a request, in their order; "" where it cannot tell. Raises SennaError where no answer can be had."""
        ...


class StreamingCaptioner(Captioner, Protocol):
    """One whose answers come one after the other, so that those that came can be kept when a later one fails."""

    settings: str  # what else decides its answers, for the cache's keys

    def stream(self, requests: Sequence[Request]) -> Iterator[tuple[int, str]]:
        """(place among the requests, text) as they come, every place once. Raises SennaError as ``answer`` does."""
        ...


def in_order(answers: Iterator[tuple[int, str]]) -> list[str]:
    """The texts of a whole stream in the order of its requests."""
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
    """The captioner of that name. Nothing is loaded, asked or written before its first answer.

    Args:
        name: one of ``CAPTIONERS``.
        model: ``llava``: a LlavaNext's folder or hub name, ``DEFAULT_MODEL`` without one. ``openai``: the server's name for
            its model, which may be left out where it serves one only.
        batch: ``llava``: requests at once; "auto" starts high and halves itself when memory runs out.
        quantization: ``llava``: one of ``PRECISIONS``.
        server: ``openai``: the server's address, as ``http://localhost:8000/v1``; its key, if it asks for one, is read from
            the environment's OPENAI_API_KEY.
        concurrency: ``openai``: requests under way at the same time.
        max_tokens: the longest answer of a model, in its tokens.
        cache: a file in which the answers of a model are kept, so that nothing is asked twice; not used by
            ``annotations``, whose texts depend on more than the picture and take no time.

    Raises:
        UsageError: an unknown name, or an option that the captioner cannot use.
    """
    if name not in CAPTIONERS:
        raise UsageError(f"captioner {name!r} is not known; it is one of {', '.join(CAPTIONERS)}")
    if server is not None and name != "openai":
        raise UsageError(f"--server {server} is for --captioner openai, and the captioner is {name}")
    if max_tokens < 1:
        raise UsageError(f"an answer of at most {max_tokens} tokens says nothing; give 1 or more")
    if name == "annotations":
        from senna.convert.captioners.annotations import AnnotationsCaptioner

        if model is not None:
            raise UsageError(
                f"--captioner-model {model}: the captioner 'annotations' has no model; choose llava or openai"
            )
        return AnnotationsCaptioner()
    if name == "llava":
        from senna.convert.captioners.llava import LlavaCaptioner

        made: StreamingCaptioner = LlavaCaptioner(model or DEFAULT_MODEL, quantization, batch, max_tokens)
    else:
        from senna.convert.captioners.openai import OpenAICaptioner

        made = OpenAICaptioner(server, model, concurrency, max_tokens)
    if cache is None:
        return made
    from senna.convert.captioners.cache import CachedCaptioner

    return CachedCaptioner(made, cache)
