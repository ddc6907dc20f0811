"""SIGTERM and SIGUSR1 end a run after its step with a checkpoint; the run then goes on as if it had never stopped."""

import os
import re
import signal
import time

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerControl

from senna.cli import main
from senna.train.stop_signals import StopSignals
from senna.train.trainer import SennaTrainer
from tests.helpers.forks import Run
from tests.helpers.paths import REPOSITORY
from tests.helpers.toy import losses

ZERO2 = REPOSITORY / "configs" / "deepspeed" / "zero2.json"


def stop_one_rank_in_an_accumulation(argv):
    """Run `senna train`; rank 1 gets SIGTERM in the first of two forward passes of step 6."""
    compute_loss = SennaTrainer.compute_loss

    def stop(self, *arguments, **options):
        if self.args.process_index == 1 and self.state.global_step == 5 and not self.accelerator.sync_gradients:
            os.kill(os.getpid(), signal.SIGTERM)
        return compute_loss(self, *arguments, **options)

    SennaTrainer.compute_loss = stop
    return main(argv)


def sleep_in_a_step(argv):
    """Run `senna train`, which sleeps for ever in its third step."""
    compute_loss = SennaTrainer.compute_loss

    def sleep(self, *arguments, **options):
        if self.state.global_step == 2:
            print("asleep", flush=True)
            time.sleep(1000)
        return compute_loss(self, *arguments, **options)

    SennaTrainer.compute_loss = sleep
    return main(argv)


def assert_same(first, second):
    assert losses(first) == losses(second)
    actual, expected = (load_file(folder / "model.safetensors") for folder in (first, second))
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_a_signal_to_one_of_two_processes_in_an_accumulation_stops_both_after_the_step_and_the_run_goes_on(
    toy, tmp_path
):
    options = {"global_batch_size": 4, "per_device_train_batch_size": 1, "deepspeed": ZERO2, "save_steps": 100}
    whole = toy.train(tmp_path / "whole", processes=2, **options)
    assert whole.returncode == 0, whole.stderr
    assert "(1 x 2 x 2 processes, ZeRO-2)" in whole.stdout
    flags = ["train", *toy.flags(tmp_path / "out", **options)]
    run = Run(stop_one_rank_in_an_accumulation, flags, toy.folder, processes=2)
    stopped = run.result()
    assert [process.exitcode for process in run._processes] == [143, 143], stopped.stderr
    assert stopped.stdout.count("stopped  by SIGTERM after step 6 of 12, with a checkpoint; run the same command") == 1
    assert [path.name for path in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-6"]
    assert not (tmp_path / "out" / "config.json").exists()
    last = toy.train(tmp_path / "out", processes=2, **options)
    assert last.returncode == 0, last.stderr
    assert f"continue {tmp_path / 'out' / 'checkpoint-6'}" in last.stdout
    assert_same(tmp_path / "out", tmp_path / "whole")


@pytest.mark.slow
def test_a_signal_to_all_processes_of_a_job_leaves_the_workers_to_the_step(toy, tmp_path):
    number = signal.SIGTERM
    options = {"num_train_epochs": 100, "dataloader_num_workers": 2, "save_steps": 1000}
    run = toy.start(tmp_path / "out", **options)
    for line in run.stdout:
        if line.startswith("step 9/"):
            run.send_signal(number, with_children=True)
            break
    out, err = run.communicate()
    assert run.returncode == 128 + number, err
    assert f"{number.name}: finishing the step" in err
    [step] = re.findall(rf"stopped  by {number.name} after step (\d+) of 600", out)
    assert [path.name for path in (tmp_path / "out").glob("checkpoint-*")] == [f"checkpoint-{step}"]
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_second_signal_stops_at_once_even_if_the_step_never_ends(toy, tmp_path):
    run = Run(sleep_in_a_step, ["train", *toy.flags(tmp_path / "out")], toy.folder)
    for line in run.stdout:
        if line == "asleep\n":
            break
    run.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert run.poll() is None
    begun = time.monotonic()
    run.send_signal(signal.SIGTERM)
    out, err = run.communicate()
    assert time.monotonic() - begun < 5
    assert (run.returncode, "stopped" in out) == (143, False), err
    assert "a second signal stops at once" in err
    assert not list((tmp_path / "out").glob("checkpoint-*"))


def test_a_signal_while_a_checkpoint_is_written_needs_no_further_step():
    class Alone:
        world_size = 1

    stop, control = StopSignals(), TrainerControl()
    stop.on_save(Alone, None, control)
    assert not control.should_training_stop
    with stop.listening():
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.1)
        stop.on_save(Alone, None, control)
    assert control.should_training_stop
    assert (control.should_save, stop.name, stop.exit_code) == (False, "SIGUSR1", 138)
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_handlers_are_those_of_before_when_no_signal_has_come():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
    with StopSignals().listening():
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)] != before
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)] == before
    assert signal.set_wakeup_fd(-1) == -1
