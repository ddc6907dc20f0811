"""The openai captioner with several servers: shared load, failures of one or all, and their models."""

import gc
import os
import pickle
import threading
import time
from collections import Counter
from contextlib import ExitStack

import pytest

from senna.convert.captioners import make_captioner
from senna.convert.captioners.openai import OpenAICaptioner
from senna.errors import SennaError, UsageError
from senna.servers.address import RetryPolicy
from tests.convert import caption_server
from tests.convert.caption_server import QUICK, answers_to, serving

ask_for = caption_server.ask_for


@pytest.fixture
def start():
    """Return a function that starts a server, which ends with the test."""
    with ExitStack() as stack:
        yield lambda behave=lambda question, attempt: None, port=0: stack.enter_context(serving(behave, port))


def captioner_of(*servers, model: str | None = "tiny", concurrency=2, retry=QUICK):
    return OpenAICaptioner(",".join(server.address for server in servers), model, concurrency, retry=retry)


def waits(seconds):
    """Return the behavior of a server that answers after some time."""
    return lambda question, attempt: time.sleep(seconds)


def fails(*fault):
    return lambda question, attempt: fault


def answered(*servers):
    return sum((server.answered for server in servers), Counter())


def test_load_is_shared_and_each_server_has_its_own_slots(ask_for, start):
    servers = start(fails("slow", 0.05)), start(fails("slow", 0.05))
    captioner = captioner_of(*servers, concurrency=3)
    assert captioner.answer(ask_for(24)) == ["slow but sure"] * 24
    assert [server.busiest for server in servers] == [3, 3]
    assert all(6 <= sum(server.tries.values()) <= 18 for server in servers)
    assert captioner.window == 2 * 8 * 3


def test_few_requests_are_spread(ask_for, start):
    servers = start(), start()
    captioner_of(*servers, concurrency=16).answer(ask_for(4))
    assert [sum(server.tries.values()) for server in servers] == [2, 2]


def test_a_fast_server_gets_more_requests(ask_for, start):
    fast, slow, requests = start(waits(0.01)), start(waits(0.3)), ask_for(40)
    assert captioner_of(slow, fast).answer(requests) == answers_to(requests)
    assert sum(fast.answered.values()) > 2 * sum(slow.answered.values()) > 0


def test_a_killed_server_is_replaced_at_once_and_used_again_when_it_is_back(ask_for, start, caplog):
    requests, both = ask_for(48), []

    def behave(question, attempt):
        time.sleep(0.02)
        if len(both) == 2 and len(both[0].answered) == 6 and not both[0].is_killed:
            both[0].kill()

    both += [start(behave), start(waits(0.02))]
    first, second = both
    captioner = captioner_of(first, second, retry=RetryPolicy(5.0, 8, 0.05, 0.1))
    assert captioner.answer(requests) == answers_to(requests)
    assert first.is_killed
    assert answered(first, second) == {request.question: 1 for request in requests}
    assert captioner.alive == "1 of 2 servers"
    (warning,) = caplog.messages
    assert f"--server {first.address}/v1: " in warning
    assert "its requests go to the other servers" in warning
    again = start(waits(0.02), first.server_address[1])
    time.sleep(0.15)  # the pause before the next probe
    assert captioner.answer(requests) == answers_to(requests)
    assert captioner.alive == "2 of 2 servers"
    assert sum(again.answered.values()) > 3
    assert caplog.messages[1:] == [f"--server {first.address}/v1 is back"]


def test_a_server_comes_back_while_requests_wait(ask_for, start, caplog):
    """Kill both servers and start one again; the requests in the queue wait for it."""
    requests = ask_for(6)
    servers = start(), start()
    for server in servers:
        server.kill()
    captioner = captioner_of(*servers, retry=RetryPolicy(5.0, 200, 0.05, 0.1))

    def start_one_again():
        while captioner.alive != "0 of 2 servers":
            time.sleep(0.01)
        start(port=servers[1].server_address[1])

    thread = threading.Thread(target=start_one_again)
    thread.start()
    assert captioner.answer(requests) == answers_to(requests)
    thread.join()
    assert captioner.alive == "1 of 2 servers"
    first, second, third = caplog.messages
    assert first.endswith("its requests go to the other servers")
    assert second.endswith("no other server is left; trying again")
    assert third.endswith("is back")


def test_without_any_server_the_run_fails_after_the_time_of_the_policy(ask_for, start):
    servers = start(), start()
    for server in servers:
        server.kill()
    captioner = captioner_of(*servers, retry=RetryPolicy(1, 4, 0.1, 0.2))
    for _ in range(2):  # a second attempt has the same time
        begin = time.monotonic()
        with pytest.raises(SennaError, match="run the same command again") as error:
            captioner.answer(ask_for(3))
        assert 0.75 * (0.1 + 0.2 + 0.2) <= time.monotonic() - begin < 10
        for server in servers:
            assert f"{server.address}/v1: no answer after " in str(error.value)
        assert "4 attempts (Connection refused)" in str(error.value)
    with pytest.raises(SennaError, match=f"{servers[0].address}.*{servers[1].address}"):
        _ = captioner_of(*servers, model=None, retry=RetryPolicy(1, 3, 0.01, 0.01)).name


@pytest.mark.parametrize(
    "fault",
    [("status", 500), ("status", 503), ("status", 429), ("reset",), ("hang_up",), ("garbage",), ("cut_off",), ("stall",),
     ("message", {"content": "question"}, "abort")],
)  # fmt: skip
def test_every_temporary_failure_moves_the_request_to_another_server(ask_for, start, fault):
    requests = ask_for(8)
    bad, good = start(fails(*fault)), start()
    captioner = captioner_of(bad, good, retry=RetryPolicy(1.5, 8, 10.0, 10.0))
    assert captioner.answer(requests) == answers_to(requests)
    assert good.answered == {request.question: 1 for request in requests}
    assert sum(bad.tries.values()) <= 2  # one for each slot, then it is set aside
    assert captioner.alive == "1 of 2 servers"


def test_state_survives_the_end_of_a_stream(ask_for, start):
    bad, good = start(fails("status", 503)), start()
    captioner = captioner_of(bad, good, retry=RetryPolicy(5.0, 8, 60.0, 60.0))
    for _ in range(3):
        captioner.answer(ask_for(8))
    assert sum(bad.tries.values()) <= 2
    assert bad.probes == 0


def test_pauses_of_a_server_that_only_lists_its_models_grow(ask_for, start, caplog):
    bad, good = start(fails("status", 500)), start(waits(0.02))
    captioner = captioner_of(bad, good, concurrency=1, retry=RetryPolicy(5.0, 4, 0.05, 10.0))
    captioner.answer(ask_for(40))  # 0.8 s, with pauses of 0.05, 0.1, 0.2, 0.4 ... seconds
    assert 3 <= sum(bad.tries.values()) <= 8
    assert bad.probes <= sum(bad.tries.values())


def test_servers_that_only_list_their_models_end_the_run(ask_for, start):
    servers = start(fails("status", 500)), start(fails("status", 500))
    with pytest.raises(
        SennaError, match=r"no answer after \d+ attempts \(500 Internal Server Error: no\)|0\.png after"
    ):
        captioner_of(*servers).answer(ask_for(4))
    assert all(sum(server.tries.values()) <= 2 * QUICK.attempts + 2 for server in servers)


def test_a_request_that_fails_everywhere_ends_the_run_and_is_named(ask_for, start):
    def behave(question, attempt):
        time.sleep(0.01)
        return ("status", 500, "out of memory") if question == "question 3" else None

    servers = start(behave), start(behave)
    with pytest.raises(SennaError, match=r"no answer about .*3\.png after 8 attempts \(500 .*out of memory\)"):
        captioner_of(*servers, retry=RetryPolicy(5.0, 4, 0.01, 0.02)).answer(ask_for(200))
    assert sum(server.tries["question 3"] for server in servers) == 8


def test_a_late_failure_does_not_set_a_server_aside_again(ask_for, start):
    """A request that hangs in a server since before its restart says nothing about the new one."""
    started = threading.Event()

    def behave(question, attempt):
        if question == "question 0" and attempt == 1:
            started.set()
            time.sleep(0.6)
            return ("reset",)
        if question == "question 2" and attempt == 1:
            started.wait(5)
            return ("status", 503)
        return time.sleep(0.02)

    flaky, good, requests = start(behave), start(waits(0.02)), ask_for(60)
    captioner = captioner_of(flaky, good, retry=RetryPolicy(5.0, 8, 0.05, 30.0))
    assert captioner.answer(requests) == answers_to(requests)
    assert flaky.tries["question 0"] >= 1
    assert captioner.alive == "2 of 2 servers"
    assert flaky.probes == 1


def test_retry_after_counts_for_the_server_that_sent_it(ask_for, start):
    def behave(question, attempt):
        return ("status", 429, "busy", [("Retry-After", "0.4")]) if sum(busy.tries.values()) == 1 else time.sleep(0.02)

    busy, other, requests = start(behave), start(waits(0.02)), ask_for(48)
    assert captioner_of(busy, other, concurrency=1).answer(requests) == answers_to(requests)
    first, second, *_ = sorted(moment for moments in busy.times.values() for moment in moments)
    assert second - first >= 0.4
    others = sorted(moment for moments in other.times.values() for moment in moments)
    assert sum(first < moment < second for moment in others) > 1


def test_a_long_retry_after_does_not_keep_the_run_waiting_if_no_other_server_is_left(ask_for, start):
    servers = [start(fails("status", 503, "closed", [("Retry-After", "3600")])) for _ in range(2)]
    with pytest.raises(SennaError, match="503 Service Unavailable: closed"):
        captioner_of(*servers).answer(ask_for(4))


@pytest.mark.parametrize(("status", "hint"), [(401, "OPENAI_API_KEY"), (404, "has a model of the given name")])
def test_a_permanent_failure_of_one_server_ends_the_run(ask_for, start, status, hint):
    wrong, good = start(fails("status", status, "not here")), start(waits(0.05))
    with pytest.raises(SennaError, match=rf"--server {wrong.address}/v1: {status} .*not here.*{hint}") as error:
        captioner_of(wrong, good).answer(ask_for(20))
    assert good.address not in str(error.value)


def test_a_refusal_by_one_server_is_final(ask_for, start, caplog):
    def behave(question, attempt):
        return ("status", 400, "too large") if question == "question 1" else None

    servers = start(behave), start(behave)
    requests = ask_for(6)
    answers = captioner_of(*servers).answer(requests)
    assert answers == [*answers_to(requests)[:1], "", *answers_to(requests)[2:]]
    assert answers[1].is_refused
    assert sum(server.tries["question 1"] for server in servers) == 1
    assert len(caplog.messages) == 1


def test_parameters_are_learnt_for_each_server(ask_for, start):
    strict, other, requests = start(waits(0.02)), start(waits(0.02)), ask_for(12)
    strict.refusals = {"max_tokens": {"error": {"message": "use max_completion_tokens"}}}
    assert captioner_of(strict, other).answer(requests) == answers_to(requests)
    assert "max_completion_tokens" in strict.bodies[-1]
    assert all("max_tokens" in body for body in other.bodies)


def test_the_only_model_of_all_servers_is_found(ask_for, start):
    servers = start(), start(), start()
    captioner = make_captioner("openai", server=" , ".join(server.address for server in servers))
    assert captioner.name == "openai:tiny"
    captioner.answer(ask_for(6))
    assert {body["model"] for server in servers for body in server.bodies} == {"tiny"}
    assert [server.probes for server in servers] == [1, 1, 1]


@pytest.mark.parametrize("models", [["other"], ["tiny", "other"], []])
def test_servers_with_different_models_are_refused(start, models):
    servers = start(), start()
    servers[1].models = models
    with pytest.raises(
        UsageError, match=f"{servers[0].address}/v1 has the model tiny; .*{servers[1].address}"
    ) as error:
        _ = captioner_of(*servers, model=None).name
    assert all(name in str(error.value) for name in models)
    assert "--captioner-model" in error.value.remedy
    assert captioner_of(*servers).name == "openai:tiny"


def test_a_server_that_is_down_at_the_start_is_checked_when_it_is_back(ask_for, start, caplog):
    late, good = start(), start(waits(0.02))
    late.kill()
    captioner = captioner_of(late, good, model=None, retry=RetryPolicy(5.0, 8, 0.02, 0.05))
    assert captioner.name == "openai:tiny"
    assert caplog.messages == [f"--server {late.address}/v1: Connection refused; its requests go to the other servers"]
    captioner.answer(ask_for(4))
    assert captioner.alive == "1 of 2 servers"
    again = start(waits(0.02), late.server_address[1])
    captioner.answer(ask_for(30))
    assert captioner.alive == "2 of 2 servers"
    assert again.answered
    again.kill()
    captioner.answer(ask_for(10))
    start(port=late.server_address[1]).models = ["another"]
    time.sleep(0.1)
    with pytest.raises(SennaError, match=f"{late.address}/v1 has the model another, but the other servers have tiny"):
        captioner.answer(ask_for(30))


@pytest.mark.parametrize(("status", "models"), [(401, []), (404, []), (400, []), (500, []), (200, []), (200, None)])
def test_a_given_model_needs_no_list_of_models(ask_for, start, status, models):
    flaky = start(lambda question, attempt: ("status", 503) if not flaky.probes else None)
    flaky.models_status, flaky.models = status, models
    good, requests = start(waits(0.05)), ask_for(24)
    captioner = captioner_of(flaky, good)
    assert captioner.answer(requests) == answers_to(requests)
    assert captioner.alive == "2 of 2 servers"
    assert flaky.answered


@pytest.mark.parametrize("status", [429, 502, 503])
def test_a_server_that_is_not_ready_yet_is_not_used(ask_for, start, status):
    loading, good = start(fails("status", 503)), start(waits(0.02))
    loading.models_status = status
    captioner_of(loading, good).answer(ask_for(24))
    assert sum(loading.tries.values()) <= 2
    assert loading.probes > 1


def test_messages_about_servers_have_no_secrets(ask_for, start, caplog, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sesame")
    servers = start(fails("status", 500, "sesame and hidden")), start(fails("status", 500, "sesame and hidden"))
    addresses = ",".join(server.address.replace("//", "//jo:hidden@") for server in servers)
    captioner = OpenAICaptioner(addresses, "tiny", 1, retry=RetryPolicy(1.5, 2, 0.01, 0.01))
    with pytest.raises(SennaError, match=r"\*\*\* and \*\*\*") as error:
        captioner.answer(ask_for(2))
    shown = str(error.value) + caplog.text + str(captioner._pool)
    assert "hidden" not in shown
    assert "sesame" not in shown


def test_a_captioner_can_be_made_in_another_process(ask_for, start):
    servers = start(), start()
    files, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    captioner = pickle.loads(pickle.dumps(captioner_of(*servers, model=None)))
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == (files, threads)
    assert not any(server.probes for server in servers)
    requests = ask_for(6)
    assert captioner.answer(requests) == answers_to(requests)
    assert (captioner.alive, captioner.window) == ("2 of 2 servers", 32)


def test_name_and_settings_do_not_depend_on_the_addresses(start):
    one, other = captioner_of(start()), captioner_of(start(), start())
    assert (one.name, one.settings) == (other.name, other.settings)
    assert one.alive == "1 server"


def test_a_stream_that_is_closed_leaves_no_thread(ask_for, start):
    answers = captioner_of(start(waits(0.05)), start(waits(0.05))).stream(ask_for(20))
    next(answers)
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "requests"]
    answers.close()
    thread.join(5)
    assert not thread.is_alive()


def test_probes_end_with_the_stream(ask_for, start, caplog):
    """A probe that fails in the moment in which it is cancelled must not go on (Python 3.11 swallows the cancellation)."""
    gone, good, requests = start(), start(), ask_for(2)
    gone.kill()
    captioner = captioner_of(gone, good, retry=RetryPolicy(5.0, 8, 0.0, 0.0))

    def ask_often():
        for _ in range(40):
            captioner.answer(requests)

    thread = threading.Thread(target=ask_often, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    gc.collect()
    assert {record.name for record in caplog.records} == {"senna.servers.pool"}  # asyncio has no complaint
