"""A folder is claimed by one run, and other settings are refused."""

import os
import subprocess
import sys

import pytest

from senna import run_folder
from senna.errors import SennaError, UsageError
from senna.run_folder import (
    RUN_FILE,
    check_same_run,
    claim,
    content,
    describe,
    differences,
    fingerprint,
    new_folder,
    read_settings,
)

REMEDY = "choose another folder"


def test_the_same_settings_claim_a_folder_again(tmp_path):
    settings = {"seed": 1, "views": ("front", "back"), "share": 0.1}
    for _ in range(2):
        claim(tmp_path / "out", settings, remedy=REMEDY)
    assert read_settings(tmp_path / "out" / RUN_FILE) == {"seed": 1, "views": ["front", "back"], "share": 0.1}
    assert [path.name for path in (tmp_path / "out").iterdir()] == [RUN_FILE]


def test_other_settings_are_refused_with_both_values(tmp_path):
    claim(tmp_path, {"limit": 5, "seed": 1, "old": 0}, remedy=REMEDY)
    with pytest.raises(UsageError) as error:
        claim(tmp_path, {"limit": 6, "seed": 1, "new": True}, remedy=REMEDY, where="--out")
    assert error.value.message == (
        "--out holds another run: limit was 5 and is 6; new was None and is True; old was 0 and is None"
    )
    assert error.value.remedy == REMEDY
    assert read_settings(tmp_path / RUN_FILE) == {"limit": 5, "seed": 1, "old": 0}


def test_a_damaged_file_is_another_run(tmp_path):
    (tmp_path / RUN_FILE).write_text("{")
    assert read_settings(tmp_path / RUN_FILE) == {}
    with pytest.raises(UsageError, match="seed was None and is 1"):
        claim(tmp_path, {"seed": 1}, remedy=REMEDY)


def test_a_folder_can_be_claimed_without_hard_links(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError("not supported")

    monkeypatch.setattr(run_folder.os, "link", no_links)
    for _ in range(2):
        claim(tmp_path, {"seed": 1}, remedy=REMEDY)
    with pytest.raises(UsageError):
        claim(tmp_path, {"seed": 2}, remedy=REMEDY)


def test_a_folder_that_cannot_be_written_raises_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(SennaError, match="cannot be written"):
            claim(folder, {}, remedy=REMEDY)


def test_only_the_given_names_are_compared():
    before, now = {"seed": 1, "host": "a"}, {"seed": 1, "host": "b"}
    check_same_run("out", before, now, remedy=REMEDY, names=["seed"])
    check_same_run("out", None, now, remedy=REMEDY)
    assert differences(before, now) == {"host": ("a", "b")}
    assert describe(differences(before, now)) == "host was 'a' and is 'b'"


def test_a_fingerprint_depends_on_contents_and_their_borders():
    assert fingerprint(b"a", b"b") == fingerprint(b"a", b"b")
    assert len({fingerprint(b"a", b"b"), fingerprint(b"ab"), fingerprint(b"b", b"a")}) == 3


@pytest.mark.parametrize(
    "name",
    [
        *(
            "train.log",
            "train.log.1",
            "train.log.gz",
            "log.txt",
            "train_log.txt",
            "nohup.out",
            "slurm-1.out",
            "slurm-7_3.err",
        ),
        *("job.o123", "job.e123", ".nfs00000001", ".DS_Store", "._x.json", "Thumbs.db", "core", "core.123", ".gitkeep"),
        *(".train.log.swp", "notes~", ".#x", "events.out.tfevents.1.host.2.0", ".senna.lock", ".run.json.12"),
        *(".metrics.12.partial.json", "lost+found/x", "wandb/run-1/files/config.yaml", "runs/a/events.out.tfevents.1"),
        *(
            "logs/2026/train.log",
            ".ipynb_checkpoints/x.ipynb",
            "log",
            "train_log",
            "stdout",
            "stderr.txt",
            "slurm-1.out.2",
        ),
    ],
)
def test_logs_and_files_of_editors_desktops_and_file_systems_are_bystanders(tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("text")
    assert content(tmp_path) == []


@pytest.mark.parametrize(
    "name",
    [
        *(
            "a.png",
            "a.jpg",
            "data.json",
            "data.jsonl",
            "model.safetensors",
            "train.py",
            "README.md",
            "run.json",
            "a.pt",
        ),
        *("core.json", "logs/model.safetensors", "runs/a/data.json", "out", "catalog", ".convert/shard/train.jsonl"),
        *("train.out.json", "catalog.csv", "checkpoint-3/model.safetensors", "train.txt", ".git/config"),
    ],
)
def test_data_is_no_bystander(tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("text")
    assert content(tmp_path) == [tmp_path / name.partition("/")[0]]


def test_a_link_counts_by_its_name(tmp_path):
    (tmp_path / "elsewhere").write_text("text")
    folder = tmp_path / "out"
    folder.mkdir()
    for name in ("latest.log", "slurm-1.out"):
        (folder / name).symlink_to(tmp_path / "elsewhere")
    (folder / "broken.log").symlink_to(tmp_path / "nothing")
    assert content(folder) == []
    for name in ("model.safetensors", "data"):
        (folder / name).symlink_to(tmp_path / "elsewhere")
    assert [path.name for path in content(folder)] == ["data", "model.safetensors"]


def test_empty_files_empty_folders_and_the_file_that_this_process_prints_to_are_bystanders(tmp_path, capfd):
    (tmp_path / "empty.json").touch()
    (tmp_path / "empty" / "folder").mkdir(parents=True)
    assert content(tmp_path) == content(tmp_path / "nothing") == []
    with (tmp_path / "console.txt").open("w") as file:
        saved = os.dup(1)
        os.dup2(file.fileno(), 1)
        os.write(1, b"printed")
        found = content(tmp_path)
        os.dup2(saved, 1)
        os.close(saved)
    assert found == []
    assert content(tmp_path) == [tmp_path / "console.txt"]
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    assert tmp_path / "link" in content(tmp_path)


def test_shown_settings_are_named_in_a_message_but_make_no_other_run(tmp_path):
    claim(tmp_path, {"model": "m", "hash": 1}, remedy=REMEDY)
    claim(tmp_path, {"model": "/a/m", "hash": 1}, remedy=REMEDY, shown=["model"])
    with pytest.raises(UsageError, match="model was 'm' and is '/a/m'; hash was 1 and is 2"):
        claim(tmp_path, {"model": "/a/m", "hash": 2}, remedy=REMEDY, shown=["model"])


def test_a_new_folder_holds_only_what_was_moved_into_it(tmp_path):
    out = tmp_path / "a" / "model"
    with new_folder(out) as staging:
        staging.mkdir()
        (staging / "left.txt").write_text("left")
        (out / "config.json").write_text("{}")
    assert [path.name for path in out.iterdir()] == ["config.json"]
    with pytest.raises(UsageError, match="exists already"), new_folder(out):
        pytest.fail("a folder with a model is not new")
    assert (out / "config.json").read_text() == "{}"


def test_a_new_folder_that_fails_is_not_left_behind(tmp_path):
    def fail() -> None:
        with new_folder(tmp_path / "model") as staging:
            staging.mkdir()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not list(tmp_path.iterdir())


def test_two_processes_do_not_make_the_same_folder(tmp_path):
    program = (
        "import pathlib, sys; from senna.run_folder import new_folder\n"
        "with new_folder(pathlib.Path(sys.argv[1])) as staging:\n"
        "    staging.mkdir(); print('made', flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", program, str(tmp_path / "model")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "made\n"
        with (
            pytest.raises(UsageError, match="another process is writing to it") as error,
            new_folder(tmp_path / "model"),
        ):
            pytest.fail("the folder is locked")
        assert error.value.remedy
        assert (tmp_path / "model" / ".saving").is_dir()
        first.communicate("")
    assert first.returncode == 0
