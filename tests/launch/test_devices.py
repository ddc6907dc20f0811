"""A single process sees a single GPU."""

import pytest

from senna.launch.command import prepare
from senna.launch.devices import optimizer_threads, visible_devices
from tests.helpers.paths import REPOSITORY

INPUTS = {"MODEL_PATH": "m", "DATA": "d.json"}


@pytest.mark.parametrize(("visible", "first"), [("0,1", "0"), ("3, 5", "3"), ("GPU-a,GPU-b", "GPU-a")])
@pytest.mark.parametrize("recipe", ["pretrain", "lora", "evaluate"])
def test_a_single_process_sees_only_the_first_visible_gpu(recipe, visible, first):
    environment = {**INPUTS, "NUM_GPUS": "1", "CUDA_VISIBLE_DEVICES": visible}
    assert prepare(recipe, [], environment).environment["CUDA_VISIBLE_DEVICES"] == first


def test_the_first_gpu_of_the_machine_is_chosen_if_none_was_selected(monkeypatch):
    monkeypatch.setattr("senna.launch.devices.count_gpus", lambda environment: 8)
    assert visible_devices({}, 1) == {"CUDA_VISIBLE_DEVICES": "0"}


@pytest.mark.parametrize(
    ("environment", "processes"),
    [
        ({"CUDA_VISIBLE_DEVICES": "2"}, 1),
        ({"CUDA_VISIBLE_DEVICES": ""}, 1),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, 2),
        ({"CUDA_VISIBLE_DEVICES": "0,1", "NNODES": "2"}, 1),
        ({"CUDA_VISIBLE_DEVICES": "0,1", "HOSTFILE": "hosts"}, 1),
    ],
)
def test_other_runs_keep_the_gpus_that_they_see(environment, processes):
    assert visible_devices(environment, processes) == {}


def test_training_lets_the_allocator_expand_segments_unless_the_user_configures_it():
    environment = {**INPUTS, "NUM_GPUS": "1"}
    assert prepare("full", [], environment).environment["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
    for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
        changes = prepare("full", [], {**environment, name: "max_split_size_mb:128"}).environment
        assert not {"PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"} & changes.keys()


def test_processes_with_an_offloaded_optimizer_share_the_cores(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(64)), raising=False)
    configs = REPOSITORY / "configs" / "deepspeed"
    environment = {**INPUTS, "NUM_GPUS": "8"}
    offload = {"DEEPSPEED_CONFIG": str(configs / "zero3_offload.json")}
    assert prepare("full", [], environment | offload).environment["OMP_NUM_THREADS"] == "8"
    assert "OMP_NUM_THREADS" not in prepare("full", [], environment).environment
    assert "OMP_NUM_THREADS" not in prepare("full", [], environment | offload | {"OMP_NUM_THREADS": "3"}).environment
    assert optimizer_threads({}, 100, offload["DEEPSPEED_CONFIG"]) == {"OMP_NUM_THREADS": "1"}
    assert optimizer_threads({}, 1, offload["DEEPSPEED_CONFIG"]) == {}
    assert optimizer_threads({}, 8, "missing.json") == {}
