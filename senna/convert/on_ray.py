"""Convert on many processes with Ray: frames are computed and captioned there, and written here, in order.

Only this process, the driver, writes: finished frames to the journal, answers to the cache as soon as they arrive. So the
files equal those of one process, and whatever dies, the driver too, costs time but no answer that had arrived.
"""

import asyncio
import math
import os
import signal
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import ray

from senna.convert.caption_checks import Caption, asking
from senna.convert.caption_limits import CaptionLimits
from senna.convert.captioners import Request, StreamingCaptioner
from senna.convert.captioners.cache import AnswerCache, answer_key, content_hash
from senna.convert.pipeline import FinishedFrame, PreparedFrame, finish_checked
from senna.convert.ray_cluster import LOCAL
from senna.convert.ray_pool import Pool
from senna.convert.ray_workers import CaptionWorker, FrameSettings, FrameWorker
from senna.convert.scenes import Scene
from senna.errors import UsageError
from senna.record_checks import replace_surrogates

Result = TypeVar("Result")

_ENVIRONMENT = (
    *("OPENAI_API_KEY", "HF_TOKEN", "HF_HOME", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"),
    *(f"{name}_proxy" for name in ("http", "https", "all", "no")),
)
_MOST_FRAME_WORKERS = 16  # with annotations; the driver writes about 1,500 frames/s
_WAIT = 300.0  # seconds
_QUESTIONS = 8  # about as many has a frame for a captioner
_NO_RESTARTS = {"max_restarts": 0, "max_task_retries": 0}  # the pool starts other actors
_SOME_MEMORY = 1 << 20  # bytes; Ray puts actors that need nothing on random nodes, and does not spread them
_OPENAI_CAPTIONERS = 2  # each waits for its last answers while the other one works


@dataclass(frozen=True)
class RayOptions:
    """The flags of a conversion that concern Ray, which describe them. None stands for the default."""

    address: str = LOCAL
    captioners: int | None = None
    gpus_per_captioner: int | None = None
    workers: int | None = None
    window: int | None = None
    wait: float | None = None


class RayEngine:
    """Converts on a Ray cluster to which this process is connected.

    Args:
        settings: what a process needs to compute frames.
        captioner: name and settings of the captioner, which is not asked here; None for annotations.
        arguments: the arguments of ``make_captioner``.
        cache: the file of the answers.
    """

    def __init__(
        self,
        settings: FrameSettings,
        captioner: StreamingCaptioner | None,
        arguments: Mapping[str, Any],
        cache: Path,
        options: RayOptions,
    ) -> None:
        self._settings, self._captioner, self._options = settings, captioner, options
        self._arguments, self._cache = dict(arguments), AnswerCache(cache)
        self._wait = _WAIT if options.wait is None else options.wait
        self._gpus = 0
        if arguments["name"] == "llava":
            self._gpus = 1 if options.gpus_per_captioner is None else options.gpus_per_captioner
            if (model := arguments["model"]) and Path(model).is_dir():  # Ray's processes work in another folder
                self._arguments["model"] = str(Path(model).absolute())
        if options.address == LOCAL and self._gpus > (gpus := ray.cluster_resources().get("GPU", 0)):
            raise UsageError(
                f"each captioner needs {self._gpus} GPU{'s' * (self._gpus > 1)}, and this machine has {gpus:g}",
                remedy="give --gpus-per-captioner 0 to run it on CPUs, or the address of a cluster: --ray HOST:PORT",
            )
        self._asked: dict[str, asyncio.Task[str]] = {}  # key of the cache -> the question in progress
        self._captioners: Pool | None = None
        self._workers: Pool | None = None

    def convert(self, scenes: Sequence[Scene], limits: CaptionLimits) -> Iterator[FinishedFrame]:
        """Yield the frames of scenes that are not finished, in order."""
        if self._captioner is None:
            return _run(self._frames(scenes))
        return finish_checked(_run(self._captioned(scenes)), self._captioner.name, limits)

    def state(self) -> str:
        """Return how many captioners live."""
        pool = self._captioners
        return f"{pool.alive} of {pool.size} captioners" if pool else ""

    async def _captioned(self, scenes: Sequence[Scene]) -> AsyncGenerator[tuple[PreparedFrame, list[Caption]], None]:
        """Yield each frame with its captions, in order; at most a window of frames is in progress."""
        waiting: deque[asyncio.Task] = deque()
        async with _managed(self._caption_pool()) as self._captioners:
            count = self._wanted()
            print(f"starting {count} captioner{'s' * (count > 1)}, each with {self._captioners.needs}", flush=True)
            try:
                async with aclosing(self._frames(scenes)) as frames:
                    async for frame in frames:
                        waiting.append(asyncio.create_task(self._caption(frame)))
                        while len(waiting) >= self._window or (waiting and waiting[0].done()):
                            yield await waiting.popleft()
                while waiting:
                    yield await waiting.popleft()
            finally:
                await _cancel([*waiting, *self._asked.values()])
                self._cache.close()

    async def _frames(self, scenes: Sequence[Scene]) -> AsyncGenerator[Any, None]:
        """Yield the frames of scenes in order, finished where the captions come from the annotations."""
        ahead: deque[asyncio.Task] = deque()
        async with _managed(self._worker_pool()) as self._workers:
            pool, most = self._workers, 2 * self._worker_count
            try:
                for scene in scenes:
                    ahead.append(asyncio.create_task(pool.process(scene)))
                    if len(ahead) > most:
                        for frame in await ahead.popleft():
                            yield frame
                while ahead:
                    for frame in await ahead.popleft():
                        yield frame
            finally:
                await _cancel(ahead)

    async def _caption(self, item: PreparedFrame) -> tuple[PreparedFrame, list[Caption]]:
        hashes = {path: content_hash(path) for path in {request.image for request in item.requests}}
        rounds = asking(item.requests)
        requests, is_repeated = next(rounds), False
        while True:
            answers = (self._answer(request, hashes[request.image], is_repeated) for request in requests)
            texts = await asyncio.gather(*answers)
            try:
                requests, is_repeated = rounds.send(texts), True
            except StopIteration as end:
                return item, end.value

    async def _answer(self, request: Request, image_hash: str, first: bool) -> str:
        """Return an answer from the cache or from a captioner; the same question is asked once at a time."""
        assert self._captioner is not None
        key = answer_key(image_hash, self._captioner.name, self._captioner.settings, request.question)
        if (text := self._cache.load(key)) is not None:
            return text
        if key not in self._asked:
            self._asked[key] = asyncio.create_task(self._ask(key, request, first))
            self._asked[key].add_done_callback(lambda _: self._asked.pop(key))
        return await asyncio.shield(self._asked[key])

    async def _ask(self, key: str, request: Request, first: bool) -> str:
        assert self._captioners is not None
        text = replace_surrogates(await self._captioners.process(replace(request, frame=None), first=first))
        self._cache.store(key, text)
        return text

    @property
    def _window(self) -> int:
        """The largest number of frames in progress."""
        pool = self._captioners
        assert pool is not None
        return self._options.window or max(4, math.ceil(2 * pool.size * pool.busy_with / _QUESTIONS))

    @property
    def _worker_count(self) -> int:
        default = (
            1 if self._captioner is not None else min(int(ray.cluster_resources().get("CPU", 1)), _MOST_FRAME_WORKERS)
        )
        return self._options.workers or max(default, 1)

    def _worker_pool(self) -> Pool:
        # Beside a model it hardly works, and must not wait for the captioners.
        cpus = 1 if self._captioner is None else 0
        worker = ray.remote(FrameWorker).options(num_cpus=cpus, scheduling_strategy="SPREAD", **_NO_RESTARTS)
        count = self._worker_count
        return Pool("worker", lambda: worker.remote(self._settings), lambda: count, self._wait, f"{cpus} CPU")

    def _caption_pool(self) -> Pool:
        needs = {"num_gpus": self._gpus, "num_cpus": 0, "memory": _SOME_MEMORY}
        if self._arguments["name"] == "llava" and not self._gpus:
            needs = {"num_cpus": 1}
        worker = ray.remote(CaptionWorker).options(**needs, scheduling_strategy="SPREAD", **_NO_RESTARTS)
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        text = f"{self._gpus} GPU{'s' * (self._gpus > 1)}" if self._gpus else "1 CPU" if needs["num_cpus"] else "1 MiB"
        return Pool("captioner", lambda: worker.remote(self._arguments, environment), self._wanted, self._wait, text)

    def _wanted(self) -> int:
        """Return the number of captioners: the given one, or what the GPUs of the cluster allow now."""
        if self._options.captioners:
            return self._options.captioners
        if self._gpus:
            return max(1, int(ray.cluster_resources().get("GPU", 0)) // self._gpus)
        return _OPENAI_CAPTIONERS if self._arguments["name"] == "openai" else 1


@asynccontextmanager
async def _managed(pool: Pool) -> AsyncIterator[Pool]:
    """Let a pool have actors within the block."""
    manager = asyncio.create_task(pool.manage())
    try:
        yield pool
    finally:
        await _cancel([manager])


async def _cancel(tasks: Iterable[asyncio.Task]) -> None:
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _run(results: AsyncGenerator[Result, None]) -> Iterator[Result]:
    """Yield what an asynchronous generator yields. A signal that ends this process ends the generator first."""
    loop = asyncio.new_event_loop()
    try:
        while True:
            try:
                result = _interruptible(loop, _next(results))
            except StopAsyncIteration:
                return
            yield result
    finally:
        loop.run_until_complete(results.aclose())
        loop.close()


async def _next(results: AsyncGenerator[Result, None]) -> Result:
    return await anext(results)


def _interruptible(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Result]) -> Result:
    """Return the result of a coroutine. Ctrl-C and SIGTERM cancel it, and are handled when it has ended.

    An exception of their handlers inside the loop would end only the task that happens to run, or leave tasks behind.
    """
    task, received = loop.create_task(work), []

    def cancel(number: int, frame: Any) -> None:
        if not received:
            loop.call_soon_threadsafe(task.cancel)
        received.append((number, frame))

    handlers: dict[int, Callable] = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        if callable(handler := signal.getsignal(number)):
            handlers[number] = handler
            signal.signal(number, cancel)
    try:
        return loop.run_until_complete(task)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number, frame in received:
            handlers[number](number, frame)
