"""The number of processes of a run and the launcher that starts them."""

import stat
import sys

import pytest

from senna.errors import UsageError
from senna.launch.processes import count_gpus, number_of_gpus, start_command

SENNA = ["train", "--config", "a.yaml"]
MACHINES = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "10.0.0.1"}


@pytest.mark.parametrize(("visible", "count"), [("", 0), ("-1", 0), ("0", 1), ("2,5", 2), ("GPU-1,GPU-2,GPU-3", 3),
                                                ("0, 1,", 2), ("0,-1,2", 1), ("NoDevFiles", 0), ("MIG-1/2/3", 1)])  # fmt: skip
def test_gpus_are_counted_from_cuda_visible_devices(visible, count):
    assert count_gpus({"CUDA_VISIBLE_DEVICES": visible}) == count


def test_gpus_are_counted_by_nvidia_smi_without_cuda_visible_devices(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\necho "GPU 0: NVIDIA (UUID: 1)"\necho "GPU 1: NVIDIA (UUID: 2)"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert count_gpus({}) == 2


@pytest.mark.parametrize("text", ["abc", "all", "-1", "2.5", "1:4", "²", "8 8", "99999999", "9" * 5000])
def test_a_number_of_gpus_that_is_not_a_number_is_refused(text):
    with pytest.raises(UsageError) as error:
        number_of_gpus({"NUM_GPUS": text})
    assert f"NUM_GPUS={text}" in error.value.message
    assert "NUM_GPUS" in error.value.remedy


def test_one_process_needs_no_launcher():
    assert start_command(SENNA, {}, 1) == [sys.executable, "-m", "senna", *SENNA]


def test_restarts_need_torchrun_for_one_process_too():
    words = [
        sys.executable,
        "-m",
        "senna.launch.torchrun",
        "--standalone",
        "--max_restarts",
        "3",
        "--nproc_per_node",
        "1",
    ]
    assert start_command(SENNA, {"MAX_RESTARTS": "3"}, 1) == [*words, "-m", "senna", *SENNA]
    assert start_command(SENNA, {"MAX_RESTARTS": "0"}, 1) == [sys.executable, "-m", "senna", *SENNA]


def test_several_gpus_run_under_torchrun():
    assert start_command(SENNA, {}, 4) == [
        *(sys.executable, "-m", "senna.launch.torchrun", "--standalone", "--nproc_per_node", "4", "-m", "senna"),
        *SENNA,
    ]


def test_several_machines_run_under_torchrun_with_one_rendezvous():
    words = start_command(SENNA, MACHINES, 8)
    assert words[2:14] == [
        *("senna.launch.torchrun", "--nnodes", "2", "--node_rank", "1", "--master_addr", "10.0.0.1"),
        *("--master_port", "29500", "--nproc_per_node", "8", "-m"),
    ]
    assert "29501" in start_command(SENNA, {**MACHINES, "MASTER_PORT": "29501"}, 8)


def test_a_hostfile_starts_the_run_on_its_machines(tmp_path):
    hostfile = tmp_path / "hosts"
    hostfile.write_text("localhost slots=2\n")
    words = start_command(SENNA, {"HOSTFILE": str(hostfile)}, 1)
    assert words == [sys.executable, "-m", "senna", "launch", "hosts", str(hostfile), *SENNA]


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"HOSTFILE": "gone"}, "HOSTFILE=gone"),
        ({"NNODES": "2", "NODE_RANK": "0"}, "MASTER_ADDR"),
        ({"NNODES": "2", "MASTER_ADDR": "a"}, "NODE_RANK"),
        ({"NNODES": "1:4"}, "NNODES=1:4"),
        ({"MAX_RESTARTS": "-1"}, "MAX_RESTARTS=-1"),
        ({**MACHINES, "MAX_RESTARTS": "2"}, "MAX_RESTARTS=2: a run on several machines"),
        ({"HOSTFILE": "hosts", "MAX_RESTARTS": "2"}, "MAX_RESTARTS=2: a run on several machines"),
        ({"NNODES": "0"}, "NNODES=0"),
        ({**MACHINES, "NODE_RANK": "one"}, "NODE_RANK=one"),
        ({**MACHINES, "NODE_RANK": "2"}, "NODE_RANK=2"),
        ({"NNODES": "1", "NODE_RANK": "1"}, "NODE_RANK=1"),
        ({**MACHINES, "MASTER_PORT": "http"}, "MASTER_PORT=http"),
        ({**MACHINES, "MASTER_PORT": "0"}, "MASTER_PORT=0"),
        ({**MACHINES, "MASTER_PORT": "70000"}, "MASTER_PORT=70000"),
        ({**MACHINES, "MASTER_ADDR": "10.0.0.1:29500"}, "MASTER_ADDR=10.0.0.1:29500"),
        ({**MACHINES, "MASTER_ADDR": "http://node1"}, "MASTER_ADDR=http://node1"),
    ],
)
def test_a_missing_or_wrong_variable_is_named(environment, named):
    with pytest.raises(UsageError, match=named) as error:
        start_command(SENNA, environment, 1)
    assert error.value.remedy
