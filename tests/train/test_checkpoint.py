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


def write_settings(folder, settings):
    folder.mkdir(exist_ok=True)
    (folder / RUN_FILE).write_text(json.dumps(settings))


def test_a_run_continues_from_the_newest_complete_checkpoint(tmp_path):
    write_settings(tmp_path, {"seed": 1})
    make(tmp_path, "checkpoint-9", "checkpoint-100", "checkpoint-20", f"{SAVING}/checkpoint-200")
    assert checkpoint.check_output_folder(tmp_path, {"seed": 1}).name == "checkpoint-100"


@pytest.mark.parametrize(
    ("keep", "expected"), [(1, [30]), (2, [20, 30]), (None, [10, 20, 30]), (0, [10, 20, 30]), (9, [10, 20, 30])]
)
def test_the_newest_checkpoints_are_kept(tmp_path, keep, expected):
    make(tmp_path, "checkpoint-10", "checkpoint-20", "checkpoint-30")
    checkpoint.prune(tmp_path, keep)
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == [f"checkpoint-{step}" for step in expected]


def test_only_folders_named_exactly_checkpoint_n_are_pruned_or_continued(tmp_path):
    write_settings(tmp_path, {"seed": 1})
    own = ["checkpoint-1", "checkpoint-30", "checkpoint-200"]
    others = """checkpoint-200-best checkpoint-300.bak checkpoint-400-1 checkpoint-0500 checkpoint-６00 checkpoint-+700
    checkpoint-800~ checkpoint-9_00 checkpoint-900copy checkpoint--900 checkpoint-1e3 checkpoint- xcheckpoint-900
    checkpoint-5-backup Checkpoint-900""".split()
    make(tmp_path, *own, *others, "checkpoint-900 (copy)", "checkpoint-900\n", "best")
    (tmp_path / "checkpoint-901").write_text("a file")
    before = {path.name for path in tmp_path.iterdir()}
    assert checkpoint.check_output_folder(tmp_path, {"seed": 1}).name == "checkpoint-200"
    checkpoint.prune(tmp_path, 1)
    assert {path.name for path in tmp_path.iterdir()} == before - {"checkpoint-1", "checkpoint-30"}


def test_a_folder_with_other_files_is_refused_and_not_changed(tmp_path):
    (tmp_path / "thesis.tex").write_text("text")
    with pytest.raises(UsageError, match=r"thesis\.tex") as error:
        checkpoint.check_output_folder(tmp_path, {})
    assert "new folder" in error.value.remedy
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_with_other_settings_is_refused_with_both_values(tmp_path):
    write_settings(tmp_path, {"learning_rate": 0.1, "world_size": 8})
    make(tmp_path, "checkpoint-3")
    with pytest.raises(UsageError, match=r"learning_rate was 0\.1 and is 0\.2; world_size was 8 and is 4") as error:
        checkpoint.check_output_folder(tmp_path, {"learning_rate": 0.2, "world_size": 4})
    assert "NUM_GPUS=8" in error.value.remedy
    with pytest.raises(UsageError, match=r"learning_rate was 0\.1") as error:
        checkpoint.check_output_folder(tmp_path, {"learning_rate": 0.2})
    assert "NUM_GPUS" not in error.value.remedy


def test_a_run_without_a_checkpoint_may_start_again_with_other_settings(tmp_path):
    write_settings(tmp_path, {"learning_rate": 0.1})
    settings = {"seed": 2, "learning_rate": 0.2}
    assert checkpoint.check_output_folder(tmp_path, settings) is None
    checkpoint.claim_output_folder(tmp_path, settings, start_from=None)
    assert json.loads((tmp_path / RUN_FILE).read_text()) == settings
    assert [path.name for path in tmp_path.iterdir()] == [RUN_FILE]


def test_an_empty_or_missing_folder_is_a_new_run(tmp_path):
    assert checkpoint.check_output_folder(tmp_path, {}) is None
    assert checkpoint.check_output_folder(tmp_path / "new", {}) is None
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        checkpoint.check_output_folder(tmp_path / "file", {})


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("unexpected pos 1 vs 2")]
)
def test_a_failed_save_names_the_last_good_checkpoint_and_leaves_no_partial_files(tmp_path, error):
    make(tmp_path, "checkpoint-7", f"{SAVING}/checkpoint-8")
    with pytest.raises(SennaError, match=r"checkpoint-7; make room"), checkpoint.saving(tmp_path):
        raise error
    assert not (tmp_path / SAVING).exists()
