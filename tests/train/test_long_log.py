"""The log of a day: tens of thousands of entries, which take little memory, and little time when they are saved and drawn."""

import json
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from transformers import Trainer, TrainerState
from transformers.integrations import TensorBoardCallback

from senna.errors import SennaError
from senna.train import progress, timed_trainer, tracked
from senna.train.curve import MAJORITY, MOST_POINTS, plot_losses
from senna.train.progress import LogFile
from senna.train.step_times import HostClock, StepTimes
from senna.train.timed_trainer import TimedTrainer
from senna.train.trainer import COUNTED
from senna.train.trainer_checkpoint import write_state


def history(entries: int) -> list[dict]:
    """Return a log of training steps."""
    values = np.random.default_rng(0).random(entries).tolist()
    return [
        {"loss": value, "grad_norm": value / 7, "learning_rate": 1e-5, "step": step + 1}
        for step, value in enumerate(values)
    ]


def test_a_checkpoint_writes_a_line_for_each_log_entry_without_a_copy_of_the_log(tmp_path):
    state = TrainerState(log_history=[*history(2000), {"eval_loss": float("inf"), "step": 2000}], global_step=2000)
    state.best_model_checkpoint, state.stateful_callbacks = (
        'a "b"\n',
        {"TrainerControl": {"args": {"should_save": True}}},
    )
    tracemalloc.start()
    write_state(state, str(tmp_path / "trainer_state.json"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000
    assert TrainerState.load_from_json(str(tmp_path / "trainer_state.json")) == state
    lines = (tmp_path / "trainer_state.json").read_text().splitlines()
    assert json.loads(lines[2].strip(" ,")) == state.log_history[0]
    state.log_history = []
    write_state(state, str(tmp_path / "empty.json"))
    assert TrainerState.load_from_json(str(tmp_path / "empty.json")) == state


def test_a_log_that_cannot_be_written_again_stays_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "train_log.jsonl"
    path.write_text("earlier\n")
    calls = []

    def fail(entry):
        calls.append(entry)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        return "{}"

    monkeypatch.setattr(progress, "json", SimpleNamespace(dumps=fail))
    with pytest.raises(SennaError, match=r"train_log\.jsonl cannot be written: No space left on device"):
        LogFile(path).on_train_begin(None, TrainerState(log_history=history(5)), None)
    assert path.read_text() == "earlier\n"
    assert list(tmp_path.iterdir()) == [path]


def test_log_entries_share_the_texts_of_their_keys(monkeypatch):
    logged = []
    monkeypatch.setattr(Trainer, "log", lambda self, logs, start_time=None: logged.append(logs))
    monkeypatch.setattr(timed_trainer, "training_flops", lambda *_: 0.0)
    trainer = object.__new__(TimedTrainer)
    kinds = ["plan", "description"]
    vars(trainer).update(
        args=SimpleNamespace(world_size=1, pack_frames=False), counted=torch.ones(len(COUNTED), dtype=torch.float64),
        times=StepTimes(HostClock()), shape=None, trained_parts=None, peak_tflops=None, started=0.0, by_kind=torch.ones(3, 2),
        kind_keys=[f"loss_{kind}" for kind in kinds], _sum_over_processes=lambda values: values.tolist(),
        train_dataset=SimpleNamespace(records=SimpleNamespace(kind_names=kinds)),
    )  # fmt: skip
    for _ in range(2):
        trainer.by_kind.fill_(1)
        trainer.counted.fill_(1)
        trainer.log({"loss": 1.0})
    first, second = logged
    assert {"loss_plan", "time_data", "samples_per_second"} <= first.keys()
    assert not [now for before, now in zip(first, second, strict=True) if before is not now]


def test_the_curve_of_a_long_run_has_few_points_and_all_peaks(tmp_path, monkeypatch):
    lines = []
    plot = Axes.plot

    def record(self, steps, values, *args, **options):
        lines.append((steps, values))
        return plot(self, steps, values, *args, **options)

    monkeypatch.setattr(Axes, "plot", record)
    log = history(3 * MOST_POINTS)
    log[777]["loss"] = 50.0
    log += [
        {"eval_loss": 1.0, "eval_plan_macro_f1": 0.5, MAJORITY: 0.1, "step": step} for step in range(3 * MOST_POINTS)
    ]
    assert plot_losses(log, tmp_path / "loss.png", "a day")
    assert len(lines) == 4
    for steps, values in lines:
        assert 10 < len(steps) == len(values) <= MOST_POINTS
        assert list(steps) == sorted(set(steps))
    assert (778, 50.0) in set(zip(*lines[0], strict=True))


def test_images_of_validations_become_rarer_in_a_long_run():
    shown = [number for number in range(1, 251) if tracked.has_images(number)]
    assert shown[:20] == list(range(1, 21))
    assert shown[20:31] == [*range(22, 42, 2), 44]
    assert len(shown) < 60


def test_the_last_validation_has_images_whatever_its_number(monkeypatch):
    given = []

    class Pictures:
        def __init__(self, data):
            pass

        def draw(self, log_probs, is_scored):
            return [SimpleNamespace(picture=np.zeros((2, 2, 3), np.uint8), caption="")]

    callback = TensorBoardCallback(SimpleNamespace(add_image=lambda tag, pixels, step, dataformats: given.append(step)))
    monkeypatch.setattr(tracked, "PlanImages", Pictures)
    monkeypatch.setattr(callback, "on_evaluate", lambda *args, **options: None)
    measured = SimpleNamespace(log_probs=torch.zeros(1), is_scored=torch.zeros(1))
    records = SimpleNamespace(counts_by_kind=dict)
    state = TrainerState(max_steps=49)
    trainer = SimpleNamespace(
        args=SimpleNamespace(report_to=["tensorboard"], world_size=1), state=state, is_world_process_zero=lambda: True,
        model=torch.nn.Module(), train_dataset=SimpleNamespace(records=records),
        validation=SimpleNamespace(data=None, measured=measured), callback_handler=SimpleNamespace(callbacks=[callback]),
    )  # fmt: skip
    tracked.set_up_trackers(trainer)
    [ours] = trainer.callback_handler.callbacks
    for step in range(1, 50):
        state.global_step = step
        state.log_history += [{"loss": 1.0}, {"eval_loss": 1.0}]
        ours.on_evaluate(trainer.args, state, None)
    assert given == [*range(1, 21), *range(22, 41, 2), 44, 48, 49]
