"""Several servers of one model: each request goes to a free one, and a server that fails is set aside until it is back."""

import asyncio
import logging
import math
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from senna.errors import SennaError, UsageError
from senna.servers.address import LONGEST_WANTED_PAUSE
from senna.servers.background import Results, run_in_thread
from senna.servers.connection import Connection
from senna.servers.replies import NoReply

if TYPE_CHECKING:
    from openai import AsyncOpenAI

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Answer = TypeVar("Answer")

_ABSENT = (None, 408, 425, 429, 502, 503, 504)  # what a probe gets while a server is down, busy or loads its model
_PROBE_SECONDS = 30.0  # time limit of a probe; a request may take longer
_REPORT_SECONDS = 60.0  # between two warnings about a server that fails and is back at once


@dataclass(eq=False)
class _Member:
    """A server of a pool with its state, which outlives the streams of requests.

    Attributes:
        probe_at: when a server that is set aside is asked whether it is back, by the monotonic clock; None while it is used.
        failures: failed attempts since its last answer, probes included.
        reason: the last failure.
        times_aside: how often it was set aside, so that a late failure of an earlier request does not count.
        models: the names of its models, from the last probe.
        reported: when the last warning about it was logged.
        is_reported: whether the user knows that it is set aside.
    """

    connection: Connection
    probe_at: float | None
    failures: int = 0
    reason: str = ""
    times_aside: int = 0
    models: list[str] = field(default_factory=list)
    reported: float = -math.inf
    is_reported: bool = False

    @property
    def is_used(self) -> bool:
        """True while it gets requests."""
        return self.probe_at is None

    @property
    def is_given_up(self) -> bool:
        """True after all attempts of the retry policy have failed. It is probed nevertheless while another server is used."""
        return not self.is_used and self.failures >= self.connection.retry.attempts

    def fail(self, reason: str, wanted_pause: float | None = None) -> None:
        """Set the server aside after a failed request, or for longer after a failed probe."""
        retry = self.connection.retry
        self.failures, self.reason = self.failures + 1, reason
        pause = retry.pause(self.failures)
        if wanted_pause is not None and 0 < wanted_pause < math.inf:
            pause = wanted_pause
            if pause > LONGEST_WANTED_PAUSE:
                self.failures = max(self.failures, retry.attempts)
        self.probe_at = time.monotonic() + pause

    def report_failure(self, is_last: bool) -> None:
        """Log that the server is set aside. One that is often back at once is reported once in a minute."""
        now = time.monotonic()
        if self.is_reported or (self.failures == 1 and now - self.reported < _REPORT_SECONDS):
            return
        self.is_reported, self.reported = True, now
        rest = "no other server is left; trying again" if is_last else "its requests go to the other servers"
        logger.warning("--server %s: %s; %s", self.connection.server, self.reason, rest)

    def use(self) -> None:
        """Give the server requests again. A failure counts on until it answers one."""
        self.probe_at = None
        if self.is_reported:
            logger.warning("--server %s is back", self.connection.server)
            self.is_reported = False


class Pool:
    """Requests to one or several servers of the same model.

    One server is asked as `Connection` does it: each request is retried by itself. Of several, any with a free slot takes the
    next request. After a temporary failure the request goes to another server, and the one that failed is set aside until a
    probe (``GET /models``) succeeds.

    Args:
        connections: one for each server.
        model: the name of the model; None asks the servers for it.
    """

    def __init__(self, connections: Sequence[Connection], model: str | None = None) -> None:
        # Without a name, a server is used after its first probe, which tells its model.
        self.members = [_Member(connection, 0.0 if model is None else None) for connection in connections]
        self._is_named, self._model = model is not None, model

    def __str__(self) -> str:
        """Return the addresses without user names and passwords."""
        return ", ".join(str(member.connection.server) for member in self.members)

    @property
    def alive(self) -> str:
        """The number of servers in use, for example "2 of 3 servers"."""
        if len(self.members) == 1:
            return "1 server"
        return f"{sum(member.is_used for member in self.members)} of {len(self.members)} servers"

    @property
    def model(self) -> str:
        """The name of the model. Servers that do not answer yet are checked later, if another one answers.

        Raises:
            UsageError: a server has several models, or two have different ones.
            SennaError: no server answers.
        """
        if self._model is None:
            self._model = self._ask_for_model()
        return self._model

    def stream(
        self,
        items: Sequence[Item],
        ask: Callable[[Connection, "AsyncOpenAI", Item], Awaitable[Answer]],
        check: Callable[[Answer], None] = lambda answer: None,
    ) -> Iterator[list[tuple[int, Answer]]]:
        """Yield the pairs (index of the item, answer) that have arrived, like `Connection.stream`.

        Args:
            ask: (connection, client, item) -> the answer.
            check: is called with every answer; what it raises is a failure.
        """
        if len(self.members) == 1:
            connection = self.members[0].connection
            return connection.stream(items, lambda client, item: ask(connection, client, item), check)
        return run_in_thread(lambda results: _Run(self, results, items, ask, check).answer_all())

    async def list_models(self, member: _Member, client: "AsyncOpenAI") -> list[str]:
        """Return the names of a server's models.

        Raises:
            SennaError: the server does not reply, or is back without the model. Where the name of the model is given, a server
                that cannot list its models is no failure: `transformers serve` has status 500 then.
        """
        connection = member.connection
        try:
            names = _names(await connection.list_models(client))
        except SennaError as error:
            if self._is_named and not (isinstance(error, NoReply) and error.status in _ABSENT):
                return []
            raise
        if not self._is_named and self._model is not None and self._model not in names:
            raise SennaError(
                f"--server {connection.server} has {_listed(names)}, but the other servers have {self._model}",
                remedy=f"start it with {self._model}, or leave it out, and run the same command again",
            )
        return names

    def _ask_for_model(self) -> str:
        if len(self.members) == 1:
            (member,) = self.members
            member.models = _names(member.connection.models())
            member.use()
        else:
            list(run_in_thread(lambda results: _Run(self, results).wait()))
        used = [member for member in self.members if member.is_used]
        names = used[0].models
        if len(names) == 1 and all(member.models == names for member in used):
            return names[0]
        if len(self.members) == 1:
            raise UsageError(
                f"--server {self} serves {len(names)} models", remedy=f"give --captioner-model ({', '.join(names)})"
            )
        found = "; ".join(f"--server {member.connection.server} has {_listed(member.models)}" for member in used)
        raise UsageError(
            f"the servers do not have one and the same model: {found}",
            remedy="give --captioner-model, the name of a model that all of them have",
        )


class _Run:
    """The requests of one stream to several servers, in one event loop."""

    def __init__(
        self, pool: Pool, results: Results, items: Sequence[Any] = (), ask: Any = None, check: Any = None
    ) -> None:
        self._pool, self._members, self._results = pool, pool.members, results
        self._items, self._ask, self._check = items, ask, check
        self._pending, self._attempts = deque(range(len(items))), Counter[int]()  # indices of items
        self._clients: dict[_Member, AsyncOpenAI] = {}
        self._tasks: set[asyncio.Task] = set()
        self._running, self._probed = Counter[_Member](), set[_Member]()
        self._changed, self._is_stopped = asyncio.Event(), False

    async def answer_all(self) -> None:
        """Ask the servers until each item has an answer. After a failure, the requests in progress are completed."""
        await self._work(lambda: not self._running.total() and (self._is_stopped or not self._pending))

    async def wait(self) -> None:
        """Probe the servers until at least one is used and each has been tried."""

        def is_done() -> bool:
            is_tried = all(member.is_used or member.failures for member in self._members)
            return self._is_stopped or (is_tried and any(member.is_used for member in self._members))

        await self._work(is_done)

    async def _work(self, is_done: Callable[[], bool]) -> None:
        async with AsyncExitStack() as stack:
            for member in self._members:
                self._clients[member] = await stack.enter_async_context(member.connection.make_client())
            try:
                while not is_done():
                    self._changed.clear()
                    self._start_probes()
                    self._start_requests()
                    await self._changed.wait()
            finally:
                self._is_stopped = True  # asyncio.wait_for may swallow the cancellation of a task
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start_requests(self) -> None:
        """Give the next items to the servers with free slots, first to the one with the fewest requests."""
        while self._pending and not self._is_stopped:
            free = [
                member
                for member in self._members
                if member.is_used and self._running[member] < member.connection.concurrency
            ]
            if not free:
                return
            member = min(free, key=self._running.__getitem__)
            self._running[member] += 1
            self._start(self._request(member, self._pending.popleft()))

    def _start_probes(self) -> None:
        for member in self._members:
            if not member.is_used and member not in self._probed and not self._is_stopped:
                self._probed.add(member)
                self._start(self._probe(member))

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _request(self, member: _Member, index: int) -> None:
        times_aside = member.times_aside
        try:
            answer = await self._ask(member.connection, self._clients[member], self._items[index])
            self._results.put((index, answer))
            member.failures = 0
            self._check(answer)
        except NoReply as error:
            self._retry(member, index, error)
            if member.times_aside == times_aside:
                member.times_aside += 1
                self._set_aside(member, error.reason, error.wanted_pause)
        except Exception as error:
            self._fail(error, index)
        finally:
            self._running[member] -= 1
            self._changed.set()

    def _retry(self, member: _Member, index: int, error: NoReply) -> None:
        """Let the next free server take an item again, unless it has failed as often as all servers may fail."""
        self._attempts[index] += 1
        if self._attempts[index] < member.connection.retry.attempts * len(self._members):
            self._pending.appendleft(index)
        else:
            self._fail(NoReply(member.connection.server, self._attempts[index], error.reason, error.about), index)

    async def _probe(self, member: _Member) -> None:
        """Ask a server that is set aside for its models, until it replies."""
        try:
            async with member.connection.make_client(_PROBE_SECONDS) as client:
                while member.probe_at is not None and not self._is_stopped:
                    await asyncio.sleep(member.probe_at - time.monotonic())
                    try:
                        member.models = await self._pool.list_models(member, client)
                        member.use()
                    except NoReply as error:
                        self._set_aside(member, error.reason, error.wanted_pause)
                    self._changed.set()
        except Exception as error:
            self._fail(error)
        finally:
            self._probed.discard(member)
            self._changed.set()

    def _set_aside(self, member: _Member, reason: str, wanted_pause: float | None = None) -> None:
        member.fail(reason, wanted_pause)
        member.report_failure(not any(other.is_used or not other.failures for other in self._members))
        if all(member.is_given_up for member in self._members):
            self._fail(_no_server(self._members))
            for member in self._members:
                member.failures = 1  # a later stream has the time of the policy again

    def _fail(self, error: Exception, index: int = -1) -> None:
        if not self._is_stopped:
            self._is_stopped = True
            self._results.put((index, error))


def _names(entries: Sequence[dict[str, Any]]) -> list[str]:
    return [str(entry["id"]) for entry in entries]


def _listed(models: Sequence[str]) -> str:
    return f"the models {', '.join(models)}" if len(models) > 1 else f"the model {models[0]}" if models else "no model"


def _no_server(members: Sequence[_Member]) -> SennaError:
    """Return the error for a run whose servers have all been set aside for the time of the retry policy."""
    servers = [member.connection.server for member in members]
    reasons = "; ".join(
        f"--server {server}{server.through}: no answer after {member.failures} attempts ({member.reason})"
        for server, member in zip(servers, members, strict=True)
    )
    hosts = sorted({server.host for server in servers if server.proxy})
    around_proxy = f", or add {','.join(hosts)} to no_proxy to connect without it" if hosts else ""
    return SennaError(
        f"{reasons}; the answers so far are saved",
        remedy=f"check that the servers are running and run the same command again{around_proxy}",
    )
