"""A run under a launcher starts again by itself, stops for a signal to its launcher, and ends a process that hangs."""

import inspect
import os
import re
import signal
import subprocess
import time

import pytest
from torch.distributed.elastic.multiprocessing import api
from transformers import TrainerControl, TrainerState

from senna.errors import UsageError
from senna.launch import torchrun
from senna.launch.processes import start_command
from senna.train.arguments import parse_arguments
from senna.train.hang import SLOW, HangWatch
from tests.helpers.paths import REPOSITORY
from tests.helpers.toy import losses


def environment(**variables):
    clean = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    given = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    return clean | given | variables


def two_processes(toy, tmp_path, **options) -> list[str]:
    """Return flags of a run of 12 steps on two processes."""
    return ["train", *toy.flags(tmp_path / "out", per_device_train_batch_size=2, **options)]


def start_again(module: str, words: list[str]) -> subprocess.CompletedProcess:
    """Run a module of `tests.helpers` in place of `senna` on two processes, which are started again after a failure."""
    command = start_command(words, {"MAX_RESTARTS": "1"}, 2)
    command[command.index("senna")] = f"tests.helpers.{module}"
    return subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=environment(), timeout=280)


@pytest.mark.slow
def test_a_rank_that_sleeps_for_ever_starts_the_run_again_with_the_same_losses(toy, tmp_path):
    whole = toy.train(tmp_path / "whole", processes=2, per_device_train_batch_size=2)
    assert whole.returncode == 0, whole.stderr
    result = start_again("sleeping_rank", two_processes(toy, tmp_path, hang_timeout=3))
    assert result.returncode == 0, result.stderr
    assert re.findall(r"^continue .*/(checkpoint-\d+)$", result.stdout, re.MULTILINE) == ["checkpoint-4"]
    for rank in (0, 1):  # both show where they stand
        assert f"rank {rank} of 2 made no progress for" in result.stderr
    assert 'sleeping_rank.py", line' in result.stderr
    assert "in step 6. It stands here" in result.stderr
    assert losses(tmp_path / "out") == losses(tmp_path / "whole")


def test_a_rank_that_raises_starts_all_processes_again_at_once():
    result = start_again("raising_rank", ["train"])
    assert result.returncode == 0, result.stderr
    assert "ValueError: rank 1 raises" in result.stderr
    assert sorted("".join(result.stdout.split())) == ["0", "1"]  # both may be in one line


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGUSR1])
def test_a_signal_to_the_launcher_reaches_all_processes_and_is_not_a_reason_to_start_again(toy, tmp_path, number):
    words = start_command(two_processes(toy, tmp_path, num_train_epochs=400), {"MAX_RESTARTS": "1"}, 2)
    run = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY,
                           env=environment(), start_new_session=True)  # fmt: skip
    try:
        for line in run.stdout:
            if line.startswith("step 5/"):
                os.killpg(run.pid, number)  # as SLURM does, to the launcher and its processes
                break
        out, err = run.communicate(timeout=120)
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
    assert run.returncode == 128 + number, err
    [step] = re.findall(r"stopped  by SIG\w+ after step (\d+) of 2400", out)
    assert (tmp_path / "out" / f"checkpoint-{step}").is_dir()
    assert "will restart" not in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_wrong_flags_are_no_reason_to_start_again_and_keep_their_exit_code(toy, tmp_path):
    words = start_command(two_processes(toy, tmp_path, global_batch_size=5), {"MAX_RESTARTS": "2"}, 1)
    assert words[2:7] == ["senna.launch.torchrun", "--standalone", "--max_restarts", "2", "--nproc_per_node"]
    result = subprocess.run(words, capture_output=True, text=True, cwd=REPOSITORY, env=environment(), timeout=200)
    assert result.returncode == 2, result.stderr
    assert result.stderr.count("is no multiple of 2 on 1 process") == 1
    assert "Traceback" not in result.stderr


def test_a_limit_that_is_no_time_is_refused():
    for text in ("-1", "nan", "inf"):
        with pytest.raises(UsageError, match="--hang_timeout"):
            parse_arguments([f"--hang_timeout={text}"])


def test_a_step_an_accumulated_pass_a_checkpoint_and_the_first_step_have_their_limits():
    watch, state, control = HangWatch(60), TrainerState(), TrainerControl()

    def allowed(event):
        getattr(watch, event)(None, state, control)
        return watch._allowed

    watch._ended.set()
    assert allowed("on_train_begin") == allowed("on_epoch_begin") == allowed("on_epoch_end") == SLOW * 60
    assert allowed("on_substep_end") == allowed("on_step_end") == 60
    control.should_save = True
    assert allowed("on_step_end") == allowed("on_evaluate") == SLOW * 60
    assert allowed("on_save") == 60


def test_only_time_without_progress_in_which_the_process_runs_is_counted(monkeypatch):
    watch, state, ended = HangWatch(0.5), TrainerState(), []
    monkeypatch.setattr(watch, "_end", lambda: (ended.append(watch._waited), watch._ended.set()))
    watch.on_train_begin(None, state, TrainerControl())
    clock, jump = time.monotonic, [0.0]
    monkeypatch.setattr("senna.train.hang.time.monotonic", lambda: clock() + jump[0])
    for _ in range(8):
        watch.on_step_end(None, state, TrainerControl())
        jump[0] += 100  # suspended
        time.sleep(0.15)
    assert not ended
    time.sleep(1)
    assert 0.5 < ended[0] < 5


def test_the_launcher_changes_a_method_of_torchrun_that_exists():
    assert list(inspect.signature(api.PContext.close).parameters) == ["self", "death_sig", "timeout"]
    assert issubclass(api.SubprocessContext, api.PContext)
    assert "close" not in vars(api.SubprocessContext)


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (signal.SIGTERM, (signal.SIGTERM, 1800)),
        (signal.SIGINT, (signal.SIGINT, 30)),  # no checkpoint follows
        (None, (signal.SIGKILL, 1800)),  # a process has failed, and the others wait for it
    ],
)
def test_only_a_signal_that_stops_a_run_leaves_processes_time_for_a_checkpoint(sent, expected):
    class Context:
        def __init__(self):
            self.subprocess_handlers = {}

        def close(self, death_sig, timeout):
            self.closed = (death_sig, timeout)

    torchrun._change_close(Context)
    context = Context()
    context.close(sent, 1800)
    assert context.closed == expected
