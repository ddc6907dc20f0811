"""A pool of Ray actors. An item whose actor, process or node dies goes to another actor; none is lost or finished twice.

Ray Data's actor pool is not used: after a node dies without a spare GPU, the rows in progress there wait for it to come back,
and an ordered stream gives nothing until then. Here they go to the actors that live. A finished item reaches the driver at
once, not with its block, so that its answer can be saved.
"""

import asyncio
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import ray
from ray.actor import ActorHandle
from ray.exceptions import ObjectLostError, RayActorError, RayError, RayTaskError, WorkerCrashedError
from tqdm import tqdm

from senna.errors import SennaError

_LOST = (RayActorError, ObjectLostError, WorkerCrashedError)
_MANAGE_SECONDS = 1.0  # between two looks at the resources of the cluster
_MOST_DEATHS = 5  # of actors that work on the same item, or of new actors one after the other
MESSAGE = -1
"""The index of a result that is no result but a line for the terminal."""

_SAME_SECONDS = 60.0  # between two prints of the same message, which several actors may send
_MOST_REPORTS = 20  # of lost actors; later ones are not printed


class Worker(Protocol):
    """The class of a pool's actors."""

    def ready(self) -> int:
        """Return the number of items that keep the actor busy."""
        ...

    def run(self, values: Sequence[Any]) -> Iterator[list[tuple[int, Any]]]:
        """Yield lists of (index of the value, result), in any order, each index once, and messages with the index `MESSAGE`."""
        ...


@dataclass(eq=False)
class _Item:
    value: Any
    result: asyncio.Future
    deaths: int = 0


class Pool:
    """Actors that process items; it is used in one event loop.

    Args:
        name: what an actor is, for messages: "captioner".
        start: starts an actor of a `Worker` class, without waiting for it.
        wanted: returns the number of actors that the pool should have; it may change.
        wait: seconds without any actor after which the pool fails.
        needs: what an actor needs, for that failure: "1 GPU".
    """

    def __init__(self, name: str, start: Callable[[], Any], wanted: Callable[[], int], wait: float, needs: str) -> None:
        self._name, self._start, self._wanted, self._wait, self.needs = name, start, wanted, wait, needs
        self._queue: deque[_Item] = deque()
        self._arrived = asyncio.Event()
        self._items: set[_Item] = set()  # all that are not finished
        self._tasks: set[asyncio.Task] = set()
        self._failure: Exception | None = None
        self._failed_starts = self._reports = 0
        self._printed: dict[str, float] = {}  # message -> when it was printed last
        self.size, self.alive, self.busy_with = 0, 0, 1

    async def process(self, value: Any, *, first: bool = False) -> Any:
        """Return the result for a value.

        Args:
            first: process it before the values that wait.

        Raises:
            SennaError: an actor raised it, or there are no actors.
        """
        if self._failure is not None:
            raise self._failure
        item = _Item(value, asyncio.get_running_loop().create_future())
        self._items.add(item)
        (self._queue.appendleft if first else self._queue.append)(item)
        self._arrived.set()
        try:
            return await item.result
        finally:
            self._items.discard(item)

    async def manage(self) -> None:
        """Keep as many actors as wanted, until the task is cancelled."""
        last_alive = time.monotonic()
        try:
            while True:
                self.size = self._wanted()
                self._tasks = {task for task in self._tasks if not task.done()}
                for _ in range(self.size - len(self._tasks)):
                    self._tasks.add(asyncio.create_task(self._serve()))
                now = time.monotonic()
                last_alive = now if self.alive else last_alive
                if now - last_alive > self._wait:
                    self._fail(self._nobody())
                await asyncio.sleep(_MANAGE_SECONDS)
        except Exception as error:
            self._fail(error)
            raise
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self) -> None:
        """Start an actor and give it items until it dies."""
        actor, is_ready = self._start(), False
        try:
            chunk = await actor.ready.remote()
            is_ready, self._failed_starts, self.busy_with = True, 0, chunk
            self.alive += 1
            while True:
                await self._run(actor, await self._take(chunk))
        except RayTaskError as error:
            cause = error.cause
            self._fail(cause if isinstance(cause, SennaError) else error)
        except _LOST as error:
            self._failed_starts += not is_ready
            if self._failed_starts >= _MOST_DEATHS or getattr(error, "actor_init_failed", False):
                self._fail(self._cannot_start(error))
            else:
                self._report(error)
        except RayError as error:  # for example a node without this package
            self._fail(self._cannot_start(error))
        except Exception as error:
            self._fail(error)
        finally:
            self.alive -= is_ready
            if ray.is_initialized():  # otherwise Ray would start again
                ray.kill(actor)

    async def _take(self, chunk: int) -> list[_Item]:
        """Return the next items: at most ``chunk``, and no more than the actor's share of what waits."""
        while not self._queue:
            self._arrived.clear()
            await self._arrived.wait()
        count = min(chunk, math.ceil(len(self._queue) / max(self.alive, 1)))
        return [self._queue.popleft() for _ in range(count)]

    async def _run(self, actor: ActorHandle, items: list[_Item]) -> None:
        is_alive = False
        try:
            await (
                actor.ready.remote()
            )  # it may have died while it had nothing to do, for which the items are not to blame
            is_alive = True
            async for results in actor.run.options(num_returns="streaming").remote([item.value for item in items]):
                for index, result in await results:
                    if index == MESSAGE:
                        self._print(result)
                    elif not items[index].result.done():
                        items[index].result.set_result(result)
        except _LOST as error:
            unfinished = [item for item in items if not item.result.done()]
            for item in unfinished:
                item.deaths += is_alive
                if item.deaths >= _MOST_DEATHS:
                    self._fail(self._kills(item, error))
            self._queue.extendleft(reversed(unfinished))
            self._arrived.set()
            raise

    def _fail(self, error: Exception) -> None:
        """Let all items fail that are not finished, and those that will come."""
        self._failure = self._failure or error
        for item in self._items:
            if not item.result.done():
                item.result.set_exception(self._failure)

    def _report(self, error: Exception) -> None:
        self._reports += 1
        if self._reports <= _MOST_REPORTS:
            tqdm.write(f"a {self._name} was lost ({_short(error)}); its work goes to the others", file=sys.stderr)

    def _print(self, text: str) -> None:
        now = time.monotonic()
        if now - self._printed.get(text, -math.inf) >= _SAME_SECONDS:
            self._printed[text] = now
            tqdm.write(text, file=sys.stderr)

    def _nobody(self) -> SennaError:
        resources = ray.cluster_resources()
        has = ", ".join(f"{resources.get(name, 0):g} {name}" for name in ("CPU", "GPU"))
        return SennaError(
            f"no {self._name} could be started in {self._wait:g} s: each needs {self.needs}, and the cluster has {has}; what "
            "was finished is saved",
            remedy="add nodes, free what other jobs use, ask for less, or give a higher --ray-wait, and run the same command "
            "again",
        )

    def _cannot_start(self, error: Exception) -> SennaError:
        return SennaError(
            f"no {self._name} can be started: {_short(error)}; what was finished is saved",
            remedy="install the same version of this package and of its dependencies on every node, see Ray's logs there, "
            "and run the same command again",
        )

    def _kills(self, item: _Item, error: Exception) -> SennaError:
        about = getattr(item.value, "image", item.value)
        return SennaError(
            f"{_MOST_DEATHS} {self._name} processes died, one after the other, with {about} in progress "
            f"({_short(error)}); what was finished is saved",
            remedy="see Ray's logs; if memory ran out, give a smaller --captioner-batch, and run the same command again",
        )


def _short(error: Exception) -> str:
    """Return the first line of an error; of a failed constructor the last, which is that of the constructor's error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and getattr(error, "actor_init_failed", False):
        return lines[-1][:200]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
