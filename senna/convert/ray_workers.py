"""The actors of a conversion on Ray: `FrameWorker` computes frames, `CaptionWorker` answers questions."""

import logging
import os
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from senna.convert.caption_checks import ask
from senna.convert.captioners import ANNOTATIONS, Request, make_captioner
from senna.convert.frames import Source, load_tables
from senna.convert.images import Images
from senna.convert.pipeline import FinishedFrame, PreparedFrame, Preparer, finish
from senna.convert.ray_pool import MESSAGE
from senna.convert.scenes import Scene
from senna.templates import Templates


@dataclass(frozen=True)
class FrameSettings:
    """Everything that a process needs to compute frames.

    Attributes:
        root, version, can_bus, compat: see ``senna.convert.frames``.
        templates, leave_out: see `Preparer`.
        captioner: name of the captioner.
    """

    root: Path
    version: str
    can_bus: Path | None
    compat: str | None
    templates: Templates
    captioner: str
    leave_out: bool


class FrameWorker:
    """Computes the frames of scenes. With captions from the annotations they are finished, with a model's prepared."""

    def __init__(self, settings: FrameSettings) -> None:
        self._settings = settings

    def ready(self) -> int:
        """Return 1: a scene at a time."""
        return 1

    def run(self, scenes: Sequence[Scene]) -> Iterator[list[tuple[int, list[PreparedFrame] | list[FinishedFrame]]]]:
        """Yield the unfinished frames of each scene."""
        for index, scene in enumerate(scenes):
            prepared = list(self._preparer.prepare([scene]))
            yield [(index, self._with_annotations(prepared) if self._settings.captioner == ANNOTATIONS else prepared)]

    def _with_annotations(self, prepared: list[PreparedFrame]) -> list[FinishedFrame]:
        captioner = make_captioner(ANNOTATIONS)
        return [finish(item, ask(captioner, item.requests), ANNOTATIONS) for item in prepared]

    @cached_property
    def _preparer(self) -> Preparer:
        settings = self._settings
        source = Source(load_tables(settings.root, settings.version), settings.can_bus, settings.compat)
        needs_images = settings.captioner != ANNOTATIONS
        return Preparer(source, settings.templates, Images(settings.root), needs_images, settings.leave_out)


class CaptionWorker:
    """Answers questions with a model or with the model of servers.

    Args:
        options: the arguments of ``make_captioner``.
        environment: variables of the driver that it needs, used where the node has none of its own.
    """

    def __init__(self, options: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        self._options = options
        for name, value in environment.items():
            os.environ.setdefault(name, value)

    def ready(self) -> int:
        """Return the captioner's window; see ``senna.convert.captioners.Captioner``."""
        return self._captioner.window

    def run(self, requests: Sequence[Request]) -> Iterator[list[tuple[int, str]]]:
        """Yield the answers as they arrive, and warnings of the captioner with the index `MESSAGE`."""
        arrived: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def answer() -> None:
            try:
                for pair in self._captioner.stream(requests):
                    arrived.put(pair)
                arrived.put(None)
            except BaseException as error:
                arrived.put(error)

        with _passing_warnings(arrived):
            threading.Thread(target=answer, daemon=True).start()
            while True:
                results = [arrived.get()]
                while not arrived.empty():
                    results.append(arrived.get())
                yield [result for result in results if isinstance(result, tuple)]
                if isinstance(results[-1], BaseException):
                    raise results[-1]
                if results[-1] is None:
                    return

    @cached_property
    def _captioner(self) -> Any:
        return make_captioner(**self._options)


class _Warnings(logging.Handler):
    def __init__(self, arrived: queue.SimpleQueue[Any]) -> None:
        super().__init__(logging.WARNING)
        self._arrived = arrived

    def emit(self, record: logging.LogRecord) -> None:
        self._arrived.put((MESSAGE, self.format(record)))


@contextmanager
def _passing_warnings(arrived: queue.SimpleQueue[Any]) -> Iterator[None]:
    """Put the warnings of this package into a queue within the block; no terminal shows what this process prints."""
    logger, handler = logging.getLogger("senna"), _Warnings(arrived)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
