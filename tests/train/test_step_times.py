"""The log shows where the time of a step goes, and the end of a run says what would change it."""

import json
import time
from statistics import median
from types import SimpleNamespace

import pytest
import torch

from senna.data import ConversationDataset
from senna.train import advice
from senna.train.advice import advise, run_figures, time_lines
from senna.train.arguments import parse_arguments
from senna.train.progress import format_entry
from senna.train.step_times import MOST_MARKS, PHASES, CudaClock, StepTimes, shares
from senna.train.timed_trainer import TimedTrainer
from senna.train.trainer import SennaTrainer
from tests.helpers.forks import Run
from tests.helpers.paths import ZERO2, ZERO3
from tests.train import slow_parts


class Device:
    """A GPU with a queue: what the host gives it starts when the earlier work is done, and the host goes on."""

    def __init__(self):
        self.host = self.done = 0.0  # the time on the host, and the time at which the device will be idle
        self.waits = 0

    def compute(self, seconds: float) -> None:
        self.done = max(self.done, self.host) + seconds

    def event(self) -> "Event":
        return Event(self)


class Event:
    def __init__(self, device: Device):
        self.device, self.reached = device, 0.0

    def record(self, stream) -> None:
        self.reached = max(self.device.done, self.device.host)

    def synchronize(self) -> None:
        self.device.waits += self.reached > self.device.host
        self.device.host = max(self.device.host, self.reached)

    def elapsed_time(self, later: "Event") -> float:
        assert self.device.host >= later.reached, "the event is not reached yet"
        return (later.reached - self.reached) * 1e3


class Steps:
    """Steps on a `Device` whose times are known."""

    def __init__(self):
        self.device = Device()
        self.clock = CudaClock("stream", self.device.event)
        self.times = StepTimes(self.clock)

    def step(self, loading: float) -> None:
        """Load data on the host, and give the device 1 s of forward pass, 2 s of backward pass and 0.5 s of optimizer."""
        with self.times.inside("data"):
            self.device.host += loading
        for phase, seconds in (("forward", 1.0), ("backward", 2.0), ("optimizer", 0.5)):
            self.times.begin(phase)
            self.device.compute(seconds)
        self.times.begin("other")


def test_waiting_for_data_counts_on_a_gpu_only_where_it_ran_out_of_work():
    steps = Steps()
    for loading in (4.0, 3.0, 3.0):  # the host loads the second and third step while the device computes for 3.5 s
        steps.step(loading)
    taken = steps.times.take()
    assert taken == {**dict.fromkeys(taken, 0.0), "data": 4.0, "forward": 3.0, "backward": 6.0, "optimizer": 1.5}
    steps.step(5.0)  # the device is idle, since `take` has waited for it
    assert steps.times.take()["data"] == 5.0


def test_the_host_waits_for_a_gpu_at_a_log_entry_only_and_uses_its_events_again():
    steps = Steps()
    for _ in range(50):
        steps.step(0.1)
    assert steps.device.waits == 0
    steps.times.take()
    created = len(steps.clock.unused)
    assert created == 50 * 6
    for _ in range(40):
        steps.step(0.1)
    steps.times.take()
    assert len(steps.clock.unused) == created


def test_marks_of_a_run_without_log_entries_do_not_pile_up():
    steps = Steps()
    for _ in range(MOST_MARKS // 4):
        steps.step(0.0)
    assert len(steps.times._marks) <= MOST_MARKS
    assert steps.times.take()["backward"] == pytest.approx(2.0 * (MOST_MARKS // 4))


def test_time_before_the_first_step_and_in_pauses_is_no_time_of_the_steps():
    steps = Steps()
    steps.device.host = 99.0
    steps.step(1.0)
    steps.device.host = 200.0
    with steps.times.inside("saving"):
        steps.device.host += 3.0
        with steps.times.inside("communication"):  # ZeRO-3 gathers weights in a validation too
            steps.device.host += 4.0
    taken = steps.times.take()
    assert (taken["saving"], sum(taken[phase] for phase in PHASES)) == (7.0, 101.0)
    assert sum(shares(taken).values()) == pytest.approx(1.0)
    assert set(shares(steps.times.take()).values()) == {0.0}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_events_time_what_a_gpu_computes():
    times, matrix = StepTimes(CudaClock()), torch.ones(4096, 4096, device="cuda")
    torch.mm(matrix, matrix)
    torch.cuda.synchronize()
    times.begin("data")
    time.sleep(0.3)
    times.begin("forward")
    started = time.perf_counter()
    for _ in range(200):
        torch.mm(matrix, matrix)
    times.begin("other")
    taken = times.take()
    assert taken["data"] == pytest.approx(0.3, abs=0.1)
    assert taken["forward"] == pytest.approx(time.perf_counter() - started, rel=0.2)


# ---- runs


def entries(folder) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def slow_down(monkeypatch, kind: type, name: str, seconds: float) -> None:
    original = getattr(kind, name)

    def slow(*args, **kwargs):
        time.sleep(seconds)
        return original(*args, **kwargs)

    monkeypatch.setattr(kind, name, slow)


def test_a_slow_data_set_shows_as_waiting_for_data_with_advice(toy, tmp_path, monkeypatch):
    slow_down(monkeypatch, ConversationDataset, "__getitem__", 0.05)
    monkeypatch.setattr(advice, "available_cores", lambda: 8)
    result = toy.train(tmp_path / "out", max_steps=10, peak_tflops=0.5)
    assert result.returncode == 0, result.stderr
    log = entries(tmp_path / "out")
    for entry in log:
        times = {phase: entry[f"time_{phase}"] for phase in PHASES}
        assert sum(times.values()) == pytest.approx(1.0, abs=1e-3)
        assert min(times["forward"], times["backward"], times["optimizer"]) > 0
        assert entry["step_seconds"] > 0
        assert 0 < entry["mfu"] < 1
    assert sum(entry["time_data"] for entry in log) / len(log) > 0.3
    text = next(line for line in result.stdout.splitlines() if line.startswith("time "))
    assert "waiting for data " in text
    assert "MFU" in text
    line = next(line for line in result.stdout.splitlines() if line.startswith("advice "))
    assert "of the time for images: --dataloader_num_workers 4, or --image_decode fast" in line


def test_timing_costs_less_than_one_percent_of_a_step_of_0_1_s(toy, tmp_path, monkeypatch):
    costs = {name: [] for name in ("begin", "_time_figures")}

    def count(kind, name):
        original = getattr(kind, name)

        def counted(*args, **kwargs):
            started = time.thread_time()
            try:
                return original(*args, **kwargs)
            finally:
                costs[name].append(time.thread_time() - started)

        monkeypatch.setattr(kind, name, counted)

    count(StepTimes, "begin")
    count(TimedTrainer, "_time_figures")
    steps = 20
    assert toy.train(tmp_path / "out", max_steps=steps, num_train_epochs=9, save_steps=99).returncode == 0
    marks = len(costs["begin"]) / steps
    assert len(costs["_time_figures"]) == steps
    # 42 + 205 microseconds were measured.
    assert marks * median(costs["begin"]) + median(costs["_time_figures"]) < 1e-3


@pytest.mark.parametrize(("name", "phase"), [("_get_grad_norm", "optimizer"), ("_prepare_inputs", "copy")])
def test_slow_parts_of_a_step_show_in_their_phase(toy, tmp_path, monkeypatch, name, phase):
    slow_down(monkeypatch, SennaTrainer, name, 0.2)
    result = toy.train(tmp_path / "out", max_steps=2, gradient_accumulation_steps=2, save_steps=1)
    assert result.returncode == 0, result.stderr
    last = entries(tmp_path / "out")[-1]
    assert last[f"time_{phase}"] > 0.4
    assert last["save_seconds"] > 0  # of the checkpoint after the first step


@pytest.mark.slow
@pytest.mark.parametrize("deepspeed", [None, ZERO2, ZERO3])
def test_a_process_that_waits_for_another_one_shows_communication(toy, stage1, tmp_path, deepspeed):
    options = {"deepspeed": deepspeed} if deepspeed else {}
    flags = toy.driving_flags(tmp_path / "out", stage1, max_steps=4, per_device_train_batch_size=1, **options)
    result = Run(slow_parts.train, flags, toy.folder, processes=2).result()
    assert result.returncode == 0, result.stderr
    last = entries(tmp_path / "out")[-1]
    # One of two processes computes 0.3 s longer than the other, so that half of the time of one process is waiting.
    assert last["time_communication"] > 0.25
    assert last["time_optimizer"] < 0.2


# ---- the end of a run


def entry(step: int, seconds: float, **figures) -> dict:
    times = {f"time_{phase}": 0.0 for phase in PHASES}
    return {"step": step, "loss": 1.0, "step_seconds": seconds, "padding": 0.0, **times, **figures}


def test_the_figures_of_a_run_weight_its_entries_with_their_time():
    history = [
        entry(1, 30.0, time_data=0.5, time_forward=0.5, mfu=0.1),
        entry(2, 10.0, time_data=0.1, time_forward=0.9, mfu=0.5, save_seconds=50.0),
        {"step": 2, "eval_loss": 1.0, "eval_seconds": 10.0},
    ]
    figures = run_figures(history)
    assert figures["data"] == pytest.approx((15 + 1) / 40)
    assert figures["mfu"] == pytest.approx((3 + 5) / 40)
    assert (figures["saving"], figures["validation"]) == (0.5, 0.1)
    assert time_lines(arguments(), history)[0] == "time     forward 60%, waiting for data 40%; MFU 20.0%"
    assert run_figures([{"step": 1, "loss": 1.0}]) == {}
    assert time_lines(arguments(), [{"step": 1, "loss": 1.0}]) == []


def arguments(**changes) -> SimpleNamespace:
    return SimpleNamespace(
        **{
            "dataloader_num_workers": 0, "image_decode": "exact", "zero_stage": 0, "gradient_accumulation_steps": 1,
            "per_device_train_batch_size": 2, "global_batch_size": 16, "deepspeed": None, "pack_frames": True,
            "version": "v1", "stage": 2, "group_by_modality_length": False, "eval_steps": 100, "save_steps": 200,
            "eval_strategy": "steps", "eval_limit": None, "logging_steps": 1, "use_cpu": False, **changes,
        }
    )  # fmt: skip


OFFLOAD = {"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}}}


@pytest.mark.parametrize(
    ("figures", "changes", "expected"),
    [
        ({"data": 0.31}, {"dataloader_num_workers": 4},
         ["the GPU waited 31% of the time for images: --dataloader_num_workers 8, or --image_decode fast, or a faster disk for "
          "the images"]),
        ({"data": 0.31}, {"dataloader_num_workers": 8, "image_decode": "fast"},
         ["the GPU waited 31% of the time for images: a faster disk for the images"]),
        ({"data": 0.09}, {}, []),
        ({"communication": 0.3}, {"zero_stage": 3, "gradient_accumulation_steps": 4},
         ["the GPU waited 30% of the time for other processes: --deepspeed configs/deepspeed/zero2.json, if the model fits, or "
          "--per_device_train_batch_size 4, if it fits"]),
        ({"communication": 0.3}, {},
         ["the GPU waited 30% of the time for other processes: --global_batch_size 32, with a learning rate up to 1.4 times "
          "higher"]),
        ({"optimizer": 0.4}, {"deepspeed": OFFLOAD},
         ["the optimizer took 40% of the time: a DeepSpeed configuration without offload_optimizer, if the model fits, or "
          "--global_batch_size 32, with a learning rate up to 1.4 times higher"]),
        ({"padding": 0.4}, {"pack_frames": False}, ["40% of the positions were padding: --pack_frames True"]),
        ({"padding": 0.4}, {"pack_frames": False, "stage": 3},
         ["40% of the positions were padding: --group_by_modality_length True"]),
        ({"padding": 0.4}, {}, []),
        ({"validation": 0.2, "saving": 0.3}, {},
         ["saving took 30% of the run: --save_steps 400",
          "validation took 20% of the run: --eval_steps 200, or --eval_limit N"]),
        ({"validation": 0.2}, {"eval_strategy": "epoch", "eval_limit": 9},
         ["validation took 20% of the run: a lower --eval_limit"]),
        ({"other": 0.5}, {}, ["logging and other work between the steps took 50% of the time: --logging_steps 10"]),
        ({"other": 0.5}, {"logging_steps": 10}, []),
    ],
)  # fmt: skip
def test_advice_names_flags_that_would_change_this_run(monkeypatch, figures, changes, expected):
    monkeypatch.setattr(advice, "available_cores", lambda: 8)
    assert advise(arguments(**changes), figures) == expected


def test_every_flag_that_advice_names_exists(toy, tmp_path):
    args = parse_arguments(toy.flags(tmp_path))
    for rule in advice.RULES:
        assert rule.quantity in {*PHASES, "padding", "validation", "saving"}
        for remedy in rule.remedies(args):
            words = remedy.replace(",", "").split()
            assert all(hasattr(args, word.removeprefix("--")) for word in words if word.startswith("--"))


def test_a_short_run_gets_no_advice():
    short, long = ([entry(step, 1.0, time_data=1.0) for step in range(1, steps)] for steps in (10, 11))
    assert len(time_lines(arguments(), short)) == 1
    assert len(time_lines(arguments(), long)) == 2


def test_a_printed_line_shows_waiting_for_data_and_mfu():
    assert format_entry({"loss": 1.0, "time_data": 0.031, "time_forward": 0.4, "mfu": 0.412}) == (
        "loss 1.0000, waiting for data 3%, MFU 41%"
    )
