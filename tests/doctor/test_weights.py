"""Checks of weight files by their headers."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from senna.doctor.weights import read_weights


def problem(folder) -> str:
    [found] = read_weights(folder).problems
    assert found.remedy
    return found.message


def test_complete_shards_give_the_name_and_shape_of_every_weight(toy, model):
    found = read_weights(model)
    assert found.problems == []
    assert found.shapes == {name: tuple(w.shape) for name, w in load_file(toy.llm / "model.safetensors").items()}
    assert found.bytes == sum(file.stat().st_size for file in model.glob("*.safetensors"))


def test_each_missing_shard_is_reported(model):
    names = sorted(file.name for file in model.glob("model-*.safetensors"))
    for name in names[1:3]:
        (model / name).unlink()
    assert [found.message.split()[1] for found in read_weights(model).problems] == names[1:3]


@pytest.mark.parametrize("end", [0, 4, 40, -1])
def test_a_safetensors_file_that_is_cut_off_is_reported(model, end):
    file = sorted(model.glob("model-*.safetensors"))[1]
    content = file.read_bytes()
    file.write_bytes(content[:end])
    assert problem(model).startswith(file.name)


def test_extra_bytes_and_an_invalid_header_are_reported(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(3)}, file)
    content = file.read_bytes()
    file.write_bytes(content + b"more")
    assert "damaged" in problem(tmp_path)
    file.write_bytes(content[:9] + b"\xff" + content[10:])
    assert "its header cannot be read" in problem(tmp_path)


def test_a_git_lfs_pointer_is_reported_with_the_command_that_fetches_the_file(tmp_path):
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n")
    [found] = read_weights(tmp_path).problems
    assert "git-lfs" in found.message
    assert found.remedy == f"git lfs install && git -C {tmp_path} lfs pull"


def test_a_cut_off_pickle_is_reported_and_no_pickle_is_opened(tmp_path):
    file = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.zeros(1000)}, file)
    found = read_weights(tmp_path)
    assert (found.problems, found.complete) == ([], False)
    file.write_bytes(file.read_bytes()[:-50])
    assert "cut off" in problem(tmp_path)


def test_an_indexed_weight_that_no_shard_holds_is_reported(model):
    path = model / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.extra"] = next(iter(index["weight_map"].values()))
    path.write_text(json.dumps(index))
    assert "model.extra" in problem(model)
    path.write_text("{}")
    assert "not an index of shards" in problem(model)


def test_a_folder_without_weights_is_reported(tmp_path):
    assert "no model.safetensors and no pytorch_model.bin" in problem(tmp_path)
