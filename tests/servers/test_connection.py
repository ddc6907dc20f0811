"""Requests that are no longer wanted. Retries, limits and refusals are tested with the captioner and the evaluation."""

import asyncio
import gc
import threading

from senna.servers.address import parse_server
from senna.servers.connection import Connection


def test_closing_a_stream_ends_the_requests_in_progress(caplog):
    ended = []

    async def ask(client, item):
        if item == "quick":
            return "answer"
        try:
            return await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)  # as a client that closes its connection
            ended.append(item)

    connection = Connection(parse_server("127.0.0.1:1"), 2, 16, None, "--limit", "--server")
    answers = connection.stream(["slow", "quick"], ask)
    assert next(answers) == [(1, "answer")]
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "requests"]
    answers.close()
    thread.join(10)
    assert not thread.is_alive()
    gc.collect()
    assert ended == ["slow"]
    assert not caplog.records  # "Task was destroyed but it is pending!"
