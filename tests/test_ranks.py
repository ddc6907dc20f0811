"""Only a launcher's own variables make a process one of several."""

import os

import pytest

from senna.cli import main
from senna.evaluate.command import processes
from senna.ranks import Ranks, forget_other_launchers, read_ranks

RANK_1 = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}

SET_BY_CLUSTERS = [
    {"RANK": "1"},
    {"WORLD_SIZE": "2"},
    {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "job-0", "MASTER_PORT": "23456"},
    {"RANK": "1", "LOCAL_RANK": "1"},
    {**RANK_1, "RANK": "gpu-1"},
    {**RANK_1, "RANK": "5"},
    {"PMI_RANK": "1", "PMI_SIZE": "2"},
    {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"},
]


@pytest.fixture
def environment(monkeypatch):
    """Return a function that sets variables; they, and what the code removes, are restored afterwards."""

    def set_variables(variables):
        for name in RANK_1:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_variables


@pytest.mark.parametrize("variables", SET_BY_CLUSTERS, ids=str)
def test_variables_of_a_cluster_do_not_silence_errors_or_wait_for_other_processes(variables, environment, capsys):
    environment(variables)
    with processes() as (rank, world, barrier):
        assert (rank, world) == (0, 1)
        barrier()
    assert main(["doctor", "--gpu-memory", "-3"]) == 2
    assert "--gpu-memory" in capsys.readouterr().err
    assert not {"RANK", "WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE"} & set(os.environ), "accelerate reads these"


@pytest.mark.parametrize("local", [{"LOCAL_WORLD_SIZE": "2"}, {"LOCAL_SIZE": "2"}], ids=["torchrun", "DeepSpeed"])
def test_a_process_of_a_launcher_knows_its_ranks(local):
    variables = {**RANK_1, **local}
    assert read_ranks(variables) == Ranks(1, 1, 2, 2)
    before = dict(variables)
    forget_other_launchers(variables)
    assert variables == before


def test_usage_errors_are_printed_by_the_first_process_of_a_launcher_only(environment, capsys):
    environment(RANK_1)
    assert main(["doctor", "--gpu-memory", "-3"]) == 2
    assert capsys.readouterr().err == ""


def test_the_only_process_of_torchrun_is_one_without_a_launcher():
    launched = {
        "LOCAL_RANK": "0",
        "RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29500",
        "LOCAL_WORLD_SIZE": "1",
    }
    launched |= {"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_USE_AGENT_STORE": "True", "HOME": "/root"}
    alone, pair = {**launched, "WORLD_SIZE": "1"}, {**launched, "WORLD_SIZE": "2"}
    forget_other_launchers(alone)
    forget_other_launchers(pair)
    assert alone == {"TORCHELASTIC_RUN_ID": "none", "HOME": "/root"}
    assert pair == {**launched, "WORLD_SIZE": "2"}
