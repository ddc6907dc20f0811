"""The log of a day: tens of thousands of entries, which take little memory, and little time when they are saved and drawn."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from transformers import TrainerState
from transformers.integrations import TensorBoardCallback

from senna.errors import SennaError
from senna.train import log_history, tracked
from senna.train.curve import MAJORITY, MOST_POINTS, plot_losses
from senna.train.log_history import KEPT, LogFile, drop_old, read_log


def history(entries: int) -> list[dict]:
    """Return a log of training steps."""
    values = np.random.default_rng(0).random(entries).tolist()
    return [
        {"loss": value, "grad_norm": value / 7, "learning_rate": 1e-5, "step": step + 1}
        for step, value in enumerate(values)
    ]


def test_a_run_keeps_its_newest_entries_and_all_validations_in_memory():
    entries, kept, longest = [*history(5 * KEPT)], [], 0
    entries[KEPT // 2 :: KEPT] = [{"eval_loss": float("nan"), "step": index} for index in range(5)]
    for entry in entries:
        kept.append(entry)
        drop_old(kept)
        longest = max(longest, len(kept))
    assert longest < 2 * KEPT
    assert kept[-KEPT:] == entries[-KEPT:]
    assert [entry["step"] for entry in kept if "eval_loss" in entry] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("length", [3, KEPT - 1, KEPT, KEPT + 1, 3 * KEPT + 7])
def test_the_log_of_a_continued_run_ends_where_its_checkpoint_does(tmp_path, length):
    """Whatever came after the checkpoint is dropped, also half a line; what came before it stays, in the same bytes."""
    entries = history(length)
    entries.insert(length // 2, {"eval_loss": float("nan"), "step": length // 2})
    lines = [json.dumps(entry) for entry in entries]
    path = tmp_path / "train_log.jsonl"
    path.write_text(
        "\n".join([*lines, *(json.dumps({**entries[0], "step": length + 1}) for _ in range(3)), '{"loss": 1'])
    )
    saved = []
    for entry in entries:
        saved.append(entry)
        drop_old(saved)
    TrainerState(log_history=saved).save_to_json(str(tmp_path / "trainer_state.json"))
    state = TrainerState.load_from_json(str(tmp_path / "trainer_state.json"))
    LogFile(path).on_train_begin(None, state, None)
    assert path.read_text().splitlines() == lines


def test_a_checkpoint_without_its_log_continues_with_what_it_has(tmp_path):
    path, saved = tmp_path / "train_log.jsonl", history(2 * KEPT - 1)
    for before in (None, "the log of another run\n", json.dumps(saved[3]) + "\n"):
        if before is not None:
            path.write_text(before)
        LogFile(path).on_train_begin(None, TrainerState(log_history=saved), None)
        assert list(read_log(path)) == saved


def test_a_log_that_cannot_be_written_again_stays_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "train_log.jsonl"
    path.write_text("earlier\n")

    def lines(*_):
        yield from ["{}", "{}"]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(log_history, "continued_lines", lines)
    with pytest.raises(SennaError, match=r"train_log\.jsonl cannot be written: No space left on device"):
        LogFile(path).on_train_begin(None, TrainerState(log_history=history(5)), None)
    assert path.read_text() == "earlier\n"
    assert list(tmp_path.iterdir()) == [path]


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
