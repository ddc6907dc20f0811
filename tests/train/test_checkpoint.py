import errno
import json
import shutil
from pathlib import Path

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


def test_the_best_checkpoint_is_kept_beside_the_newest(tmp_path):
    make(tmp_path, "checkpoint-10", "checkpoint-20", "checkpoint-30", "checkpoint-40")
    checkpoint.prune(tmp_path, 1, best=tmp_path / "checkpoint-20")
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == ["checkpoint-20", "checkpoint-40"]
    checkpoint.prune(tmp_path, 1, best=tmp_path / "checkpoint-40")
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == ["checkpoint-40"]


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


def test_logs_of_shells_and_clusters_are_no_other_run(tmp_path):
    for name in ("train.log", "nohup.out", "slurm-1.out", ".nfs0001", "lost+found/x", "wandb/run-1/files/config.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
    assert checkpoint.check_output_folder(tmp_path, {}) is None
    (tmp_path / "a.png").write_text("data")
    with pytest.raises(UsageError, match=r"holds other files \(a\.png\)"):
        checkpoint.check_output_folder(tmp_path, {})


def test_moved_inputs_with_the_same_contents_and_other_ways_to_write_paths_continue_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(tmp_path, "m", "out/checkpoint-3", "images")
    Path("m/config.json").write_text("{}")
    for name in "ab":
        Path(f"{name}.json").write_text(name)

    def settings(model, data, base=None):
        paths = {"model_name_or_path": model, "data_path": data, "model_base": base, "image_folder": "images/"}
        return checkpoint.absolute_paths({**paths, "vision_tower": "openai/clip", "seed": 1})

    started = settings("m", "a.json:1.0,b.json:0.5", "m")
    checkpoint.claim_output_folder(tmp_path / "out", started, start_from=None)
    shutil.copytree("m", "n")
    shutil.copy("a.json", "c.json")
    Path("link").symlink_to("m")
    for now in (settings("./m/", "./a.json:1.0,b.json:0.5", "link"), settings("n", "c.json:1.0,b.json:0.5", "n")):
        assert checkpoint.check_output_folder(tmp_path / "out", now).name == "checkpoint-3"
    Path("n/config.json").write_text("[]")
    Path("c.json").write_text("c")
    for now, name in ((settings("n", "a.json:1.0,b.json:0.5", "m"), "model_name_or_path"),
                      (settings("m", "c.json:1.0,b.json:0.5", "m"), "data_path"),
                      (settings("m", "a.json:1.0,b.json:0.7", "m"), "data_path")):  # fmt: skip
        with pytest.raises(UsageError, match=f"another run: {name} was"):
            checkpoint.check_output_folder(tmp_path / "out", now)


def test_relative_paths_of_an_earlier_version_continue_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(tmp_path, "out/checkpoint-3")
    for name in "ab":
        Path(f"{name}.json").write_text(name)
    write_settings(tmp_path / "out", {"data_path": "a.json:1.0,b.json:0.5"})
    now = checkpoint.absolute_paths({"data_path": "./a.json:1.0,b.json:0.5"})
    assert checkpoint.check_output_folder(tmp_path / "out", now).name == "checkpoint-3"


def test_a_run_with_other_settings_is_refused_with_both_values(tmp_path):
    write_settings(tmp_path, {"learning_rate": 0.1, "seed": 8})
    make(tmp_path, "checkpoint-3")
    with pytest.raises(UsageError, match=r"learning_rate was 0\.1 and is 0\.2; seed was 8 and is 4;") as error:
        checkpoint.check_output_folder(tmp_path, {"learning_rate": 0.2, "seed": 4, "world_size": 1})
    assert "(" not in error.value.remedy


def test_another_number_of_processes_continues_a_run_and_is_written_into_its_settings(tmp_path):
    before = {"global_batch_size": 16, "seed": 8, "world_size": 8}  # of an earlier version
    write_settings(tmp_path, before)
    make(tmp_path, "checkpoint-3")
    now = {**before, "average_tokens_across_devices": True, "world_size": 2}
    start_from = checkpoint.check_output_folder(tmp_path, now)
    assert start_from.name == "checkpoint-3"
    checkpoint.claim_output_folder(tmp_path, now, start_from)
    assert json.loads((tmp_path / RUN_FILE).read_text()) == {**before, "world_size": 2}


@pytest.mark.parametrize(
    ("changes", "message", "remedy"),
    [
        (
            {"global_batch_size": 4},
            "global_batch_size was 16 and is 4",
            "--global_batch_size 16 without --gradient_acc",
        ),
        ({"average_tokens_across_devices": False}, "average_tokens_across_devices was True and is False", "NUM_GPUS=8"),
    ],
)
def test_another_number_of_processes_that_would_change_the_steps_is_refused(tmp_path, changes, message, remedy):
    before = {"average_tokens_across_devices": True, "global_batch_size": 16, "world_size": 8}
    write_settings(tmp_path, before)
    make(tmp_path, "checkpoint-3")
    with pytest.raises(UsageError, match=message) as error:
        checkpoint.check_output_folder(tmp_path, {**before, "world_size": 2, **changes})
    assert remedy in error.value.remedy


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
