"""Files and models are recognized by their contents, however their paths are written."""

import json
import os
import shutil

import pytest

from senna.contents import absolute, file_content, model_content


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(3 << 20))
    return folder


def test_a_copy_and_another_time_are_the_same_content(tmp_path, model):
    data = tmp_path / "a.jsonl"
    data.write_text("{}\n")
    before = file_content(data), model_content(model)
    for path in (data, model / "model.safetensors"):
        os.utime(path, (1, 1))
    copies = shutil.copy(data, tmp_path / "b.jsonl"), shutil.copytree(model, tmp_path / "n")
    assert (file_content(data), model_content(model)) == before
    assert (file_content(copies[0]), model_content(copies[1])) == before


def test_other_weights_of_the_same_size_and_time_are_another_model(model):
    path, before = model / "model.safetensors", model_content(model)
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(2_000_001)
        file.write(b"\1")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_mtime_ns == status.st_mtime_ns
    assert model_content(model) != before


def test_logs_and_notes_in_a_model_folder_do_not_make_it_another_model(model):
    before = model_content(model)
    for name in ("train.log", "nohup.out", "README.md", "train_log.jsonl", "run.json", "loss.png", ".senna.lock"):
        (model / name).write_text(name)
    (model / "checkpoint-3").mkdir()
    (model / "checkpoint-3" / "model.safetensors").write_text("")
    assert model_content(model) == before
    (model / "tokenizer.json").write_text("{}")
    assert model_content(model) != before


def test_a_lora_folder_is_another_one_if_its_base_has_changed(tmp_path, model):
    lora = tmp_path / "lora"
    lora.mkdir()
    (lora / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(model)}))
    before = model_content(lora)
    model.rename(tmp_path / "moved")
    assert model_content(lora, str(tmp_path / "moved")) == before
    (tmp_path / "moved" / "model.safetensors").write_bytes(b"\1" * (3 << 20))
    assert model_content(lora, str(tmp_path / "moved")) != before


def test_names_of_a_hub_have_no_content(tmp_path, model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert model_content("org/name") == file_content("nothing.jsonl") == ""
    assert absolute("org/name") == "org/name"
    (tmp_path / "link").symlink_to(model)
    assert {absolute(path) for path in ("m", "m/", "./m", model, "link")} == {str(model.resolve())}
