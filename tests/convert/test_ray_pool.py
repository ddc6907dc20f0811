"""The pool of Ray actors: every item is finished once, whatever dies, and where that is impossible an error says why."""

import asyncio
import os
import signal
import sys
import time
import types
from collections import Counter
from contextlib import asynccontextmanager

import pytest

from senna.errors import DataError, SennaError
from tests.convert.ray_cluster import ray_cluster

ray = pytest.importorskip("ray", reason="needs the extra: pip install -c constraints.txt -e '.[ray]'")
pytestmark = pytest.mark.slow

from senna.convert.ray_pool import Pool  # noqa: E402

LIMIT = 60.0  # seconds after which a test fails


class Writer:
    """Doubles numbers and writes a line for each to a file. Subclasses do something at certain numbers."""

    def __init__(self, log, chunk=1):
        self.log, self.chunk = log, chunk

    def ready(self):
        return self.chunk

    def run(self, values):
        for index, value in enumerate(values):
            with self.log.open("a") as file:
                file.write(f"{os.getpid()} {value}\n")
            self.at(value)
            yield [(index, 2 * value)]

    def at(self, value):
        """Work on a value."""
        time.sleep(0.01)


class DiesOnce(Writer):
    """Dies at number 5, unless another actor has done so."""

    def at(self, value):
        time.sleep(0.01)
        if value == 5:
            try:
                self.log.with_name("died").touch(exist_ok=False)
            except FileExistsError:
                return
            os.kill(os.getpid(), signal.SIGKILL)


class DiesAlways(Writer):
    def at(self, value):
        if value == 5:
            os.kill(os.getpid(), signal.SIGKILL)


class Refuses(Writer):
    def at(self, value):
        if value == 5:
            raise DataError("five is too much", remedy="give four", file="numbers.json", record="5")


class Fails(Writer):
    def at(self, value):
        if value == 5:
            raise ZeroDivisionError("five")


class HangsOnNode(Writer):
    """Does not come back from its next number once the file "node" has the name of its node."""

    def at(self, value):
        time.sleep(0.1)
        node = self.log.with_name("node")
        if node.exists() and node.read_text() == ray.get_runtime_context().get_node_id():
            self.log.with_name("hangs").write_text(str(value))
            time.sleep(2 * LIMIT)


class CannotStart(Writer):
    def __init__(self, log):
        raise ImportError("no module named flash_attn")


@pytest.fixture(scope="module")
def cluster():
    with ray_cluster(num_cpus=2, resources={"slot": 1}) as cluster:
        ray.init(cluster.address, _node_ip_address="127.0.0.1", log_to_driver=False, logging_level="ERROR")
        yield cluster
        ray.shutdown()


@asynccontextmanager
async def pool_of(worker, *arguments, count=2, wait=LIMIT, **needs):
    start = ray.remote(worker).options(max_restarts=0, max_task_retries=0, **({"num_cpus": 0} | needs)).remote
    wanted = count if callable(count) else lambda: count
    pool = Pool("worker", lambda: start(*arguments), wanted, wait, "1 slot")
    manager = asyncio.create_task(pool.manage())
    try:
        yield pool
    finally:
        manager.cancel()
        await asyncio.gather(manager, return_exceptions=True)


def process(values, worker, *arguments, **options):
    """Return the results for values from a pool of two actors."""

    async def work():
        async with pool_of(worker, *arguments, **options) as pool:
            return await asyncio.gather(*(pool.process(value) for value in values))

    return asyncio.run(asyncio.wait_for(work(), LIMIT))


def lines(log):
    return [tuple(map(int, line.split())) for line in log.read_text().splitlines()]


@pytest.mark.parametrize("chunk", [1, 4])
def test_results_are_in_order_and_every_item_is_processed_once_by_one_of_the_actors(cluster, tmp_path, chunk):
    log = tmp_path / "log"
    assert process(range(60), Writer, log, chunk) == [2 * value for value in range(60)]
    assert sorted(value for _, value in lines(log)) == list(range(60))
    assert len({pid for pid, _ in lines(log)}) == 2


def test_items_of_an_actor_that_dies_go_to_the_others_and_finished_ones_are_not_repeated(cluster, tmp_path, capfd):
    log = tmp_path / "log"
    assert process(range(40), DiesOnce, log, 8) == [2 * value for value in range(40)]
    counts = Counter(value for _, value in lines(log))
    assert (tmp_path / "died").exists()
    assert counts == Counter(range(40)) + Counter([5])
    assert capfd.readouterr().err.count("a worker was lost") == 1


def test_an_item_that_kills_every_actor_ends_the_run_with_its_name(cluster, tmp_path):
    log = tmp_path / "log"
    with pytest.raises(SennaError, match="5 worker processes died, one after the other, with 5 in progress"):
        process(range(8), DiesAlways, log)
    counts = Counter(value for _, value in lines(log))
    assert counts[5] == 5


def test_an_error_of_an_actor_arrives_with_its_message_and_remedy(cluster, tmp_path):
    with pytest.raises(DataError) as caught:
        process(range(8), Refuses, tmp_path / "log")
    error = caught.value
    assert (error.message, error.remedy, error.file, error.record) == (
        "five is too much",
        "give four",
        "numbers.json",
        "5",
    )


def test_a_fault_of_an_actor_is_not_retried(cluster, tmp_path):
    with pytest.raises(ZeroDivisionError, match="five"):
        process(range(8), Fails, tmp_path / "log")
    assert [value for _, value in lines(tmp_path / "log")].count(5) == 1


def test_actors_whose_constructor_fails_are_reported(cluster, tmp_path):
    with pytest.raises(SennaError, match=r"no worker can be started: .*no module named flash_attn") as caught:
        process(range(3), CannotStart, tmp_path / "log")
    assert "on every node" in caught.value.remedy


def test_a_class_that_the_nodes_cannot_import_is_reported(cluster, tmp_path, monkeypatch):
    module = types.ModuleType("only_on_the_driver")
    worker = type("Elsewhere", (Writer,), {"__module__": module.__name__})
    module.Elsewhere = worker
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with pytest.raises(SennaError, match=r"no worker can be started: .*only_on_the_driver") as caught:
        process(range(3), worker, tmp_path / "log")
    assert "install the same version of this package" in caught.value.remedy


def test_without_resources_for_an_actor_the_pool_fails_after_the_wait(cluster, tmp_path):
    start = time.monotonic()
    with pytest.raises(SennaError, match="no worker could be started in 2 s: each needs 1 slot, and the cluster has"):
        process(range(3), Writer, tmp_path / "log", wait=2.0, resources={"missing": 1})
    assert 2 <= time.monotonic() - start < 8


def test_actors_that_died_while_they_had_nothing_to_do_cost_no_item(cluster, tmp_path):
    log = tmp_path / "log"

    async def work():
        async with pool_of(Writer, log, count=6) as pool:
            await until(lambda: pool.alive == 6)
            pids = cluster.actors(cluster.nodes[0], "Writer")
            assert len(pids) == 6
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            return await pool.process(100)

    assert asyncio.run(asyncio.wait_for(work(), LIMIT)) == 200


def test_after_a_nodes_death_the_others_go_on_and_a_node_that_joins_is_used(cluster, tmp_path):
    log = tmp_path / "log"
    node = cluster.add(num_cpus=0, resources={"slot": 1})

    def slots():
        return int(ray.cluster_resources().get("slot", 0))

    async def work():
        async with pool_of(HangsOnNode, log, count=slots, num_cpus=0, resources={"slot": 1}) as pool:
            first = [asyncio.create_task(pool.process(value)) for value in range(30)]
            await until(lambda: pool.alive == 2 and len(cluster.actors(node, "HangsOnNode")) == 1)
            await first[8]
            (tmp_path / "node").write_text(node.node_id)
            await until(lambda: (tmp_path / "hangs").exists() and (tmp_path / "hangs").read_text())
            cluster.remove(node)
            results = await asyncio.gather(*first)
            alone = pool.alive
            joined = cluster.add(num_cpus=0, resources={"slot": 1})
            await until(lambda: pool.alive == 2)
            results += await asyncio.gather(*(pool.process(value) for value in range(30, 38)))
            pids = cluster.actors(joined, "HangsOnNode")
            cluster.remove(joined)
            return results, alone, pids

    results, alone, pids = asyncio.run(asyncio.wait_for(work(), LIMIT))
    assert results == [2 * value for value in range(38)]
    assert alone == 1
    assert len(pids) == 1
    assert pids[0] in {pid for pid, value in lines(log) if value >= 30}
    repeated = Counter(value for _, value in lines(log)) - Counter(range(38))
    assert repeated == Counter([int((tmp_path / "hangs").read_text())])  # what was in progress on the lost node


async def until(condition):
    while not condition():
        await asyncio.sleep(0.05)
