"""`senna train` makes the checks of `senna doctor` first, and starts, continues and finishes as ever where they hold."""

import time

import pytest

from senna.cli import main
from senna.doctor.preflight import before_training
from senna.train.arguments import parse_arguments
from tests.doctor.test_models import lose_a_weight
from tests.train.test_driving import ZERO2


def test_a_run_that_is_sound_says_so_in_one_line_and_is_checked_in_less_than_three_seconds(toy, tmp_path, capsys):
    args = parse_arguments(toy.flags(tmp_path / "out"))
    start = time.perf_counter()
    start_from, records = before_training(args)
    assert time.perf_counter() - start < 3
    assert start_from is None
    assert len(records) == 24
    out, err = capsys.readouterr()
    assert out.startswith("checks   ")
    assert (out.count("\n"), err) == (1, "")
    assert not (tmp_path / "out").exists()


def test_several_failures_are_told_at_once(model, toy, tmp_path, capsys):
    lose_a_weight(model)
    (tmp_path / "empty").mkdir()
    flags = toy.flags(tmp_path / "out", model_name_or_path=model, image_folder=tmp_path / "empty")
    assert main(["train", *flags]) == 2
    error = capsys.readouterr().err
    assert "2 checks failed" in error
    assert "that no file holds" in error
    assert "is empty" in error


def test_skipped_checks_leave_those_without_which_no_run_starts(toy, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    skipping = {"image_folder": tmp_path / "empty", "skip_checks": True}
    before_training(parse_arguments(toy.flags(tmp_path / "out", **skipping)))
    assert main(["train", *toy.flags(tmp_path / "out", **skipping, data_path="gone.json")]) == 2
    error = capsys.readouterr().err
    assert "gone.json: no such file" in error
    assert "--skip_checks" not in error


def test_a_warning_is_printed_and_stops_nothing(toy, tmp_path, capsys):
    records = toy.data.read_text().replace('"3.png"', '"gone.png"')
    (tmp_path / "data.json").write_text(records)
    before_training(parse_arguments(toy.flags(tmp_path / "out", data_path=tmp_path / "data.json")))
    out, err = capsys.readouterr()
    assert err.startswith("warn  images ")
    assert "--skip_bad_samples" in err
    assert out.startswith("checks   ")


def test_a_stopped_and_a_finished_run_go_on_though_the_model_has_gone_bad_since(model, toy, tmp_path, capsys):
    out = tmp_path / "out"
    options = {"model_name_or_path": model, "save_total_limit": 9}
    assert main(["train", *toy.flags(out, **options)]) == 0
    (out / "config.json").rename(out / "away.json")
    start_from, _ = before_training(parse_arguments(toy.flags(out, **options)))
    assert start_from == out / "checkpoint-12"
    (out / "away.json").rename(out / "config.json")
    lose_a_weight(model)
    assert before_training(parse_arguments(toy.flags(out, **options))) == (None, None)


@pytest.mark.slow
def test_two_processes_stop_together_and_the_message_comes_once(model, toy, tmp_path):
    lose_a_weight(model)
    result = toy.train(tmp_path / "out", processes=2, deepspeed=ZERO2, model_name_or_path=model)
    assert result.returncode != 0
    assert result.stderr.count("checks failed") + result.stderr.count("check failed") == 1
    assert "Traceback" not in result.stderr.split("ChildFailedError")[0]
    assert not (tmp_path / "out").exists()
