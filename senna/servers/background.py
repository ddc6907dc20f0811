"""Coroutines in a thread of their own, whose results arrive in the caller's thread."""

import asyncio
import queue
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

Results = queue.SimpleQueue[tuple[int, Any] | None]


def run_in_thread(work: Callable[[Results], Coroutine[Any, Any, None]]) -> Iterator[list[tuple[int, Any]]]:
    """Run a coroutine in a thread of its own, which Ctrl-C does not wait for; yield its results as they arrive.

    Every list has all results that have arrived since the last one. The first failure is raised at the end. The coroutine
    is cancelled when the iterator is closed.
    """
    results = Results()
    loop = asyncio.new_event_loop()
    task = loop.create_task(work(results))

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

    threading.Thread(target=run, name="requests", daemon=True).start()
    try:
        yield from _collected(results)
    finally:
        cancel()


def _collected(results: Results) -> Iterator[list[tuple[int, Any]]]:
    """Yield the answers until the work has ended, which None shows, then raise the first failure, if any."""
    failure: Exception | None = None
    is_done = False
    while not is_done:
        arrived = [results.get()]
        while not results.empty():
            arrived.append(results.get())
        is_done, answers = arrived[-1] is None, []
        for index, answer in filter(None, arrived):
            if isinstance(answer, Exception):
                failure = failure or answer
            else:
                answers.append((index, answer))
        if answers:
            yield answers
    if failure is not None:
        raise failure
