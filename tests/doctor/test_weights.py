"""Weight files are judged by their headers: what is missing, cut off or no weights is named, what is whole is not."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from senna.doctor.weights import read_weights


def problem(folder) -> str:
    [found] = read_weights(folder).problems
    assert found.remedy
    return found.says


def test_shards_that_are_whole_name_every_weight_and_its_shape(toy, model):
    held = read_weights(model)
    assert held.problems == []
    assert held.shapes == {name: tuple(w.shape) for name, w in load_file(toy.llm / "model.safetensors").items()}
    assert held.bytes == sum(file.stat().st_size for file in model.glob("*.safetensors"))


def test_each_missing_shard_is_named(model):
    names = sorted(file.name for file in model.glob("model-*.safetensors"))
    for name in names[1:3]:
        (model / name).unlink()
    assert [found.says.split()[1] for found in read_weights(model).problems] == names[1:3]


@pytest.mark.parametrize("left", [0, 4, 40, -1])
def test_a_safetensors_file_that_is_cut_off_anywhere_is_found(model, left):
    file = sorted(model.glob("model-*.safetensors"))[1]
    content = file.read_bytes()
    file.write_bytes(content[:left])
    assert problem(model).startswith(file.name)


def test_bytes_too_many_and_a_header_that_is_no_json_are_found(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(3)}, file)
    whole = file.read_bytes()
    file.write_bytes(whole + b"more")
    assert "damaged" in problem(tmp_path)
    file.write_bytes(whole[:9] + b"\xff" + whole[10:])
    assert "its header cannot be read" in problem(tmp_path)


def test_a_pointer_of_git_lfs_is_told_with_the_command_that_fetches_the_file(tmp_path):
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n")
    [found] = read_weights(tmp_path).problems
    assert "git-lfs" in found.says
    assert found.remedy == f"git lfs install && git -C {tmp_path} lfs pull"


def test_a_pickle_that_is_cut_off_is_found_and_a_whole_one_is_never_opened(tmp_path):
    file = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.zeros(1000)}, file)
    held = read_weights(tmp_path)
    assert (held.problems, held.complete) == ([], False)
    file.write_bytes(file.read_bytes()[:-50])
    assert "cut off" in problem(tmp_path)


def test_an_index_that_names_a_weight_which_no_shard_holds_is_found(model):
    path = model / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.extra"] = next(iter(index["weight_map"].values()))
    path.write_text(json.dumps(index))
    assert "model.extra" in problem(model)
    path.write_text("{}")
    assert "no index of shards" in problem(model)


def test_a_folder_without_weights_is_told(tmp_path):
    assert "no model.safetensors and no pytorch_model.bin" in problem(tmp_path)
