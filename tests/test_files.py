import pytest

from senna.errors import UsageError
from senna.files import SAVING, check_free_space, publish, publish_files


def make(folder, *names):
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "weights").write_text(name)


def test_a_checkpoint_has_its_name_only_when_it_is_whole(tmp_path):
    make(tmp_path, f"{SAVING}/checkpoint-5", "checkpoint-5")
    (tmp_path / SAVING / "checkpoint-5" / "weights").write_text("new")
    publish(tmp_path / SAVING / "checkpoint-5", tmp_path / "checkpoint-5")
    assert (tmp_path / "checkpoint-5" / "weights").read_text() == "new"
    assert list((tmp_path / SAVING).iterdir()) == []


def test_a_final_folder_shows_its_config_last(tmp_path, monkeypatch):
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


def test_too_little_room_is_told_before_work_begins(tmp_path):
    check_free_space(tmp_path / "not" / "there", 1000)
    with pytest.raises(UsageError, match=r"GB free, 1000000000\.0 GB needed"):
        check_free_space(tmp_path / "not" / "there", 10**18)
