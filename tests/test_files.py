"""Files and folders appear only when they are complete."""

import errno
import json
import os

import pytest

import senna.files
from senna.errors import SennaError, UsageError
from senna.files import (
    SAVING,
    atomic_write,
    check_free_space,
    is_folder_name,
    publish,
    publish_files,
    stamp,
    write_json,
    writing,
)


def make(folder, *names):
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "weights").write_text(name)


def no_space(_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_file_has_its_name_only_when_it_is_complete(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with atomic_write(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    with pytest.raises(TypeError), atomic_write(path) as partial:
        partial.write_text(3)
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_raises_an_error_with_a_remedy_and_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"b": 1, "a": 2})
    monkeypatch.setattr(senna.files.os, "fsync", no_space)
    with pytest.raises(SennaError, match="No space left") as error:
        write_json(path, {})
    assert error.value.remedy == "make room and run the same command again"
    assert path.read_text() == json.dumps({"a": 2, "b": 1}, indent=2)
    assert list(tmp_path.iterdir()) == [path]


def test_a_checkpoint_has_its_name_only_when_it_is_complete(tmp_path):
    make(tmp_path, f"{SAVING}/checkpoint-5", "checkpoint-5")
    (tmp_path / SAVING / "checkpoint-5" / "weights").write_text("new")
    publish(tmp_path / SAVING / "checkpoint-5", tmp_path / "checkpoint-5")
    assert (tmp_path / "checkpoint-5" / "weights").read_text() == "new"
    assert list((tmp_path / SAVING).iterdir()) == []


def test_the_config_of_a_final_folder_is_moved_last(tmp_path, monkeypatch):
    make(tmp_path, SAVING)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / SAVING / name).write_text(name)
    moved = []
    replace = type(tmp_path).replace
    monkeypatch.setattr(
        type(tmp_path), "replace", lambda path, target: (moved.append(path.name), replace(path, target))[1]
    )
    publish_files(tmp_path / SAVING, tmp_path)
    assert moved[-1] == "config.json"
    assert not (tmp_path / SAVING).exists()
    assert (tmp_path / "model.safetensors").read_text() == "model.safetensors"


def test_a_failed_save_deletes_what_is_half_written_and_reports_what_is_safe(tmp_path):
    make(tmp_path, SAVING)
    with pytest.raises(SennaError, match="failed \\(unexpected pos") as error, writing(tmp_path, lambda: "a is safe; "):
        raise RuntimeError("unexpected pos 1 vs 2\nmore")
    assert error.value.remedy == "a is safe; make room and run the same command again"
    assert not (tmp_path / SAVING).exists()


def test_a_stamp_changes_with_the_file(tmp_path):
    path = tmp_path / "a.bin"
    assert stamp(path) == ""
    path.write_text("1")
    first = stamp(path)
    assert stamp(tmp_path) == first
    path.write_text("12")
    assert stamp(path) != first


def test_too_little_space_raises_an_error_before_work_begins(tmp_path):
    check_free_space(tmp_path / "not" / "there", 1000)
    with pytest.raises(UsageError, match=r"GB free, 1000000000\.0 GB needed"):
        check_free_space(tmp_path / "not" / "there", 10**18)


@pytest.mark.parametrize(
    ("name", "is_folder"),
    [
        ("owner/name", False),
        ("gpt2", False),
        ("outputs/stage3", True),
        ("outputs/a/b", True),
        ("./name", True),
        ("/data/model", True),
        ("owner/name/", True),
    ],
)
def test_a_name_is_that_of_a_folder_where_its_owner_is_one_or_it_is_no_hub_name(tmp_path, monkeypatch, name, is_folder):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    assert is_folder_name(name) == is_folder
