"""A single process sees a single GPU."""

import pytest

from senna.launch.command import prepare
from senna.launch.devices import visible_devices

INPUTS = {"MODEL_PATH": "m", "DATA": "d.json"}


@pytest.mark.parametrize(("visible", "first"), [("0,1", "0"), ("3, 5", "3"), ("GPU-a,GPU-b", "GPU-a")])
@pytest.mark.parametrize("recipe", ["pretrain", "lora", "evaluate"])
def test_a_single_process_sees_only_the_first_visible_gpu(recipe, visible, first):
    environment = {**INPUTS, "NUM_GPUS": "1", "CUDA_VISIBLE_DEVICES": visible}
    assert prepare(recipe, [], environment).environment == {"CUDA_VISIBLE_DEVICES": first}


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
