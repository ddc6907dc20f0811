import errno
import json

import pytest

from senna.errors import SennaError, UsageError
from senna.files import SAVING
from senna.train import checkpoint
from senna.train.checkpoint import RUN_FILE


def make(folder, *names):
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "weights").write_text(name)


def run_folder(folder, settings):
    folder.mkdir(exist_ok=True)
    (folder / RUN_FILE).write_text(json.dumps(settings))
    return folder


def test_a_run_continues_from_the_newest_complete_checkpoint(tmp_path):
    run_folder(tmp_path, {"seed": 1})
    make(tmp_path, "checkpoint-9", "checkpoint-100", "checkpoint-20", f"{SAVING}/checkpoint-200")
    assert checkpoint.check_output_folder(tmp_path, {"seed": 1}).name == "checkpoint-100"


@pytest.mark.parametrize(
    ("keep", "left"), [(1, [30]), (2, [20, 30]), (None, [10, 20, 30]), (0, [10, 20, 30]), (9, [10, 20, 30])]
)
def test_the_newest_checkpoints_are_kept(tmp_path, keep, left):
    make(tmp_path, "checkpoint-10", "checkpoint-20", "checkpoint-30")
    checkpoint.prune(tmp_path, keep)
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == [f"checkpoint-{step}" for step in left]


def test_a_folder_that_holds_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UsageError, match=r"holds something else \(thesis.tex"):
        checkpoint.check_output_folder(tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_with_other_settings_is_refused_and_the_setting_named(tmp_path):
    run_folder(tmp_path, {"learning_rate": 0.1, "world_size": 8})
    assert (
        checkpoint.check_output_folder(tmp_path, {"learning_rate": 0.2}) is None
    )  # no checkpoint yet: nothing to lose
    make(tmp_path, "checkpoint-3")
    with pytest.raises(UsageError, match=r"learning_rate 0.1 -> 0.2; world_size 8 -> 4"):
        checkpoint.check_output_folder(tmp_path, {"learning_rate": 0.2, "world_size": 4})


def test_an_empty_or_missing_folder_is_a_new_run(tmp_path):
    assert checkpoint.check_output_folder(tmp_path, {}) is None
    assert checkpoint.check_output_folder(tmp_path / "new", {}) is None
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        checkpoint.check_output_folder(tmp_path / "file", {})


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("unexpected pos 1 vs 2")]
)
def test_a_failed_save_is_told_with_the_last_good_checkpoint_and_leaves_nothing_half_written(tmp_path, error):
    make(tmp_path, "checkpoint-7", f"{SAVING}/checkpoint-8")
    with pytest.raises(SennaError, match=r"checkpoint-7; make room"), checkpoint.saving(tmp_path):
        raise error
    assert not (tmp_path / SAVING).exists()
