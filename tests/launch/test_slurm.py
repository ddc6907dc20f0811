"""LAUNCHER=slurm: a run as tasks of srun, with the variables that SLURM sets in them."""

import pytest

from senna.errors import UsageError
from senna.launch.command import prepare
from senna.launch.slurm import first_host

# As Slurm sets them in a task of `srun --nodes=2 --ntasks-per-node=1 --gpus-per-node=8`, on its second machine.
TASK = {
    "SLURM_JOB_ID": "1234567", "SLURM_NNODES": "2", "SLURM_JOB_NUM_NODES": "2", "SLURM_NODEID": "1", "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_JOB_NODELIST": "gpu[07-08]",
    "SLURM_NODELIST": "gpu[07-08]", "SLURM_GPUS_ON_NODE": "8", "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7",
}  # fmt: skip
GIVEN = {**TASK, "LAUNCHER": "slurm", "MODEL_PATH": "m", "DATA": "d.json"}


def torchrun_flags(environment, recipe="full"):
    words = prepare(recipe, [], environment).words
    words = words[words.index("senna.launch.torchrun") + 1 : words.index("senna") - 1]
    return dict(zip(words[::2], words[1::2], strict=True))


@pytest.mark.parametrize("recipe", ["pretrain", "full", "lora", "qlora"])
def test_a_task_of_srun_joins_torchrun_at_the_first_machine(recipe):
    assert torchrun_flags(GIVEN, recipe) == {
        "--nnodes": "2", "--node_rank": "1", "--master_addr": "gpu07", "--master_port": str(20_000 + 1234567 % 20_000),
        "--nproc_per_node": "8",
    }  # fmt: skip


def test_a_step_on_some_machines_of_a_job_begins_at_its_own_first():
    assert torchrun_flags({**GIVEN, "SLURM_STEP_NODELIST": "gpu08,gpu09"})["--master_addr"] == "gpu08"


def test_variables_that_the_user_sets_win_over_slurms():
    given = {**GIVEN, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29501", "NUM_GPUS": "4"}
    flags = torchrun_flags(given)
    assert (flags["--master_addr"], flags["--master_port"], flags["--nproc_per_node"]) == ("10.0.0.1", "29501", "4")
    assert torchrun_flags({**given, "NNODES": "3", "NODE_RANK": "2"})["--nnodes"] == "3"


def test_the_gpus_of_a_machine_are_counted_by_slurm_where_nothing_else_names_them(monkeypatch):
    monkeypatch.setattr("senna.launch.processes.shutil.which", lambda name: None)
    unnamed = {name: value for name, value in GIVEN.items() if name != "CUDA_VISIBLE_DEVICES"}
    assert torchrun_flags(unnamed)["--nproc_per_node"] == "8"


def test_one_machine_needs_no_other():
    environment = {**GIVEN, "SLURM_NNODES": "1", "SLURM_NTASKS": "1", "SLURM_NODEID": "0"}
    assert "--standalone" in prepare("full", [], environment).words


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"SLURM_NODEID": ""}, "SLURM_NODEID"),
        ({"SLURM_JOB_NODELIST": ""}, "SLURM_JOB_NODELIST"),
        ({"SLURM_NTASKS": "16"}, "SLURM_NTASKS=16"),
        ({"SLURM_NNODES": "two"}, "SLURM_NNODES=two"),
        ({"SLURM_GPUS_ON_NODE": "gpu:8", "CUDA_VISIBLE_DEVICES": ""}, "NUM_GPUS=gpu:8"),
        ({"LAUNCHER": "mpi"}, "LAUNCHER=mpi"),
    ],
)
def test_a_job_that_cannot_be_joined_is_refused(changes, named):
    with pytest.raises(UsageError, match=named) as error:
        prepare("full", [], {**GIVEN, **changes})
    assert error.value.remedy


def test_slurms_variables_are_ignored_unless_they_are_asked_for():
    assert "--standalone" in prepare("full", [], {**GIVEN, "LAUNCHER": ""}).words


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("gpu[07-09,12],cpu1", "gpu07"), ("a-[1,3]", "a-1"), ("n1", "n1"), ("n1,n2", "n1"), ("r[1-2]n[03-04]", "r1n03"),
     ("gpu[3]-ib", "gpu3-ib"), ("", "")],
)  # fmt: skip
def test_the_first_name_of_a_node_list(nodes, first):
    assert first_host(nodes) == first
