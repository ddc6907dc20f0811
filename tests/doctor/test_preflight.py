"""The checks that `senna train` makes before it starts, continues or finishes a run."""

import time

import pytest

from senna.cli import main
from senna.doctor.preflight import preflight
from senna.train.arguments import parse_arguments
from tests.helpers.checkpoints import remove_a_weight
from tests.helpers.paths import ZERO2


def test_a_sound_run_prints_one_line_and_is_checked_in_less_than_three_seconds(toy, tmp_path, capsys):
    args = parse_arguments(toy.flags(tmp_path / "out"))
    start = time.perf_counter()
    records = preflight(args)
    assert time.perf_counter() - start < 3
    assert len(records) == 24
    out, err = capsys.readouterr()
    assert out.startswith("checks   ")
    assert (out.count("\n"), err) == (1, "")
    assert not (tmp_path / "out").exists()


def test_all_failed_checks_are_reported_together(model, toy, tmp_path, capsys):
    remove_a_weight(model)
    (tmp_path / "empty").mkdir()
    flags = toy.flags(tmp_path / "out", model_name_or_path=model, image_folder=tmp_path / "empty")
    assert main(["train", *flags]) == 2
    error = capsys.readouterr().err
    assert "2 checks failed" in error
    assert "are in no file" in error
    assert "is empty" in error


def test_skip_checks_keeps_the_checks_without_which_no_run_can_start(toy, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    skipping = {"image_folder": tmp_path / "empty", "skip_checks": True}
    preflight(parse_arguments(toy.flags(tmp_path / "out", **skipping)))
    assert main(["train", *toy.flags(tmp_path / "out", **skipping, data_path="gone.json")]) == 2
    error = capsys.readouterr().err
    assert "gone.json" in error
    assert "--skip_checks" not in error


def test_a_warning_is_printed_and_does_not_stop_the_run(toy, tmp_path, capsys):
    records = toy.data.read_text().replace('"3.png"', '"gone.png"')
    (tmp_path / "data.json").write_text(records)
    assert preflight(parse_arguments(toy.flags(tmp_path / "out", data_path=tmp_path / "data.json"))) is not None
    out, err = capsys.readouterr()
    assert err.startswith("warn  images ")
    assert "--skip_bad_samples" in err
    assert out.startswith("checks   ")


def test_a_finished_run_is_not_checked_again(model, toy, tmp_path, capsys):
    out = tmp_path / "out"
    options = {"model_name_or_path": model, "save_total_limit": 9}
    assert main(["train", *toy.flags(out, **options)]) == 0
    (out / "config.json").rename(out / "away.json")
    assert preflight(parse_arguments(toy.flags(out, **options))) is not None
    (out / "away.json").rename(out / "config.json")
    remove_a_weight(model)
    assert preflight(parse_arguments(toy.flags(out, **options))) is None
    assert main(["train", *toy.flags(out, **options)]) == 0


@pytest.mark.slow
def test_two_processes_stop_together_with_one_message(model, toy, tmp_path):
    remove_a_weight(model)
    result = toy.train(tmp_path / "out", processes=2, deepspeed=ZERO2, model_name_or_path=model)
    assert result.returncode != 0
    assert result.stderr.count("checks failed") + result.stderr.count("check failed") == 1
    assert "Traceback" not in result.stderr.split("ChildFailedError")[0]
    assert not (tmp_path / "out").exists()
