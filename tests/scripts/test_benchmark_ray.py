"""scripts/benchmark.py ray with small sizes."""

import json

import pytest

from tests.scripts.test_benchmark import benchmark, world  # noqa: F401

pytest.importorskip("ray", reason="needs the extra: pip install -c constraints.txt -e '.[ray]'")
pytestmark = pytest.mark.slow


def test_ray_gives_the_files_of_one_process_and_the_rate_of_a_slow_server(world):  # noqa: F811
    flags = "--workers 2 --copies 2 --captioners 1 --seconds 3 --repeats 1 --json".split()
    figures = json.loads(benchmark("ray", "--nuscenes", world, *flags).splitlines()[-1])
    facts, captions = figures["facts"], figures["captions"]["1"]
    assert facts["frames"] == 16  # the scene twice
    for method in ("one process", "--ray --workers 2"):
        assert facts[method]["per_second"] == pytest.approx(16 / facts[method]["seconds"])
    assert 0 < captions["per_second_end_to_end"] < captions["per_second"] <= 1 / 0.2
