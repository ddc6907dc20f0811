"""A run never continues from a damaged checkpoint: it goes on from the newest intact one and names the other."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from senna.errors import UsageError
from senna.train import checkpoint
from senna.train.manifest import MANIFEST, damage, write_manifest


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty_folder(path):
    shutil.rmtree(path.parent)
    path.parent.mkdir()


DAMAGES = {
    "cut": cut,
    "flip": flip,
    "missing": lambda path: path.unlink(),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "empty": lambda path: path.write_bytes(b""),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "empty folder": empty_folder,
}
FILES = ["optimizer.pt", "scheduler.pt", "trained.safetensors", "trainer_state.json", "rng_state.pth", MANIFEST]


@pytest.fixture(scope="module")
def stopped(toy, tmp_path_factory):
    """The folder of a run whose checkpoints 4, 8 and 12 are there and whose final model is not."""
    folder = tmp_path_factory.mktemp("stopped") / "out"
    assert toy.train(folder, save_total_limit=5).returncode == 0
    for path in folder.iterdir():
        if path.is_file() and path.name != checkpoint.RUN_FILE:
            path.unlink()
    return folder


@pytest.fixture
def out(stopped, tmp_path):
    return shutil.copytree(stopped, tmp_path / "out")


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_every_damage_of_every_file_is_found_and_the_older_checkpoint_is_chosen(out, name, how):
    DAMAGES[how](out / "checkpoint-12" / name)
    chosen, damaged = checkpoint.newest_intact(out)
    assert chosen == out / "checkpoint-8"
    assert list(damaged) == [out / "checkpoint-12"]


@pytest.mark.parametrize("how", ["cut", "missing", "empty", "empty folder"])
@pytest.mark.parametrize("name", FILES[:-1])
def test_damage_is_found_in_checkpoints_that_have_no_manifest(out, name, how):
    for path in checkpoint.checkpoints(out):
        (path / MANIFEST).unlink()
    assert checkpoint.newest_intact(out) == (out / "checkpoint-12", {})
    DAMAGES[how](out / "checkpoint-12" / name)
    assert checkpoint.newest_intact(out)[0] == out / "checkpoint-8"


def test_a_run_goes_on_from_the_newest_intact_checkpoint_says_so_and_ends_with_the_same_weights(toy, out, finished):
    cut(out / "checkpoint-12" / "optimizer.pt")
    flip(out / "checkpoint-8" / "trained.safetensors")
    result = toy.train(out, save_total_limit=1)
    assert result.returncode == 0, result.stderr
    assert f"continue {out / 'checkpoint-4'}" in result.stdout
    assert "optimizer.pt has" in result.stdout
    assert "trained.safetensors has changed" in result.stdout
    names = {path.name for path in out.glob("checkpoint-*")}
    assert names == {"checkpoint-12", "checkpoint-12-damaged", "checkpoint-8-damaged"}
    actual, expected = (load_file(folder / "model.safetensors") for folder in (out, finished[0]))
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


def test_a_run_whose_checkpoints_are_all_damaged_ends_with_code_two_and_deletes_nothing(toy, out):
    for path in checkpoint.checkpoints(out):
        (path / "scheduler.pt").unlink()
    before = sorted(out.rglob("*"))
    result = toy.train(out)
    assert result.returncode == 2
    assert "checkpoint-4: scheduler.pt is missing" in result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(out.rglob("*")) == before


def test_pruning_keeps_the_last_checkpoint_that_matches_its_manifest(out):
    cut(out / "checkpoint-12" / "optimizer.pt")
    checkpoint.prune(out, 1)
    assert [path.name for path in checkpoint.checkpoints(out)] == ["checkpoint-8", "checkpoint-12"]


def test_files_in_subfolders_are_part_of_the_manifest(tmp_path):
    part = tmp_path / "checkpoint-4" / "global_step4" / "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(1000))
    write_manifest(tmp_path / "checkpoint-4")
    assert damage(tmp_path / "checkpoint-4") is None
    flip(part)
    assert damage(tmp_path / "checkpoint-4", read_everything=False) is None
    assert "global_step4" in (damage(tmp_path / "checkpoint-4") or "")
    shutil.rmtree(part.parent)
    with pytest.raises(UsageError, match="is missing"):
        checkpoint.newest_intact(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"files": {}}', '{"files": {"a": 1}}', '{"files": []}', "null"])
def test_a_damaged_manifest_is_damage(tmp_path, text):
    (tmp_path / MANIFEST).write_text(text)
    assert damage(tmp_path) is not None
    assert json.dumps(damage(tmp_path))
