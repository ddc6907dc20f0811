"""A Ray cluster whose nodes are processes on 127.0.0.1, and the actors that run there."""

from collections.abc import Iterator
from contextlib import contextmanager

import psutil

_NODE = {"node_ip_address": "127.0.0.1", "object_store_memory": 150 << 20}
_DEATH = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 500, "health_check_failure_threshold": 3}


class RayCluster:
    """A head and any number of other nodes."""

    def __init__(self, **head) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(
            initialize_head=True, head_node_args={**_NODE, "_system_config": _DEATH, "include_dashboard": False, **head}
        )
        self.address = self._cluster.address

    def add(self, **resources):
        """Start a node and return it."""
        return self._cluster.add_node(**_NODE, **resources)

    def remove(self, node) -> None:
        """Kill a node with all its processes."""
        self._cluster.remove_node(node, allow_graceful=False)

    @property
    def nodes(self) -> list:
        """The nodes, the head first."""
        return sorted(self._cluster.list_all_nodes(), key=lambda node: node is not self._cluster.head_node)

    def actors(self, node, name: str) -> list[int]:
        """Return the process ids of a node's actors of a class."""
        return actors_below(node.all_processes["raylet"][0].process.pid, name)

    def shutdown(self) -> None:
        """End all nodes."""
        self._cluster.shutdown()


def actors_below(pid: int, name: str) -> list[int]:
    """Return the process ids of the Ray actors of a class that descend from a process."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        try:
            if " ".join(process.cmdline()).startswith(f"ray::{name}"):
                found.append(process.pid)
        except psutil.NoSuchProcess:
            continue
    return found


@contextmanager
def ray_cluster(**head) -> Iterator[RayCluster]:
    """Start a cluster, and end it with the block."""
    cluster = RayCluster(**head)
    try:
        yield cluster
    finally:
        cluster.shutdown()
